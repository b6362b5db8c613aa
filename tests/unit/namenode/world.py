"""What the tests of the NameNode begin with: a namespace in a directory, and commands given to it one by one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dfs import errors
from dfs.types import ROOT_INO, NodeId, NodeState, NodeView, SessionId
from nodes.namenode.check import Finding, check, totals
from nodes.namenode.machine import Command, Machine, Reply, Unfinished
from nodes.namenode.queries import Queries
from nodes.namenode.store import Database, Store, open_store

START_NS = 1_700_000_000_000_000_000
MINUTE_NS = 60 * 10**9
DAY_NS = 24 * 60 * MINUTE_NS
NODES = ("n1", "n2", "n3")


class Namespace:
    """A store with its machine; each command is a transaction of its own, a nanosecond after the one before."""

    def __init__(self, directory: Path) -> None:
        self.store: Store = open_store(directory, random.Random())
        self.machine = Machine(self.store.writing)
        self.queries = Queries(self.store)
        self.now_ns = START_NS
        self._sequence: dict[int, int] = {}

    def transact(self, *commands: Command) -> list[Reply]:
        """Apply these in one transaction; their replies."""
        self.store.begin()
        replies = [self._apply(command) for command in commands]
        self.machine.end()
        self.store.commit()
        return replies

    def _apply(self, command: Command) -> Reply:
        while True:
            with suppress(Unfinished):
                return self.machine.apply(command)

    def next_command(self, session: int, verb: str, *args: Any, acked: int = 0) -> Command:
        """The session's next, now."""
        self.now_ns += 1
        self._sequence[session] = self._sequence.get(session, 0) + 1
        return Command(SessionId(session), self._sequence[session], acked, verb, args, self.now_ns)

    def do(self, session: int, verb: str, *args: Any) -> Any:
        """A client's command: its result, or the error that it was answered with."""
        return result_of(self.transact(self.next_command(session, verb, *args))[0])

    def own(self, verb: str, *args: Any) -> Any:
        """A command of the NameNode's own, likewise."""
        return self.do(0, verb, *args)

    def open_session(self, holder: str = "client tests", subtree: str = "") -> int:
        return int(self.own("open_session", "test", "here", holder, subtree))

    def end_session(self, session: int) -> int:
        """End it wholly; by how many commands."""
        return 1 + sum(1 for _ in iter(lambda: self.own("end_session", session), False))

    def go_on(self, session: int) -> None:
        """Take a session up where it was in another life: at the command after its last, and a day later."""
        self._sequence[session] = self.rows("SELECT max(seq) FROM reply WHERE session = ?", session)[0]
        self.now_ns += DAY_NS

    def register(self, *names: str) -> None:
        for name in names:
            self.own("register_node", name, f"{name}:9401", name, "", ["d-" + name])

    def configure(self, replicas: int = 3, min_replicas: int = 2, grace_ns: int = MINUTE_NS) -> None:
        self.own("configure", {"replicas": replicas, "min_replicas": min_replicas, "grace_ns": grace_ns})

    def chunk(self, session: int, nodes: Sequence[str] = NODES) -> int:
        """A new chunk of the session on these nodes."""
        return int(self.do(session, "allocate_chunks", len(nodes), [list(nodes)])[0][0])

    def file(self, session: int, name: bytes = b"file") -> Any:
        return self.do(session, "create", ROOT_INO, name, 0o644, 0, 0)

    def written(self, session: int, ino: int, length: int, nodes: Sequence[str] = NODES) -> int:
        """A new chunk whose `length` bytes are the file's first."""
        chunk = self.chunk(session, nodes)
        self.do(session, "commit", ino, [[0, length, chunk, 0]], [[chunk, length, list(nodes)]])
        return chunk

    def rows(self, sql: str, *values: Any) -> list[Any]:
        """What a query finds; bare values if it has one column."""
        rows = self.store.reads.execute(sql, values).fetchall()
        return [row[0] if len(row) == 1 else row for row in rows]

    def damage(self, sql: str, *values: Any) -> None:
        """Change the tables behind the machine's back."""
        self.store.begin()
        self.store.writing.execute(sql, values)
        self.store.commit()
        self.machine.forget()

    def check(self, between: Callable[[list[Finding]], None] = lambda found: None) -> list[Finding]:
        """All that the check finds; `between` is called after each slice, with what that found."""
        found: list[Finding] = []
        cursor = None
        while True:
            with self.moment() as db:
                more, cursor = check(db, cursor)
            found += more
            between(more)
            if cursor is None:
                break
        with self.moment() as db:
            for last in totals(db):
                if last is None:
                    between([])
        between(last or [])
        return found + (last or [])

    def mend(self, session: int) -> list[str]:
        """Check, and have mended what can be, as it is found, by a client; what was done for each finding."""
        done: list[str] = []

        def mend(found: list[Finding]) -> None:
            answers = {str(finding.mend): finding.mend for finding in found}
            results = {key: self.do(session, *mend) if mend else [] for key, mend in answers.items()}
            done.extend("; ".join(results[str(finding.mend)]) for finding in found)

        self.check(mend)
        return done

    @contextmanager
    def moment(self) -> Iterator[Database]:
        """The connection for checks, all that is read being of one moment."""
        self.store.checks.execute("BEGIN")
        try:
            yield self.store.checks
        finally:
            self.store.checks.execute("COMMIT")

    def findings(self) -> list[str]:
        """As sentences."""
        return [f"{finding.what}: {finding.remedy}." for finding in self.check()]

    def dump(self) -> dict[str, list[Any]]:
        """Every table but the stored replies."""
        names = self.rows("SELECT name FROM sqlite_master WHERE type = 'table' AND name != 'reply'")
        return {name: sorted(self.rows(f"SELECT * FROM {name}"), key=repr) for name in names}


def result_of(reply: Reply) -> Any:
    """A reply's result; raises its error."""
    errno, *rest = reply
    if errno:
        raise errors.from_wire(*rest)
    return rest[0]


@contextmanager
def namespace(directory: Path) -> Iterator[Namespace]:
    """A namespace with three nodes, three copies wanted, two enough, and a minute of grace."""
    opened = Namespace(directory)
    try:
        opened.configure()
        opened.register(*NODES)
        yield opened
    finally:
        opened.store.close()


def node_view(
    name: str,
    *,
    rack: str = "",
    host: str = "",
    state: NodeState = NodeState.UP,
    capacity_bytes: int = 1000,
    free_bytes: int = 500,
    load: int = 0,
    draining: bool = False,
    used_bytes: int = 0,
) -> NodeView:
    return NodeView(
        NodeId(name),
        f"{name}:9401",
        host or name,
        rack,
        state,
        capacity_bytes,
        free_bytes,
        0,
        load,
        START_NS,
        draining,
        used_bytes,
    )
