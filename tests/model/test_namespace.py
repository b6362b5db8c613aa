"""Whatever clients ask of the NameNode, and however often a request arrives: it answers as a plain file system would.

The commands go to the machine one transaction each, and to the oracle in `tests.model.posix`. After each, errors are
equal by class, and all that can be asked of the namespace is equal: listings with attributes, files byte for byte,
chunks with their nodes, totals. The NameNode's own check finds nothing, at any time.
"""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dfs import errors
from dfs.types import Attr, SessionId
from nodes.namenode.machine import Command
from tests.model.posix import EXCHANGE, NOREPLACE, FileSystem, Inode, Source
from tests.unit.namenode.world import NODES, START_NS, Namespace

NAMES = st.sampled_from([b"a", b"b", b"c"])
PICKS = st.integers(0, 15)
MISFIT = 14
"""Which of the things there are, modulo their number; the highest are mostly something that does not fit."""
MODES = st.integers(0, 0o7777)
OWNERS = st.integers(0, 3)
SESSIONS = st.integers(0, 2)
TWO_FLAGS = st.tuples(st.booleans(), st.booleans())
SIZES = st.integers(0, 120)
LENGTHS = st.integers(1, 40)
MKNOD_TYPES = st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG])
XATTRS = st.sampled_from([b"user.a", b"user.b"])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "mode": MODES,
        "uid": OWNERS,
        "gid": OWNERS,
        "atime_ns": st.one_of(st.just("now"), st.integers(-5, 5)),
        "mtime_ns": st.one_of(st.just("now"), st.integers(-5, 5)),
        "replicas": st.integers(0, 4),
    },
)
FORGOTTEN_AFTER = 64
"""Replies are forgotten when so many more are acknowledged."""


class NamespaceMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dfs-namespace-"))
        self.space = Namespace(self.directory)
        self.space.store.writing.execute("PRAGMA synchronous = OFF")  # no power cut in this test
        self.space.configure()
        self.space.register(*NODES)
        root = self.space.queries.getattr(1)
        times = root.atime_ns, root.mtime_ns, root.ctime_ns
        inode = Inode(1, root.mode, 2, root.uid, root.gid, 0, *times, parent=1)
        self.model = FileSystem(inode, replicas=3, min_replicas=2)
        self.now_ns = START_NS
        self.next_seq: dict[int, int] = {}
        self.acked: dict[int, int] = {}
        self.history: list[tuple[Command, Any]] = []
        self.cookies: dict[int, int] = {}
        self.highest: dict[int, int] = {}
        self.seen: dict[int, Attr] = {}
        self.sessions = [0, 0, 0]
        for which in range(3):
            self.renew_session(which)
        self.plant()

    def plant(self) -> None:
        """A few things to begin with: a tree three deep, a file with two names, one with data, one that is held."""
        session = self.sessions[0]
        outer = self.run(session, "mkdir", 1, b"a", 0o755, 0, 0)[0]
        inner = self.run(session, "mkdir", outer, b"b", 0o2755, 0, 2)[0]
        file = self.run(session, "create", outer, b"c", 0o644, 1, 1)[0]
        self.run(session, "link", file, 1, b"b")
        self.run(session, "create", inner, b"a", 0o4755, 1, 1, True, True)
        self.run(session, "setxattr", file, b"user.a", b"x")
        self.run(session, "allocate_chunks", 3, [list(NODES)])
        self.run(session, "commit", file, [[0, 20, 1, 0], [30, 20, 1, 20]], [[1, 40, list(NODES)]])

    def teardown(self) -> None:
        if hasattr(self, "space"):
            self.space.store.close()
            shutil.rmtree(self.directory)

    # --- both ends --------------------------------------------------------------------------------------

    def run(self, session: int, verb: str, *args: Any, gap: int = 1, acked: int = 0) -> Any:
        """One command to both. The NameNode's result, or None after an error."""
        self.now_ns += 1000
        seq = self.next_seq.get(session, 0) + gap
        command = Command(SessionId(session), seq, acked, verb, args, self.now_ns)
        self.model.session, self.model.now_ns = session, self.now_ns
        failure: errors.DfsError | None = None
        try:
            expected = self.model.attempt(verb, *args)
        except errors.DfsError as error:
            failure = error
            before = self.space.dump()
        reply = self.space.transact(command)[0]
        if session in self.model.state.sessions:
            self.next_seq[session] = seq
            self.history.append((command, reply))
            if acked >= self.acked.get(session, 0) + FORGOTTEN_AFTER:
                self.acked[session] = acked
        if failure is not None:
            assert reply[0] == failure.errno, (verb, args, reply, failure)
            assert reply[1] == failure.code, (verb, args, reply, failure)
            assert self.space.dump() == before
            return None
        assert reply[0] == 0, (verb, args, reply)
        self.compare_result(reply[1], expected)
        return reply[1]

    def compare_result(self, result: Any, expected: Any) -> None:
        if isinstance(expected, Inode):
            compare_attr(Attr._make(result), expected)
        elif isinstance(expected, tuple):
            compare_attr(Attr._make(result[0]), expected[0])
            assert result[1] == expected[1]
        elif expected is not None:
            assert result == expected

    def pick_directory(self, pick: int) -> int:
        """A directory; for some, any number that was ever given."""
        directories = sorted(ino for ino, inode in self.model.state.inodes.items() if inode.is_directory)
        return self.pick_any(pick) if pick > MISFIT else directories[pick % len(directories)]

    def pick_any(self, pick: int) -> int:
        return 1 + pick % self.model.state.next_ino

    def pick_file(self, pick: int) -> int:
        files = sorted(ino for ino, inode in self.model.state.inodes.items() if stat.S_ISREG(inode.mode))
        return self.pick_any(pick) if pick > MISFIT or not files else files[pick % len(files)]

    def pick_entry(self, pick: int, name: bytes) -> tuple[int, bytes]:
        """A directory and a name in it; for some, or where there is none yet, whatever is asked for."""
        state = self.model.state
        found = sorted((ino, entry) for ino, inode in state.inodes.items() for entry in inode.entries)
        return found[pick % len(found)] if pick < MISFIT and found else (self.pick_directory(pick), name)

    # --- sessions ---------------------------------------------------------------------------------------

    def renew_session(self, which: int) -> None:
        session = self.space.open_session()
        self.model.open_session(session)
        self.sessions[which] = session

    @rule(which=SESSIONS, renew=st.sampled_from([True, True, False]))
    def end_session(self, which: int, renew: bool) -> None:
        self.now_ns += 1000
        self.model.session, self.model.now_ns = 0, self.now_ns
        self.model.end_session(self.sessions[which])
        has_more = True
        while has_more:
            command = Command(SessionId(0), 0, 0, "end_session", [self.sessions[which]], self.now_ns)
            (error, has_more, *_), *_ = self.space.transact(command)
            assert not error
        if renew or not self.model.state.sessions:
            self.renew_session(which)

    @precondition(lambda self: self.history)
    @rule(pick=PICKS)
    def a_request_arrives_again(self, pick: int) -> None:
        self.deliver_again(*self.history[-1 - pick % len(self.history)])

    def deliver_again(self, command: Command, reply: Any) -> None:
        """It is answered as before, or refused where its answer is known to have arrived."""
        before = self.space.dump()
        again = self.space.transact(command)[0]
        if command.session not in self.model.state.sessions:
            assert again[1] == "SessionExpired"
        elif command.seq < self.acked.get(command.session, 0):
            assert again[1] == "InvalidArgument"
        else:
            assert plain(again) == plain(reply)
        assert self.space.dump() == before

    @rule(which=SESSIONS, gap=st.sampled_from([200, 1]))
    def acknowledge(self, which: int, gap: int) -> None:
        session = self.sessions[which]
        self.run(session, "setattr", 1, {}, gap=gap, acked=self.next_seq.get(session, 0))
        for oldest in [each for each in self.history if each[0].session == session][:1]:
            self.deliver_again(*oldest)

    # --- names ------------------------------------------------------------------------------------------

    @rule(which=SESSIONS, pick=PICKS, name=NAMES, mode=MODES, owner=OWNERS, flags=TWO_FLAGS)
    def create(self, which: int, pick: int, name: bytes, mode: int, owner: int, flags: tuple[bool, bool]) -> None:
        self.run(self.sessions[which], "create", self.pick_directory(pick), name, mode, owner, owner, *flags)

    @rule(which=SESSIONS, pick=PICKS, mode=MODES)
    def create_unnamed(self, which: int, pick: int, mode: int) -> None:
        self.run(self.sessions[which], "create_unnamed", self.pick_directory(pick), mode, 1, 2)

    @rule(which=SESSIONS, pick=PICKS, name=NAMES, mode=MODES)
    def mkdir(self, which: int, pick: int, name: bytes, mode: int) -> None:
        self.run(self.sessions[which], "mkdir", self.pick_directory(pick), name, mode, 0, 0)

    @rule(pick=PICKS, name=NAMES, kind=MKNOD_TYPES)
    def mknod(self, pick: int, name: bytes, kind: int) -> None:
        self.run(self.sessions[0], "mknod", self.pick_directory(pick), name, kind | 0o600, 0, 0, 259)

    @rule(pick=PICKS, name=NAMES, path=st.binary(min_size=1, max_size=9).filter(lambda text: b"\0" not in text))
    def symlink(self, pick: int, name: bytes, path: bytes) -> None:
        self.run(self.sessions[0], "symlink", self.pick_directory(pick), name, path, 0, 0)

    @rule(which=SESSIONS, file=PICKS, pick=PICKS, name=NAMES, replace=st.booleans())
    def link(self, which: int, file: int, pick: int, name: bytes, replace: bool) -> None:
        self.run(self.sessions[which], "link", self.pick_file(file), self.pick_directory(pick), name, replace)

    @rule(which=SESSIONS, pick=PICKS, name=NAMES, verb=st.sampled_from(["unlink", "rmdir"]))
    def remove(self, which: int, pick: int, name: bytes, verb: str) -> None:
        self.run(self.sessions[which], verb, *self.pick_entry(pick, name))

    @rule(old=PICKS, new=PICKS, names=st.tuples(NAMES, NAMES), flags=st.sampled_from([0, NOREPLACE]))
    def rename(self, old: int, new: int, names: tuple[bytes, bytes], flags: int) -> None:
        target = (self.pick_directory(new), names[1])
        self.run(self.sessions[0], "rename", *self.pick_entry(old, names[0]), *target, flags)

    @rule(old=PICKS, new=PICKS, name=NAMES, flags=st.sampled_from([EXCHANGE, 0]))
    def rename_onto_what_is_there(self, old: int, new: int, name: bytes, flags: int) -> None:
        self.run(self.sessions[0], "rename", *self.pick_entry(old, name), *self.pick_entry(new, name), flags)

    # --- attributes and holds ---------------------------------------------------------------------------

    @rule(pick=PICKS, changes=CHANGES)
    def setattr(self, pick: int, changes: dict[str, Any]) -> None:
        self.run(self.sessions[0], "setattr", self.pick_any(pick), changes)

    @rule(picks=st.lists(st.tuples(PICKS, st.integers(-3, 3)), max_size=3))
    def accessed(self, picks: list[tuple[int, int]]) -> None:
        times = [(self.pick_any(pick), self.space.now_ns + later) for pick, later in picks]
        self.run(self.sessions[0], "accessed", times)

    @rule(pick=PICKS, name=XATTRS, value=st.binary(max_size=4), flags=st.integers(0, 2))
    def setxattr(self, pick: int, name: bytes, value: bytes, flags: int) -> None:
        self.run(self.sessions[0], "setxattr", self.pick_any(pick // 3), name, value, flags)

    @rule(pick=PICKS, name=XATTRS)
    def removexattr(self, pick: int, name: bytes) -> None:
        self.run(self.sessions[0], "removexattr", self.pick_any(pick // 3), name)

    @rule(which=SESSIONS, pick=PICKS, verb=st.sampled_from(["hold", "release"]))
    def hold_or_release(self, which: int, pick: int, verb: str) -> None:
        self.run(self.sessions[which], verb, self.pick_any(pick))

    # --- data -------------------------------------------------------------------------------------------

    @rule(which=SESSIONS, pick=PICKS, size=SIZES)
    def truncate(self, which: int, pick: int, size: int) -> None:
        self.run(self.sessions[which], "truncate", self.pick_file(pick), size)

    @rule(which=SESSIONS, nodes=st.sets(st.sampled_from(NODES), min_size=1))
    def allocate(self, which: int, nodes: set[str]) -> None:
        self.run(self.sessions[which], "allocate_chunks", len(nodes), [sorted(nodes)])

    def pick_chunk(self, session: int, pick: int) -> int:
        """One that is open in the session; for some, any number."""
        mine = sorted(number for number, chunk in self.model.state.chunks.items() if chunk.session == session)
        if pick >= MISFIT:
            return 1 + pick * 5 % self.model.state.next_chunk
        if not mine:
            self.run(session, "allocate_chunks", 3, [list(NODES)])
            mine = [self.model.state.next_chunk - 1]
        return mine[pick % len(mine)]

    @rule(
        which=SESSIONS,
        picks=st.tuples(PICKS, PICKS),
        pieces=st.lists(st.tuples(SIZES, LENGTHS), min_size=1, max_size=4),
        append=st.booleans(),
        skipped=st.sampled_from([0, 3]),
        left_out=st.sampled_from([(), (), (), ("n3",), ("n1",), ("n1", "n2")]),
    )
    def commit(
        self,
        which: int,
        picks: tuple[int, int],
        pieces: Sequence[tuple[int, int]],
        append: bool,
        skipped: int,
        left_out: Sequence[str],
    ) -> None:
        """Pieces, next to each other in a chunk, become parts of a file, perhaps with a gap before them."""
        session = self.sessions[which]
        if session not in self.model.state.sessions:
            return
        number = self.pick_chunk(session, picks[1])
        chunk = self.model.state.chunks.get(number)
        position = max(0, (chunk.length if chunk else 0) + skipped)
        extents = []
        for offset, length in pieces:
            extents.append([offset, length, number, position])
            position += length
        nodes = [node for node in NODES if node not in left_out]
        self.run(session, "commit", self.pick_file(picks[0]), extents, [[number, position, nodes]], append)

    @rule(picks=st.tuples(PICKS, PICKS), start=st.integers(0, 60))
    def commit_bytes_that_were_given(self, picks: tuple[int, int], start: int) -> None:
        """The first piece is good, the second one of bytes that are or were a file's: nothing comes of either."""
        given = [(number, chunk) for number, chunk in self.model.state.chunks.items() if chunk.session and chunk.used]
        if given:
            number, chunk = given[picks[1] % len(given)]
            used = sorted(chunk.used)[start % len(chunk.used)]
            extents = [[0, 10, number, chunk.length], [20, 2, number, used]]
            known = [number, chunk.length + 10, list(NODES)]
            self.run(chunk.session, "commit", self.pick_file(picks[0]), extents, [known])

    @rule(which=SESSIONS, picks=st.lists(PICKS, max_size=3))
    def seal(self, which: int, picks: Sequence[int]) -> None:
        known = self.model.state.next_chunk
        self.run(self.sessions[which], "seal", [1 + pick % known for pick in picks])

    # --- what must hold ---------------------------------------------------------------------------------

    @invariant()
    def all_is_equal(self) -> None:
        if not hasattr(self, "model"):
            return
        state = self.model.state
        assert self.space.rows("SELECT ino FROM inode ORDER BY ino") == sorted(state.inodes)
        for inode in state.inodes.values():
            self.compare_inode(inode)
        self.compare_chunks()
        self.compare_totals()

    @invariant()
    def the_check_finds_nothing(self) -> None:
        if hasattr(self, "model"):
            assert self.space.findings() == []

    def compare_inode(self, inode: Inode) -> None:
        attr = self.space.queries.getattr(inode.ino)
        compare_attr(attr, inode)
        last = self.seen.get(inode.ino, attr)
        assert attr == last or attr.version > last.version
        assert attr.btime_ns == last.btime_ns
        self.seen[inode.ino] = attr
        names = self.space.queries.listxattr(inode.ino)
        assert {name: self.space.queries.getxattr(inode.ino, name) for name in names} == inode.xattrs
        holds = self.space.rows("SELECT session, count FROM hold WHERE ino = ?", inode.ino)
        assert dict(holds) == inode.holds
        if inode.target is not None:
            assert self.space.queries.readlink(inode.ino) == inode.target
        if inode.is_directory:
            self.compare_listing(inode)
        elif stat.S_ISREG(inode.mode):
            assert self.sources(inode.ino) == inode.data

    def compare_listing(self, inode: Inode) -> None:
        """The order is that of arrival; an entry's cookie stays, a new one's is higher than any before."""
        listed: list[tuple[int, bytes, Attr]] = []
        while page := self.space.queries.readdir(inode.ino, listed[-1][0] if listed else 0, 2):
            listed += page
        known = [(name, ino) for name, (ino, _) in inode.entries.items()]
        assert [(name, attr.ino) for _, name, attr in listed] == known
        for (cookie, _, attr), (ino, serial) in zip(listed, inode.entries.values(), strict=True):
            compare_attr(attr, self.model.state.inodes[ino])
            if serial not in self.cookies:
                assert cookie > self.highest.get(inode.ino, 0)
                self.highest[inode.ino] = cookie
            assert self.cookies.setdefault(serial, cookie) == cookie
        if inode.nlink:
            assert self.space.queries.parent(inode.ino).ino == inode.parent

    def sources(self, ino: int) -> list[Source]:
        """Where each byte of a file comes from, as its extents say."""
        attr, extents, places = self.space.queries.extents(ino, 0, 10_000)
        found: list[Source] = [None] * attr.size
        for offset, length, chunk, chunk_offset in extents:
            assert found[offset : offset + length] == [None] * length
            found[offset : offset + length] = [(chunk, chunk_offset + step) for step in range(length)]
        for chunk, length, nodes in places:
            known = self.model.state.chunks[chunk]
            assert (length, set(nodes)) == (known.length, known.nodes)
        return found

    def compare_chunks(self) -> None:
        found = {row[0]: (row[1], row[2], set(row[3])) for row in self.space.queries.chunks(0, 4096)}
        known = self.model.state.chunks
        assert found == {number: (chunk.length, chunk.session, chunk.nodes) for number, chunk in known.items()}
        pointed = [source for inode in self.model.state.inodes.values() for source in inode.data if source]
        for number, chunk in known.items():
            live = {position for other, position in pointed if other == number}
            freed = self.space.rows("SELECT offset, length FROM trim WHERE chunk = ?", number)
            used = chunk.used if chunk.session else set(range(chunk.length))
            assert {offset + step for offset, length in freed for step in range(length)} == used - live

    def compare_totals(self) -> None:
        inodes = self.model.state.inodes.values()
        totals = self.space.store.counters()
        assert totals["inodes"] == len(inodes)
        assert totals["directories"] == sum(inode.is_directory for inode in inodes)
        assert totals["files"] == sum(stat.S_ISREG(inode.mode) for inode in inodes)
        assert totals["allocated"] == sum(inode.allocated for inode in inodes)
        assert totals["next_ino"] == self.model.state.next_ino


def compare_attr(attr: Attr, inode: Inode) -> None:
    for field in Attr._fields:
        if field not in ("btime_ns", "version"):
            assert getattr(attr, field) == getattr(inode, field), (field, attr, inode)


def plain(value: Any) -> Any:
    """A reply as the wire has it, on which tuples are lists."""
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


NamespaceMachine.TestCase.settings = settings(
    max_examples=80,
    stateful_step_count=35,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
TestNamespace = NamespaceMachine.TestCase
