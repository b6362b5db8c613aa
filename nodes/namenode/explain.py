"""`dfs why` at the NameNode: where a chunk's copies are believed to be, and why one is missing or being made.

And what `dfs fsck` says of chunks with too few copies (`shortage`): those that repair sees to by itself are told apart
from those of which no copy is made before somebody does something.

Facts come from the tables, read at one moment on the checker's worker thread; what membership and repair know comes
from their public state, a moment later. `reasons` turns them into sentences for somebody who has to act on them: a
pure function.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import trio

from dfs import limits
from dfs.placement import candidates, takes_orders
from dfs.runtime import Runtime
from dfs.types import COPIES_COMING, ChunkId, NodeId, NodeState, NodeView
from nodes.namenode import arguments
from nodes.namenode.check import Checker, Finding, files_of
from nodes.namenode.commands import skip_chunks
from nodes.namenode.membership import Membership
from nodes.namenode.repair import live_among
from nodes.namenode.replication import Replication
from nodes.namenode.store import Database

_SLICE: Final = 10_000
"""Chunks in one read: some ten milliseconds of a worker thread."""
_LACKING: Final = (
    "SELECT c.chunk, c.session = 0 AND c.length > 0"
    " AND c.replicas > (SELECT count(*) FROM replica r WHERE r.chunk = c.chunk)"
    " FROM chunk c WHERE c.chunk > ? ORDER BY c.chunk LIMIT ?"
)


class Facts(NamedTuple):
    """What the tables say of a chunk. One that is not known has `length` -1."""

    chunk: ChunkId
    given: bool
    """Its number was given to somebody, once."""
    length: int
    live: int
    wanted: int
    session: int
    """Who may append to it; 0: it is sealed."""
    client: str
    """That session's client: NAME on HOST."""
    holders: tuple[NodeId, ...]
    deleting: tuple[NodeId, ...]
    """Nodes that have, or had, an order to delete their copy."""
    files: str
    """Those that have bytes in it."""


class Copying(NamedTuple):
    """A copy that is being made; `extra`: not because one is missing, but to even out nodes or racks."""

    target: NodeId
    sources: Sequence[NodeId]
    since_s: float
    extra: bool


class Outlook(NamedTuple):
    """What repair can do at all, and for one chunk."""

    is_on: bool
    waiting: int
    """Chunks with too few copies."""
    making: int
    """Copies under way, of all chunks."""
    full: Collection[NodeId]
    """Nodes that make as many copies as they may at once."""
    failures: int = 0
    """Copies of this chunk that failed one after another, and how long the next try waits."""
    retry_in_s: float = 0.0
    damaged: Sequence[NodeId] = ()
    """The chunk's holders whose copies are not whole: blocks are damaged, or missing at the end."""
    holding: Collection[NodeId] = ()
    """Nodes that hold deletions back."""
    left: Collection[NodeId] = ()
    """If none is whole: the holders whose copies have all that any of them has."""


class Explainer:
    """Answers `explain`, and has the findings about chunks with too few copies."""

    def __init__(self, checker: Checker, members: Membership, replication: Replication, runtime: Runtime) -> None:
        self._checker = checker
        self._members = members
        self._replication = replication
        self._runtime = runtime

    async def explain(self, chunks: Any) -> list[dict[str, Any]]:
        """What is known of each of `chunks`, as a map: the fields of `Facts`, `copying`, `reasons`, `damaged`."""
        wanted = [arguments.chunk(chunk) for chunk in arguments.array(chunks, "the chunks", limits.EXPLAIN_MAX_CHUNKS)]
        now_ns = self._runtime.now_ns()
        nodes = self._members.by_name()
        return [
            {
                **facts._asdict(),
                "copying": copying,
                "reasons": reasons(facts, nodes, copying, outlook, now_ns),
                "damaged": list(outlook.damaged),
            }
            for facts, copying, outlook in await self._known(wanted)
        ]

    async def shortages(self, chunks: Sequence[ChunkId]) -> list[Finding]:
        """What is to be told of those of `chunks` that have too few copies."""
        few = self._replication.few_of(chunks)
        nodes = self._members.by_name()
        found = []
        for start in range(0, len(few), limits.EXPLAIN_MAX_CHUNKS):
            for facts, copying, outlook in await self._known(few[start : start + limits.EXPLAIN_MAX_CHUNKS]):
                finding = shortage(facts, nodes, copying, outlook)
                found += [finding] if finding else []
        return found

    async def all_shortages(self) -> list[Finding]:
        """What is to be told of the first chunks that have too few copies, and how many others there are.

        The last round over all chunks does not know of those that are to have more since: the tables do.
        """
        count, first = await self._with_few_holders()
        told = sorted({*self._replication.few, *first})[: limits.EXPLAIN_MAX_CHUNKS]
        found = await self.shortages(told)
        others = max(self._replication.under_replicated, count) - len(told)
        if others > 0:
            unable = self._replication.blocked + self._replication.held_up
            found.append(_others(others, self._replication.is_on, unable))
        return found

    async def _with_few_holders(self) -> tuple[int, list[ChunkId]]:
        """How many chunks are to have more copies than there are nodes that have one, and the first of them."""
        count, first, last = 0, list[ChunkId](), 0
        while True:
            rows = await self._checker.read(functools.partial(_lacking, last))
            few = [ChunkId(chunk) for chunk, lacks in rows if lacks]
            count += len(few)
            first += few[: limits.EXPLAIN_MAX_CHUNKS - len(first)]
            if len(rows) < _SLICE:
                return count, first
            last = rows[-1][0]

    async def _known(self, wanted: Sequence[ChunkId]) -> list[tuple[Facts, list[Copying], Outlook]]:
        """What is known of each of these."""
        under_way = {copy.number: copy for chunk in wanted for copy in self._replication.copies_of(chunk)}
        facts = await self._checker.read(lambda db, _: [facts_of(db, chunk) for chunk in wanted])
        # A copy that was finished meanwhile is told of once more: better than one that is neither there nor being made.
        under_way |= {copy.number: copy for chunk in wanted for copy in self._replication.copies_of(chunk)}
        copying: dict[ChunkId, list[Copying]] = {}
        for copy in under_way.values():
            since_s = trio.current_time() - copy.ordered_at
            copying.setdefault(copy.chunk, []).append(Copying(copy.target, copy.sources, since_s, copy.extra))
        nodes = self._members.by_name()
        return [(each, copying.get(each.chunk, []), self._outlook(each, nodes)) for each in facts]

    def _outlook(self, facts: Facts, nodes: Collection[NodeId]) -> Outlook:
        failures, retry_in_s = self._replication.failures_of(facts.chunk)
        return Outlook(
            self._replication.is_on,
            self._replication.under_replicated,
            self._replication.copying,
            {node for node in nodes if self._replication.is_full(node)},
            failures,
            retry_in_s,
            self._replication.short_of(facts.chunk, facts.holders),
            self._members.holding(),
            self._replication.have_all_that_is_left(facts.chunk),
        )


def _lacking(after: int, db: Database, _sessions: Collection[int]) -> list[tuple[int, int]]:
    """The chunks that follow, a slice of them, and which are to have more copies than there are nodes that have one."""
    return db.execute(_LACKING, (after, _SLICE)).fetchall()


def facts_of(db: Database, chunk: ChunkId) -> Facts:
    """What the tables say of a chunk."""
    (following,) = db.execute("SELECT value FROM counter WHERE name = 'next_chunk'").fetchone()
    row = db.execute(
        "SELECT c.length, c.live, c.replicas, c.session, s.name || ' on ' || s.host FROM chunk c"
        " LEFT JOIN session s ON s.session = c.session WHERE c.chunk = ?",
        (chunk,),
    ).fetchone() or (-1, 0, 0, 0, None)
    holders = db.execute(
        "SELECT n.name FROM replica r JOIN node n ON n.id = r.node WHERE r.chunk = ? ORDER BY n.name", (chunk,)
    )
    deleting = db.execute(
        "SELECT n.name FROM work w JOIN node n ON n.id = w.node WHERE w.chunk = ? AND w.kind = 'delete'", (chunk,)
    )
    return Facts(
        chunk,
        skip_chunks.was_given(db, chunk, following),
        row[0],
        row[1],
        row[2],
        row[3],
        row[4] or "a client that has gone",
        tuple(NodeId(each[0]) for each in holders.fetchall()),
        tuple(NodeId(each[0]) for each in deleting.fetchall()),
        files_of(db, chunk),
    )


# --- sentences ------------------------------------------------------------------------------------------

_MINUTE_S: Final = 60
_MANY_FAILURES: Final = 3
"""Of one copy, on end: somebody has to look into it."""


def reasons(
    facts: Facts,
    nodes: Mapping[NodeId, NodeView],
    copying: Sequence[Copying],
    outlook: Outlook,
    now_ns: int,
) -> list[str]:
    """Why the chunk has not, or soon has not, a copy on as many nodes as it is to have; nothing where all is well."""
    if facts.length < 0:
        return [
            "The NameNode does not know this chunk: no file's bytes are in it, or `dfs fsck --repair` enters it again."
        ]
    silent = [node for node in facts.holders if node not in nodes or nodes[node].state != NodeState.UP]
    said = [_silence(node, nodes.get(node), now_ns) for node in silent]
    live = live_among(facts.holders, nodes)
    intact = _whole(facts, nodes, outlook)
    whole = intact or [node for node in live if node in outlook.left]
    leaving = [node for node in live if nodes[node].draining]
    missing = facts.wanted - len([node for node in whole if node not in leaving])
    if facts.session:
        short = f" It has {len(whole)} of {facts.wanted} copies, and gets the others then." if missing > 0 else ""
        said.append(f"It is still being written by {facts.client}, and is looked after once that is done.{short}")
        return said
    if not live and facts.length:
        away = ", ".join(silent) or "its DataNodes"
        said.append(f"No copy can be reached: start {away} again; else restore {facts.files}, or delete it.")
        if facts.deleting:
            old = f"{_listed(facts.deleting)} may have an old one, which stays until another can be reached"
            said.append(f"{old}: `dfs fsck --repair` counts it again if it is whole.")
        return said
    said += [f"{node} is being emptied: its copy goes when there are enough others." for node in leaving]
    said += [
        f"{node} has not all of its blocks, as some are damaged or were lost with its power: only the others are read."
        for node in live
        if node in outlook.damaged
    ]
    said += [_copying(each, outlook) for each in copying]
    if facts.length and not intact:
        lost = f"`dfs fsck --data` says which bytes are lost: restore {facts.files}, or delete it."
        if not whole:
            others = (
                "they are mended from one another as far as that can be" if len(live) > 1 else "there is no other copy"
            )
            said.append(f"No copy is whole: {others}. {lost}")
            return said
        said.append(f"No copy is whole. What is left is copied as ever; {lost}")
    coming = [each for each in copying if not each.extra]
    if missing > len(coming):
        said.append(_hindrance(facts, nodes, coming, outlook) or _queued(facts, nodes, coming, outlook))
    elif missing < 0 and not silent and not any(each.extra for each in copying):
        said.append(f"It has {len(whole)} copies where {facts.wanted} are wanted: the surplus is being dropped.")
    if missing <= 0 and (rack := _only_rack(live, nodes)) is not None:
        said.append(f"All its copies are in rack {rack}: if that fails, they cannot be read until it is back.")
    return said


def shortage(
    facts: Facts, nodes: Mapping[NodeId, NodeView], copying: Sequence[Copying], outlook: Outlook
) -> Finding | None:
    """What `dfs fsck` says of a sealed chunk that has whole copies, and fewer than it is to have; None of any other."""
    whole = _whole(facts, nodes, outlook)
    if facts.session or not 0 < len(whole) < facts.wanted:
        return None
    what = f"Chunk {facts.chunk:x} ({facts.files}) has {len(whole)} of {facts.wanted} copies"
    if outlook.damaged:
        what += f" ({_listed(outlook.damaged)}: not all blocks)"
    coming = [each for each in copying if not each.extra]
    staying = [node for node in whole if not nodes[node].draining]
    hindrance = _hindrance(facts, nodes, coming, outlook) if len(staying) + len(coming) < facts.wanted else ""
    if hindrance:
        return Finding("copies-few", what, _clause(hindrance))
    under_way = _copying(coming[0], outlook) if coming else _queued(facts, nodes, coming, outlook)
    return Finding(COPIES_COMING, what, _clause(under_way))


def _whole(facts: Facts, nodes: Mapping[NodeId, NodeView], outlook: Outlook) -> list[NodeId]:
    return [node for node in live_among(facts.holders, nodes) if node not in outlook.damaged]


def _others(count: int, is_on: bool, unable: int) -> Finding:
    """Chunks with too few copies that are not told one by one."""
    what = f"{count} more chunk{'s have' if count != 1 else ' has'} too few copies"
    if is_on and not unable:
        return Finding(COPIES_COMING, what, "repair sees to them, `dfs status` shows how far it is")
    return Finding("copies-few", what, "mend what keeps those above from being copied, and check again")


def _clause(sentence: str) -> str:
    """A sentence as the end of another."""
    return sentence[0].lower() + sentence[1:].removesuffix(".")


def _silence(node: NodeId, view: NodeView | None, now_ns: int) -> str:
    if view is None:
        return f"{node} is not known any more: its copy does not count."
    if not view.last_heartbeat_ns:
        since = "has not been heard since the NameNode started"
    else:
        since = f"has been silent for {_duration((now_ns - view.last_heartbeat_ns) / 1e9)}"
    if view.state == NodeState.DEAD:
        return f"{node} is dead, it {since}: its copy does not count; start it again, and it does."
    return f"{node} {since}: its copy counts until the node is taken for dead."


def _copying(copy: Copying, outlook: Outlook) -> str:
    sources, since = " or ".join(copy.sources), _duration(copy.since_s)
    if copy.target in outlook.damaged:
        return f"{copy.target} is mending its copy from {sources}, for {since} now."
    why = ", to even out the nodes or racks," if copy.extra else ""
    return f"A copy is being made on {copy.target}{why} from {sources}, for {since} now."


def _hindrance(facts: Facts, nodes: Mapping[NodeId, NodeView], coming: Sequence[Copying], outlook: Outlook) -> str:
    """Why no copy is made before somebody does something about it; "" where repair sees to it by itself."""
    if not outlook.is_on:
        return "No copy is made: repair is switched off in the NameNode's configuration."
    if not _mendable(nodes, coming, outlook):
        up = _up_without(facts, nodes, coming)
        if not up:
            return f"No copy can be made: no other DataNode is up; {facts.wanted} are needed, start or add one."
        able = [view.node for view in candidates(up, (), facts.length)]
        if not able:
            full = _listed([view.node for view in up])
            return f"No copy can be made: no space for {facts.length} bytes on {full}; delete files or add a DataNode."
        if set(able) <= set(facts.deleting) and (holding := [node for node in able if node in outlook.holding]):
            return (
                f"No copy is made: the deletion of an old one is held back on {_listed(holding)}; `dfs deletions"
                f" {holding[0]} --discard` has that used again if it is whole, `--allow` has another made in its place."
            )
    return _failing(outlook) if outlook.failures >= _MANY_FAILURES else ""


def _up_without(facts: Facts, nodes: Mapping[NodeId, NodeView], coming: Sequence[Copying]) -> list[NodeView]:
    """Nodes that could take new data, have no copy of the chunk and make none."""
    others = [view for view in nodes.values() if view.node not in {*facts.holders, *(each.target for each in coming)}]
    return [view for view in others if takes_orders(view)]


def _mendable(nodes: Mapping[NodeId, NodeView], coming: Sequence[Copying], outlook: Outlook) -> list[NodeId]:
    """Nodes that could mend the copies that they have."""
    busy = {each.target for each in coming}
    return [node for node in outlook.damaged if node not in busy and node in nodes and takes_orders(nodes[node])]


def _failing(outlook: Outlook) -> str:
    tries = f"The last {outlook.failures} tries to make the copy failed (the NameNode's log says why)"
    return f"{tries}: it is tried again in {_duration(outlook.retry_in_s)}."


def _queued(facts: Facts, nodes: Mapping[NodeId, NodeView], coming: Sequence[Copying], outlook: Outlook) -> str:
    """What a copy waits for that is not one of those `coming`, where nothing hinders it."""
    able = [view.node for view in candidates(_up_without(facts, nodes, coming), (), facts.length)]
    able += _mendable(nodes, coming, outlook)
    if outlook.failures and outlook.retry_in_s > 0:
        return _failing(outlook)
    if set(able) <= set(facts.deleting):
        return f"The copy waits until {_listed(able)} deleted an old copy of the chunk."
    making = "1 copy is being made" if outlook.making == 1 else f"{outlook.making} copies are being made"
    if set(able) <= set(outlook.full):
        return f"The copy waits for its turn: {_listed(able)} make as many as they may at once; {making} in all."
    chunks = "1 chunk has" if outlook.waiting == 1 else f"{outlook.waiting} chunks have"
    return f"The copy waits for repair, which goes round all chunks: {chunks} too few copies, {making}."


def _only_rack(live: Sequence[NodeId], nodes: Mapping[NodeId, NodeView]) -> str | None:
    """The rack that has all of several copies, where there are others."""
    racks = {nodes[node].rack for node in live}
    others = {view.rack for view in nodes.values() if view.state == NodeState.UP} - racks
    return racks.pop() if len(live) > 1 and len(racks) == 1 and others else None


_LISTED: Final = 5


def _listed(nodes: Sequence[NodeId]) -> str:
    more = len(nodes) - _LISTED
    return ", ".join(nodes[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _duration(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for size, unit in ((86_400, "days"), (3600, "hours"), (_MINUTE_S, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
