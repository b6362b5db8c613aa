"""`dfs fsck`: does what the NameNode believes agree with itself, and with the DataNodes? And what can be mended?

The NameNode has SQLite check the file of its database. While that is damaged nothing else is checked or mended, but
for indexes, which are made anew. Then it checks its own tables slice by slice (`nodes.namenode.check`). Then the
chunks of each slice of numbers are listed by the NameNode and by all DataNodes that are up, and compared: what is
looked at is never held whole. Where they seem to disagree both are asked once more, as chunks come and go while this
runs: a copy counts as missing only if its node had not got it both times and the NameNode counted on it both times,
and likewise a stray.

Chunks with fewer copies than they are to have are found by the NameNode, which knows what counts and what repair does.

With a path only what is beneath it is looked at, file by file. With `data` every byte of every file is read from every
copy. A node that does not answer is a finding, and no more is asked of it: its copies are not taken for damaged ones.

Mending is a command for each finding (exactly once, and it looks again before it changes anything). What would lose
data is never mended: of a chunk without a whole copy nothing is dropped, its finding says which files it concerns.
Damaged copies are mended by their DataNodes, which know of the damage as soon as it is read.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dfs import errors, limits, tasks
from dfs.client.copies import NOT_THERE, ChunkFacts, Damage, Held, Survey, is_up
from dfs.client.inodes import Inodes, Layout
from dfs.client.paths import show
from dfs.client.session import Session
from dfs.types import (
    COPIES_COMING,
    NAMENODE_OBJECT,
    ROOT_INO,
    Attr,
    ChunkId,
    ChunkPlace,
    DirEntry,
    Ino,
    NodeId,
    NodeView,
)

_LISTED_MAX = 262_144  # chunks of one slice on all nodes together: some ten MiB
_SLICE_MIN = 64
_LOOKS_AGAIN = ("mend_inode", "mend_entry", "mend_chunk", "mend_rows", "mend_counter")
"""Commands that find nothing to do only where nothing is wrong any more."""
_REMOVED: Final = frozenset({"chunk-unused", "stray", "entry-dangling"})
"""Kinds of findings of what nothing refers to: they are mended by removing it."""

_NEVER_GIVEN: Final = (
    "bring back the state_dir that gave it, if there is one; else `dfs fsck --repair` makes a file of it in /lost+found"
)


class Finding(NamedTuple):
    """What is wrong, what to do about it, and what was done; `str` is a sentence of these."""

    kind: str
    what: str
    remedy: str
    mend: Sequence[Any] | None = None
    done: str = ""

    @property
    def is_coming(self) -> bool:
        """It is seen to: the cluster makes copies that are missing, and nobody has to do anything."""
        return self.kind == COPIES_COMING

    def __str__(self) -> str:
        return f"{self.what}: {self.done or self.remedy}."


class _File(NamedTuple):
    ino: Ino
    size: int
    path: bytes


class Fsck:
    """One check. Use `cluster` or `beneath`, once."""

    def __init__(self, session: Session, inodes: Inodes, survey: Survey, *, repair: bool, data: bool) -> None:
        self._session = session
        self._inodes = inodes
        self._survey = survey
        self._repair = repair
        self._data = data
        self._nodes: dict[NodeId, NodeView] = {}
        self._is_distrusted = False

    async def cluster(self) -> AsyncIterator[Finding]:
        """Everything."""
        of_file = await self._look_at_file()
        for finding in of_file:
            yield finding
        if not all(finding.done for finding in of_file):
            return
        cursor = None
        while True:
            wire, cursor = await self._session.query("check", cursor)
            for finding in await self._settled(_from_wire(wire)):
                yield finding
            if cursor is None:
                break
        for finding in await self._settled(_from_wire(await self._at_length("check_totals"))):
            yield finding
        async for finding in self._look_at_nodes():
            yield finding
        async for finding in self._all_chunks():
            yield finding
        if self._data:
            root = await self._inodes.getattr(ROOT_INO)
            async for finding in self._walk(root, b"", tables=False):
                yield finding

    async def beneath(self, attr: Attr, path: bytes) -> AsyncIterator[Finding]:
        """What is at `path`, and all beneath it."""
        of_file = await self._look_at_file() if self._repair else []
        for finding in of_file:
            yield finding
        if not all(finding.done for finding in of_file):
            return
        async for finding in self._look_at_nodes():
            yield finding
        async for finding in self._walk(attr, path.rstrip(b"/"), tables=True):
            yield finding

    async def _look_at_file(self) -> list[Finding]:
        """The NameNode's database as a file. What is damaged there and not mended may make anything else look wrong."""
        found = await self._settled(_from_wire(await self._at_length("check_file")))
        self._is_distrusted = bool(found)
        return found

    async def _at_length(self, method: str) -> Any:
        session = self._session
        return await session.pool.call(
            session.address, NAMENODE_OBJECT, method, timeout_s=limits.CHECK_TOTALS_TIMEOUT_S
        )

    # --- mending ----------------------------------------------------------------------------------------

    async def _settled(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings, mended where that is wanted and can be done; what mends several is done once."""
        answers: dict[str, tuple[str, str]] = {}
        settled = []
        withheld = {repr(each.mend) for each in findings if self._is_distrusted and each.kind in _REMOVED}
        for finding in findings:
            if finding.mend is None or not self._repair:
                settled.append(finding)
                continue
            if repr(finding.mend) in withheld:
                remedy = (
                    "the NameNode's tables were damaged: make sure that its files are not missing, and repair again"
                )
                settled.append(finding._replace(remedy=remedy))
                continue
            key = repr(finding.mend)
            if key not in answers:
                answers[key] = await self._mend(finding)
            remedy, done = answers[key]
            settled.append(finding._replace(remedy=remedy or "it could not be mended", done=done))
        return settled

    async def _mend(self, finding: Finding) -> tuple[str, str]:
        """What is to be done still, or what was done."""
        assert finding.mend is not None
        verb, *args = finding.mend
        try:
            done = await self._session.apply(verb, *args)
        except (errors.NotADirectory, errors.NotFound, errors.NoSpace, errors.Corrupt) as error:
            return error.message, ""
        if not done and verb not in _LOOKS_AGAIN:
            return "it was left as it is, since something changed meanwhile: check again", ""
        return "", "; ".join(done) or "no longer so"

    # --- DataNodes --------------------------------------------------------------------------------------

    async def _look_at_nodes(self) -> AsyncIterator[Finding]:
        self._nodes = await self._survey.views()
        for node, view in self._nodes.items():
            if not is_up(view):
                what = f"DataNode {node} is {view.state}, and its copies could not be checked"
                yield Finding("node-away", what, "start it, or look into its log if it runs, and check again")

    def _up(self) -> list[NodeId]:
        return [node for node, view in self._nodes.items() if is_up(view)]

    async def _all_chunks(self) -> AsyncIterator[Finding]:
        after = 0
        size = min(limits.REPORT_SLICE_CHUNKS, max(_SLICE_MIN, _LISTED_MAX // max(1, len(self._nodes))))
        while True:
            believed = await self._session.query("chunks", after, size)
            last = believed[-1][0] if len(believed) == size else None
            held: dict[NodeId, dict[ChunkId, int]] = {}
            for finding in await self._list(after, last, size, held):
                yield finding
            odd = sorted(disagreeing(believed, held))
            for start in range(0, len(odd), limits.EXPLAIN_MAX_CHUNKS):
                chunks = odd[start : start + limits.EXPLAIN_MAX_CHUNKS]
                for finding in await self._look_again(chunks, held):
                    yield finding
            if last is None:
                return
            after = last

    async def _list(
        self, after: int, last: int | None, size: int, held: dict[NodeId, dict[ChunkId, int]]
    ) -> list[Finding]:
        """Enter into `held` what each node has of a slice of numbers. A node that fails is not asked again."""
        failed: list[Finding] = []

        async def ask(node: NodeId) -> None:
            try:
                held[node] = await self._survey.listed(node, after, last, size)
            except errors.DfsError as error:
                failed.append(self._gave_up(node, "its chunks", error))

        async with tasks.open_nursery() as nursery:
            for node in self._up():
                nursery.start_soon(ask, node)
        return failed

    def _gave_up(self, node: NodeId, what: str, error: errors.DfsError) -> Finding:
        """A node that failed is asked no more. That says nothing of its copies."""
        del self._nodes[node]
        return Finding(
            "node-away",
            f"DataNode {node} could not be asked for {what} ({error})",
            "look into its log, and check again",
        )

    async def _look_again(self, chunks: Sequence[ChunkId], before: Held) -> list[Finding]:
        """What is wrong with chunks that seemed to be: ask the NameNode, then the nodes, once more."""
        facts = await self._survey.facts(chunks)
        now = await self._survey.held(chunks, list(before))
        findings: list[Finding] = []
        for each in facts:
            findings += compare(each, _of(each.chunk, before), _of(each.chunk, now), self._nodes)
        return await self._settled(findings)

    # --- what is beneath a path -------------------------------------------------------------------------

    async def _walk(self, top: Attr, path: bytes, *, tables: bool) -> AsyncIterator[Finding]:
        """All files beneath: their rows if `tables`, and the copies of their chunks."""
        chunks_seen: set[ChunkId] = set()
        async for page in self._pages(top, path):
            if tables:
                for start in range(0, len(page), limits.CHECK_MAX_ITEMS):
                    inos = [attr.ino for attr, _ in page[start : start + limits.CHECK_MAX_ITEMS]]
                    for finding in await self._settled(_from_wire(await self._session.query("check_inodes", inos))):
                        yield finding
            for attr, name in page:
                if stat.S_ISREG(attr.mode) and attr.allocated:
                    async for finding in self._file(_File(attr.ino, attr.size, name), chunks_seen, tables):
                        yield finding

    async def _pages(self, top: Attr, path: bytes) -> AsyncIterator[list[tuple[Attr, bytes]]]:
        """Inodes beneath with their paths, a page of a directory at a time. Files with several names come once."""
        yield [(top, path or b"/")]
        pending = [(top.ino, path)] if stat.S_ISDIR(top.mode) else []
        linked: set[Ino] = set()
        while pending:
            ino, directory = pending.pop()
            after = 0
            while entries := await self._readdir(ino, after):
                after = entries[-1].cookie
                page = [(each.attr, directory + b"/" + each.name) for each in entries if each.attr.ino not in linked]
                linked |= {attr.ino for attr, _ in page if attr.nlink > 1 and not stat.S_ISDIR(attr.mode)}
                pending += [(attr.ino, name) for attr, name in page if stat.S_ISDIR(attr.mode)]
                yield page

    async def _readdir(self, ino: Ino, after: int) -> list[DirEntry]:
        try:
            return await self._inodes.readdir(ino, after)
        except errors.NotFound:
            return []  # removed meanwhile

    async def _file(self, file: _File, seen: set[ChunkId], tables: bool) -> AsyncIterator[Finding]:
        try:
            layouts = await self._survey.layouts(file.ino, file.size)
        except errors.NotFound:
            return
        for layout in layouts:
            new = sorted(chunk for chunk in layout.places if chunk not in seen)
            seen.update(new)
            for start in range(0, len(new) if tables else 0, limits.EXPLAIN_MAX_CHUNKS):
                chunks = new[start : start + limits.EXPLAIN_MAX_CHUNKS]
                for finding in await self._settled(_from_wire(await self._session.query("check_chunks", chunks))):
                    yield finding
                before = await self._survey.held(chunks, self._up())
                odd = [chunk for chunk in chunks if self._is_odd(layout.places[chunk], before)]
                for finding in await self._look_again(odd, before) if odd else ():
                    yield finding
            if self._data:
                async for finding in self._read(file, layout):
                    yield finding

    @staticmethod
    def _is_odd(place: ChunkPlace, held: Held) -> bool:
        there = {node: lengths for node, lengths in held.items() if lengths[place.chunk] != NOT_THERE}
        lacking = any(
            held[node][place.chunk] < place.length for node in place.nodes if node in held
        ) or not there.keys() & set(place.nodes)
        return lacking or bool(there.keys() - set(place.nodes))

    async def _read(self, file: _File, layout: Layout) -> AsyncIterator[Finding]:
        """Every byte from every copy. The DataNodes see what is damaged, and say so to the NameNode themselves."""
        told: set[tuple[ChunkId, NodeId]] = set()
        shown = show(file.path)
        up = self._up()
        reading = await self._survey.read(file.ino, layout, up)
        bad = {(damage.chunk, damage.node) for damage in reading.damages}
        for node, error in reading.silent.items():
            yield self._gave_up(node, f"bytes of {shown}", error)
        for damage in reading.damages:
            if (damage.chunk, damage.node) in told:
                continue
            told.add((damage.chunk, damage.node))
            asked = [node for node in layout.places[damage.chunk].nodes if node in up and node not in reading.silent]
            is_whole_elsewhere = any((damage.chunk, node) not in bad for node in asked)
            for finding in await self._settled([self._damaged(damage, shown, is_whole_elsewhere)]):
                yield await self._replaced(finding, damage.chunk, damage.node)

    def _damaged(self, damage: Damage, shown: str, is_whole_elsewhere: bool) -> Finding:
        """What is to be said, and done, of bytes of the file `shown`; whether some copy gave all that were read."""
        what = (
            f"The copy of chunk {damage.chunk:x} on {damage.node} does not give the bytes of {shown} at"
            f" {damage.offset} ({damage.error.message})"
        )
        if not damage.others:
            remedy = f"restore {shown}, or start the DataNodes that have other copies of it"
            return Finding("copy-damaged", what, remedy)
        if isinstance(damage.error, errors.Corrupt):
            remedy = "its other copies serve reads, and it is mended from them"
            return Finding("copy-damaged", what, remedy, done=remedy if self._repair else "")
        if not is_whole_elsewhere:  # nothing is dropped of what the others may lack
            remedy = "its other copies serve reads, and they are mended from one another"
            return Finding("copy-damaged", what, remedy)
        remedy = "its other copies serve reads, and another is made"
        return Finding("copy-damaged", what, remedy, ["mend_copy", damage.chunk, damage.node])

    async def _replaced(self, finding: Finding, chunk: ChunkId, node: NodeId) -> Finding:
        """A damaged copy is dropped by its DataNode's own report, if that is first."""
        if not self._repair or finding.done or finding.mend is None:
            return finding
        (facts,) = await self._survey.facts([chunk])
        return finding._replace(done="dropped, and a new copy is made") if node not in facts.holders else finding


def _from_wire(wire: Iterable[Sequence[Any]]) -> list[Finding]:
    return [Finding(*each[:4]) for each in wire]


def _of(chunk: ChunkId, held: Held) -> dict[NodeId, int]:
    return {node: lengths.get(chunk, NOT_THERE) for node, lengths in held.items()}


# --- comparing ------------------------------------------------------------------------------------------


def disagreeing(believed: Iterable[Sequence[Any]], held: Held) -> set[ChunkId]:
    """Chunks [chunk, length, session, holders] that nodes have less of than they should, or more nodes than should.

    `held` has the chunks that are there only. What is not known to the NameNode at all is among them.
    """
    found: set[ChunkId] = set()
    known: dict[ChunkId, Collection[NodeId]] = {}
    for chunk, length, _session, holders in believed:
        known[chunk] = holders
        whole = [node for node in holders if node in held and held[node].get(chunk, NOT_THERE) >= length]
        if length and (not whole or any(node in held and node not in whole for node in holders)):
            found.add(chunk)
    for node, lengths in held.items():
        found |= {chunk for chunk in lengths if node not in known.get(chunk, ())}
    return found


def compare(
    facts: ChunkFacts, before: Mapping[NodeId, int], now: Mapping[NodeId, int], nodes: Mapping[NodeId, NodeView]
) -> Iterator[Finding]:
    """What is wrong with the copies of a chunk. `before` and `now` are what nodes had of it, before `facts` and after.

    Nodes that did not answer are in neither; `nodes` says why.
    """
    has = {node: max(length, before.get(node, NOT_THERE)) for node, length in now.items() if node in before}
    if facts.length < 0:
        yield from _unknown(facts, before, now)
        return
    if not facts.length:
        return  # a chunk that nothing was committed to need not exist
    bad = [node for node in facts.holders if node in has and has[node] < facts.length]
    whole = [node for node in facts.holders if node in now and now[node] >= facts.length]
    extra = [] if facts.session else list(_not_counted(facts, before, now))
    if not whole and not facts.session:  # what is to be deleted stays for now, and may be all that can be reached
        extra += [node for node in facts.deleting if node in has and min(before[node], now[node]) >= facts.length]
    if not whole and facts.live and not any(now[node] >= facts.length for node in extra):
        yield _lost(facts, has, nodes)
        return
    for node in bad:
        if node in facts.damaged and has[node] != NOT_THERE and not facts.session:
            continue  # the NameNode tells of it, as of all copies that are missing
        yield _missing(facts, node, has[node], mendable=bool(whole) and not facts.session)
    for node in extra:
        yield _uncounted(facts, node, now[node])


def _not_counted(facts: ChunkFacts, before: Mapping[NodeId, int], now: Mapping[NodeId, int]) -> Iterator[NodeId]:
    """Nodes that had it both times and have no reason to."""
    excused = {*facts.holders, *facts.deleting, *facts.copying}
    for node, length in now.items():
        if node not in excused and length != NOT_THERE and before.get(node, NOT_THERE) != NOT_THERE:
            yield node


def _unknown(facts: ChunkFacts, before: Mapping[NodeId, int], now: Mapping[NodeId, int]) -> Iterator[Finding]:
    for node in sorted(_not_counted(facts, before, now), key=lambda node: -now[node]):  # of the longest a file is made
        what = f"{node} has a copy of chunk {facts.chunk:x} ({now[node]} bytes), "
        mend = ["mend_stray", node, facts.chunk, now[node]]
        if not facts.given:
            yield Finding("chunk-never-given", what + "a number that this NameNode never gave", _NEVER_GIVEN, mend)
        elif facts.files == "no file":
            yield Finding("stray", what + "which no file has bytes in", "`dfs fsck --repair` has it deleted", mend)
        else:
            what += f"which has bytes of {facts.files} and is not known"
            yield Finding("chunk-missing", what, "`dfs fsck --repair` enters it again")


def _lost(facts: ChunkFacts, has: Mapping[NodeId, int], nodes: Mapping[NodeId, NodeView]) -> Finding:
    """No whole copy can be reached: say who might have one."""
    away = [node for node in facts.holders if node not in has]
    states = [_why_not_asked(node, nodes.get(node)) for node in away]
    states += [f"{node} {_amount(has[node], facts.length)}" for node in facts.holders if node in has]
    why = "; ".join(states) or "no DataNode is known to have one"
    start = f"start {', '.join(away)} again; else " if away else ""
    what = f"Chunk {facts.chunk:x} has no whole copy that can be reached ({why}): "
    what += f"{facts.live} bytes of {facts.files} cannot be read"
    partial = [node for node, length in has.items() if node in facts.damaged and length != NOT_THERE]
    if not partial:
        return Finding("chunk-lost", what, f"{start}restore them, or delete them")
    mended = "check again, as copies mend one another; " if len(partial) > 1 else ""
    remedy = f"{mended}`dfs fsck --data` says which bytes are lost: {start}restore them, or delete them"
    return Finding("chunk-lost", f"{what}, or some of them", remedy)


def _why_not_asked(node: NodeId, view: NodeView | None) -> str:
    return f"{node} did not answer" if view is None or is_up(view) else f"{node} is {view.state}"


def _amount(length: int, whole: int) -> str:
    return "has none" if length == NOT_THERE else f"has {length} of {whole} bytes"


def _missing(facts: ChunkFacts, node: NodeId, length: int, *, mendable: bool) -> Finding:
    what = f"The copy of chunk {facts.chunk:x} ({facts.files}) on {node} "
    what += "is missing" if length == NOT_THERE else f"has {length} of {facts.length} bytes"
    if not mendable:
        return Finding("copy-missing", what, "its other copies serve reads; it is replaced once nobody writes to it")
    mend = ["mend_copy", facts.chunk, node]
    return Finding("copy-missing", what, "its other copies serve reads; `dfs fsck --repair` has it made again", mend)


def _uncounted(facts: ChunkFacts, node: NodeId, length: int) -> Finding:
    what = f"{node} has {{}} of chunk {facts.chunk:x} ({facts.files}) that does not count"
    if length >= facts.length:
        mend = ["mend_stray", node, facts.chunk, length]
        return Finding("copy-uncounted", what.format("a copy"), "`dfs fsck --repair` counts it again", mend)
    what = what.format(f"{length} of {facts.length} bytes")
    return Finding("stray", what, "it is mended, or dropped for whole ones, after its node's next report")
