"""Which DataNodes there are, and how they are: what they register, what their heartbeats say, how long they are silent.

The database knows each node's name, address and rack; what heartbeats say lives here and is forgotten with the
process. After a start every known node is suspect until it is heard, and dead only after it could have been heard for
`dead_after_s`: so a NameNode that restarts neither sends data to nodes that are gone nor copies what is only late.

A node may come back with another disk, and says so only in its report of all chunks. Until one is through, counted from
its registration on, it is `unreported`: what it is believed to hold is no reason to give up a copy elsewhere.

A node that is stopped in order says farewell: it is suspect at once, and not dead before the maintenance window is
over, so that a restart or a reboot makes no copies. A NameNode that restarts meanwhile knows nothing of it.

When all nodes fall silent together it is the NameNode's machine that is cut off. As soon as one is heard again the
others have as long to come back as after a start, and no copies are made of what they have.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import structlog
import trio

from dfs import errors, limits
from dfs.runtime import Runtime
from dfs.types import NODE_NAME, NODE_NAME_RULE, ChunkId, NodeId, NodeState, NodeView
from nodes.namenode import arguments

_SETTLING_MAX_S: Final = 10.0
"""Less than a client waits for the answer to one call."""
_VIEWS_AGE_S: Final = 0.05
"""Well below a heartbeat."""
_REASON_MAX: Final = 1000
_CUT_OFF_MAX_S: Final = 3600.0
"""After which who is silent is taken for dead, though all are."""

log = structlog.get_logger(__name__)


class Withheld(NamedTuple):
    """Orders that a DataNode holds back, and why: a sentence."""

    orders: int
    reason: str


class Member:
    """One DataNode. `heard_at` is in trio's time, `last_heartbeat_ns` in the wall clock's."""

    __slots__ = (
        "address",
        "awaited_until",
        "capacity_bytes",
        "chunks",
        "directories",
        "draining",
        "free_bytes",
        "gone",
        "has_no_disk",
        "heard_at",
        "held",
        "host",
        "incarnation",
        "is_registered",
        "is_reporting",
        "last_heartbeat_ns",
        "load",
        "mends",
        "never_given",
        "never_given_below",
        "node",
        "rack",
        "reported_below",
        "reported_state",
        "used_bytes",
    )

    def __init__(
        self, node: NodeId, address: str, host: str, rack: str, directories: list[str], heard_at: float
    ) -> None:
        self.node = node
        self.draining = False
        self.address = address
        self.host = host
        self.rack = rack
        self.directories = directories
        self.heard_at = heard_at
        self.incarnation: int | None = None
        """Of its process; None of an older DataNode, which does not say."""
        self.is_registered = False
        """It registered with this process: until then it is asked to."""
        self.is_reporting = False
        """A report of its chunks waits, or is worked on."""
        self.gone: set[ChunkId] = set()
        """Copies that heartbeats since then say are gone, whatever the report says of them."""
        self.awaited_until: float | None = None
        """It said farewell, and is not given up before this, in trio's time."""
        self.last_heartbeat_ns = 0
        self.capacity_bytes = 0
        self.free_bytes = 0
        self.used_bytes = 0
        self.has_no_disk = False
        """Its last heartbeat says that none of its directories is in service."""
        self.held: Withheld | None = None
        """Orders to delete that it does not follow until an operator decides."""
        self.chunks = 0
        self.load = 0
        self.mends = False
        """It mends copies that it has: an older DataNode replaces them, and loses what only they have."""
        self.never_given = 0
        """Chunks in its last whole report that nobody here has ever given: the database is new, or an old copy."""
        self.never_given_below = 0
        """Likewise in the report under way, as far as that has come."""
        self.reported_below = ChunkId(1)
        """It has reported all its chunks with lower numbers since it registered."""
        self.reported_state = NodeState.SUSPECT
        """As the log said last."""


class Membership:
    """All DataNodes by name. Belongs to the event loop."""

    def __init__(
        self,
        runtime: Runtime,
        suspect_after_s: float,
        dead_after_s: float,
        maintenance_window_s: float = 0.0,
        copies: int = 1,
    ) -> None:
        """`copies`: on so many nodes each new file is."""
        self._runtime = runtime
        self._copies = copies
        self._maintenance_window_s = maintenance_window_s
        self._suspect_after_s = suspect_after_s
        self._dead_after_s = dead_after_s
        self._members: dict[NodeId, Member] = {}
        self._started_at = trio.current_time()
        self._views: dict[NodeId, NodeView] = {}
        self._views_until = -1e9
        self._is_one_rack = True
        self.changed = trio.Event()
        """Set, and replaced, when a node comes, moves, or changes its state."""
        self.is_space_short = False
        """Whether so little is left that what is written may find no room, as it was when that was looked at last."""
        self.space_changed = trio.Event()
        """Set, and replaced, when that is another."""
        self.unreported: set[NodeId] = set()
        """Nodes of which no whole report has been processed since they registered with this process."""

    def load(self, rows: list[tuple[Any, ...]]) -> None:
        """What the database knows, at the start."""
        for name, address, host, rack, directories, draining in rows:
            member = Member(name, address, host, rack, json.loads(directories), trio.current_time())
            member.draining = bool(draining)
            self._members[name] = member
            self.unreported.add(name)

    # --- what nodes say ---------------------------------------------------------------------------------

    def check(self, info: Mapping[str, Any]) -> Member:
        """The member that `info` describes, not entered yet.

        Raises `InvalidArgument`, `Exists`; and `Busy` for a second process with what the first has, which is at work:
        its disk was copied, with the machine perhaps. That mends itself where the first one has only just ended.
        """
        if not isinstance(info, Mapping):
            raise errors.InvalidArgument("a registration is a map")
        node = NodeId(arguments.text(info.get("node"), "a node's name", 64))
        if not NODE_NAME.fullmatch(node):
            raise errors.InvalidArgument(f"a node's name is {NODE_NAME_RULE}: {node!r}")
        directories = [
            arguments.text(each, "a directory's id", 64)
            for each in arguments.array(info.get("directories"), "the directories", limits.DIRECTORIES_MAX)
        ]
        known = self._members.get(node)
        if known is not None and self.state(known) == NodeState.UP and not set(known.directories) & set(directories):
            raise errors.Exists(
                f"a DataNode called {node} is at work at {known.address} with other directories: give this one"
                " another name"
            )
        incarnation = _incarnation(info.get("incarnation"))
        address = arguments.text(info.get("address"), "an address")
        if known is not None and self._is_beside(known, incarnation, address):
            raise errors.Busy(
                f"a DataNode called {node} with the same directories is at work at {known.address}, and there may be"
                " one only: stop the other, or give this one another name and directories that are no copies"
            )
        if known is None and len(self._members) >= limits.NODES_MAX:
            raise errors.ArgumentTooLarge(f"the cluster has {limits.NODES_MAX} DataNodes, as many as it can")
        member = Member(
            node,
            address,
            arguments.text(info.get("host"), "a host"),
            arguments.text(info.get("rack"), "a rack"),
            directories,
            trio.current_time(),
        )
        member.is_registered = True
        member.incarnation = incarnation
        return member

    def _is_beside(self, known: Member, incarnation: int | None, address: str) -> bool:
        """Whether what would register is another process than the one of that name, which is at work."""
        is_another = None not in (known.incarnation, incarnation) and known.incarnation != incarnation
        return is_another and address != known.address and self.state(known) == NodeState.UP

    def is_empty_handed(self, member: Member) -> bool:
        """Whether a node that is known comes with none of the directories that it had."""
        known = self._members.get(member.node)
        return known is not None and bool(known.directories) and not set(known.directories) & set(member.directories)

    def enter(self, member: Member) -> None:
        """It is registered, durably. It counts as up from its first heartbeat on."""
        self._end_silence()
        known = self._members.get(member.node)
        if known is not None:
            member.last_heartbeat_ns = known.last_heartbeat_ns
            member.reported_state = known.reported_state
            member.draining = known.draining
        self._members[member.node] = member
        self.unreported.add(member.node)
        self._tell()

    def registered(self, node: Any, incarnation: Any = None) -> Member:
        """Raises `NotFound`: it is to register first, as another process of its name did."""
        member = self._members.get(NodeId(arguments.text(node, "a node")))
        if member is None or not member.is_registered or _incarnation(incarnation) != member.incarnation:
            raise errors.NotFound(f"the NameNode does not know DataNode {node} yet: it has to register")
        return member

    def heard(self, node: Any, report: Mapping[str, Any]) -> Member:
        """A heartbeat. Raises `NotFound`: it is to register first."""
        member = self.registered(node, report.get("incarnation"))
        self._end_silence()
        member.capacity_bytes = arguments.integer(report.get("capacity_bytes"), "a capacity")
        member.free_bytes = arguments.integer(report.get("free_bytes"), "free space")
        member.chunks = arguments.integer(report.get("chunks"), "a number of chunks")
        member.load = arguments.integer(report.get("load"), "a load")
        used = report.get("used_bytes")  # an older DataNode does not say
        otherwise = max(0, member.capacity_bytes - member.free_bytes)
        member.used_bytes = otherwise if used is None else arguments.integer(used, "used space")
        member.has_no_disk = not member.capacity_bytes
        member.held = _held(report.get("held"))
        member.mends = "damaged" in report
        member.heard_at = trio.current_time()
        member.awaited_until = None
        member.last_heartbeat_ns = self._runtime.now_ns()
        self._note_if_new(member)  # not up if all of its disks have failed
        return member

    @contextmanager
    def reporting(self, member: Member) -> Iterator[None]:
        """Around a report of its chunks, which is a sign of life as long as it waits. Raises `Busy` beside another."""
        if member.is_reporting:
            raise errors.Busy(f"another report of DataNode {member.node} is not answered yet: try again")
        member.is_reporting = True
        member.gone.clear()
        try:
            yield
        finally:
            member.is_reporting = False
            member.heard_at = trio.current_time()

    def reported(self, member: Member, first: int, following: int, never_given: int = 0) -> bool:
        """Its chunks from `first` on, below `following`, are reported; whether that makes its first report whole.

        `member` is what it was as the report came: what it reported before it registered again does not count. Of these
        chunks `never_given` have numbers that were never given.
        """
        if following > first:
            member.never_given_below = never_given + (member.never_given_below if first > 1 else 0)
            if following > arguments.INTEGER_MAX:
                member.never_given = member.never_given_below
        if first <= member.reported_below:
            member.reported_below = ChunkId(max(member.reported_below, following))
        is_whole = member.is_registered and member.reported_below > arguments.INTEGER_MAX
        if not is_whole or member.node not in self.unreported or self._members.get(member.node) is not member:
            return False
        self.unreported.discard(member.node)
        return True

    def mends(self, node: NodeId) -> bool:
        """Whether a node mends copies that it has, as its last heartbeat says."""
        member = self._members.get(node)
        return member is not None and member.mends

    def farewell(self, node: Any, incarnation: Any = None) -> None:
        """It stops in order, and means to come back. Raises `NotFound`."""
        member = self.member(node)
        if member.incarnation not in (None, _incarnation(incarnation)):
            raise errors.NotFound(f"another process is DataNode {node} now")
        member.awaited_until = trio.current_time() + self._maintenance_window_s
        log.info("datanode stops for maintenance", node=member.node, window_s=self._maintenance_window_s)
        self._note(member, self.state(member))

    def set_draining(self, node: NodeId, draining: bool) -> None:
        """As the database has it now."""
        self._members[node].draining = draining
        self._tell()

    def remove(self, node: NodeId) -> None:
        """It is forgotten, durably."""
        self._members.pop(node, None)
        self.unreported.discard(node)
        self._tell()

    # --- what is known ----------------------------------------------------------------------------------

    def member(self, node: Any) -> Member:
        """Raises `NotFound`."""
        found = self._members.get(NodeId(arguments.text(node, "a node")))
        if found is None:
            raise errors.NotFound(f"there is no DataNode {node}: `dfs nodes` lists them")
        return found

    def all(self) -> list[Member]:
        """By name."""
        return [member for _, member in sorted(self._members.items())]

    def by_name(self) -> Mapping[NodeId, NodeView]:
        """All nodes as they are, or were less than `_VIEWS_AGE_S` ago: for who asks very often."""
        now = trio.current_time()
        if now >= self._views_until:
            self._views = {node: self.view(member) for node, member in self._members.items()}
            self._views_until = now + _VIEWS_AGE_S
            self._is_one_rack = len({view.rack for view in self._views.values()}) <= 1
        return self._views

    def is_one_rack(self) -> bool:
        """Whether all nodes are in the same rack, by the same views as `by_name`."""
        self.by_name()
        return self._is_one_rack

    def state(self, member: Member) -> NodeState:
        silent_s = 0.0 if member.is_reporting else trio.current_time() - member.heard_at
        is_awaited = member.awaited_until is not None and trio.current_time() < member.awaited_until
        if silent_s >= self._dead_after_s and not is_awaited:
            return NodeState.DEAD
        if silent_s >= self._suspect_after_s or member.awaited_until is not None or not member.capacity_bytes:
            return NodeState.SUSPECT
        return NodeState.UP

    def views(self) -> list[NodeView]:
        """All nodes by name."""
        return [self.view(member) for _, member in sorted(self._members.items())]

    def up(self, *, reported: bool) -> list[NodeId]:
        """The nodes that are up, and have said since they came what they hold: only these have it. Or have not yet."""
        up = (node for node, view in self.by_name().items() if view.state == NodeState.UP)
        return sorted(node for node in up if (node not in self.unreported) == reported)

    def holding(self, among: Iterable[NodeId] | None = None) -> set[NodeId]:
        """The nodes, of these if any are given, that hold deletions back until an operator decides."""
        asked = (self._members.get(node) for node in among) if among is not None else self._members.values()
        return {member.node for member in asked if member is not None and member.held}

    def settling_s(self) -> float:
        """For how long nodes that were there before this process started may still come back; 0 when all have."""
        if all(member.capacity_bytes for member in self._members.values()):  # heard since then
            return 0.0
        return max(0.0, self._started_at + min(self._suspect_after_s, _SETTLING_MAX_S) - trio.current_time())

    def view(self, member: Member) -> NodeView:
        return NodeView(
            member.node,
            member.address,
            member.host,
            member.rack,
            self.state(member),
            member.capacity_bytes,
            member.free_bytes,
            member.chunks,
            member.load,
            member.last_heartbeat_ns,
            member.draining,
            member.used_bytes,
        )

    def hears_nobody(self) -> bool:
        """Whether all nodes are silent that had been heard, but for those which said farewell."""
        since, is_any_expected = trio.current_time() - self._suspect_after_s, False
        for each in self._members.values():  # each heartbeat asks: mostly the first is one that is heard
            if each.is_registered and each.awaited_until is None:
                if each.heard_at > since or each.is_reporting:
                    return False
                is_any_expected = True
        return is_any_expected

    def waits_cut_off(self) -> bool:
        """Whether we hear nobody, for _CUT_OFF_MAX_S at most: those that fell silent together are not dead then."""
        if not self.hears_nobody():
            return False
        heard_ns = max(member.last_heartbeat_ns for member in self._members.values())
        if self._runtime.now_ns() - heard_ns > _CUT_OFF_MAX_S * 10**9:
            return False
        self._wait_for_all()
        return True

    def _end_silence(self) -> None:
        """A node is about to be heard. If none was before, those that fell silent together may come back as well."""
        if self.hears_nobody():
            self._wait_for_all()

    def _wait_for_all(self) -> None:
        """As after a start."""
        together = max(member.heard_at for member in self._members.values()) - self._suspect_after_s
        heard_at = trio.current_time() - self._suspect_after_s
        for member in self._members.values():
            if member.heard_at >= together:
                member.heard_at = max(member.heard_at, heard_at)
                self._note_if_new(member)

    # --- watching ---------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Log, and tell others, when a node falls silent. Runs until cancelled."""
        while True:
            due = trio.current_time() + self._suspect_after_s / 10
            await trio.sleep_until(due)
            late_s = trio.current_time() - due  # this process was itself away for so long: nobody could be heard
            for member in list(self._members.values()):
                member.heard_at = min(trio.current_time(), member.heard_at + late_s)
                self._note_if_new(member)
            self._look_at_space()

    def _look_at_space(self) -> None:
        """Whether the nodes that a new file would be on, with all of its copies, are nearly full."""
        able = (each for each in self._members.values() if self.state(each) == NodeState.UP and not each.draining)
        free = sorted((member.free_bytes for member in able), reverse=True)[: self._copies]
        is_short = bool(free) and free[-1] < limits.SPACE_SHORT_BYTES
        if is_short != self.is_space_short:
            self.is_space_short = is_short
            tell = log.warning if is_short else log.info
            tell("space is short" if is_short else "space is not short any more", free_bytes=free[-1] if free else None)
            changed, self.space_changed = self.space_changed, trio.Event()
            changed.set()

    def _note_if_new(self, member: Member) -> None:
        state = self.state(member)
        if state != member.reported_state:
            self._note(member, state)

    def _note(self, member: Member, state: NodeState) -> None:
        tell = log.info if state == NodeState.UP else log.warning
        tell("datanode is " + state, node=member.node, address=member.address)
        member.reported_state = state
        self._tell()
        self._look_at_space()

    def _tell(self) -> None:
        self._views_until = -1e9
        changed, self.changed = self.changed, trio.Event()
        changed.set()


def _incarnation(said: Any) -> int | None:
    return None if said is None else arguments.integer(said, "an incarnation")


def _held(told: Any) -> Withheld | None:
    """What a heartbeat says of orders held back."""
    if not isinstance(told, Mapping):
        return None
    orders = arguments.integer(told.get("orders"), "a number of orders")
    return Withheld(orders, arguments.text(told.get("reason", ""), "a reason", _REASON_MAX)) if orders else None
