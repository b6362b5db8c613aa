"""Who has used how much so far: the daemons say it themselves, a mount in an extended attribute, this machine in /proc.

What cannot be had is left out: an older daemon that does not tell, a key that may not ask, a machine without /proc.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dfs import errors, tasks
from dfs.cli.bench.limiting import Link, Process, Reading
from dfs.mountpoint import mounted
from dfs.types import NodeId, NodeState

if TYPE_CHECKING:
    from dfs.client import FileSystem

CLIENT: Final = "client"
NAMENODE: Final = "NameNode"
_STATISTICS: Final = "dfs.statistics"
_PINGS: Final = 100
_BUSY_COLUMNS: Final = (0, 1, 2, 5, 6, 7)
"""Of the first line of /proc/stat: user, nice, system, irq, softirq, steal."""
_BITS_PER_MBIT: Final = 1_000_000


class RoundTrip(NamedTuple):
    """An empty call to the NameNode, one at a time."""

    whole_s: float
    on_the_way_s: float
    """Of it, that in which neither end computed: the network, and waking up."""


class Readings:
    """What to ask: the daemons of a cluster, if one is known, and the mount on a directory, if there is one."""

    def __init__(self, fs: FileSystem | None, mounted: Path | None) -> None:
        self._fs = fs
        self._mounted = mounted
        self._nodes: list[NodeId] = []

    async def prepare(self) -> None:
        """Find out whom to ask. Raises what the NameNode raises."""
        if self._fs is not None:
            self._nodes = [view.node for view in await self._fs.nodes() if view.state == NodeState.UP]

    async def take(self) -> Reading:
        """All figures of about this moment. Raises nothing for what cannot be had."""
        daemons = await self._daemons()
        mount, calls = self._mount()
        processors, busy_s = _machine()
        own = Process(CLIENT, time.process_time())
        if self._fs is not None and self._mounted is None:
            calls = self._fs.session.pool.statistics().calls
        return Reading(time.monotonic(), (own, *mount, *daemons), tuple(_links()), processors, busy_s, calls)

    async def round_trip(self) -> RoundTrip:
        """Of empty calls to the NameNode. Raises what it raises."""
        assert self._fs is not None
        before = await self._namenode_cpu_s()
        own_s, started_s = time.process_time(), time.monotonic()
        for _ in range(_PINGS):
            await self._fs.session.query("cluster")
        elapsed_s = time.monotonic() - started_s
        own_s = time.process_time() - own_s
        after = await self._namenode_cpu_s()
        computed_s = own_s + (after - before if before is not None and after is not None else 0.0)
        return RoundTrip(elapsed_s / _PINGS, max(0.0, elapsed_s - computed_s) / _PINGS)

    async def _namenode_cpu_s(self) -> float | None:
        processes = await self._daemons(nodes=False)
        return processes[0].cpu_s if processes else None

    async def _daemons(self, *, nodes: bool = True) -> list[Process]:
        fs = self._fs
        if fs is None:
            return []
        found: dict[str, Process] = {}

        async def ask_namenode() -> None:
            with contextlib.suppress(errors.DfsError):
                _note(found, NAMENODE, await fs.status())

        async def ask(node: NodeId) -> None:
            with contextlib.suppress(errors.DfsError):
                _note(found, node, (await fs.nodes_known.call(node, "status"))[0])

        async with tasks.open_nursery() as nursery:
            nursery.start_soon(ask_namenode)
            for node in self._nodes if nodes else ():
                nursery.start_soon(ask, node)
        return [found[name] for name in (NAMENODE, *self._nodes) if name in found]

    def _mount(self) -> tuple[list[Process], int]:
        """The mount's process, and the calls that it has made."""
        if self._mounted is None:
            return [], 0
        try:
            process = json.loads(os.getxattr(self._mounted, _STATISTICS))["process"]
            return [Process("mount", process["cpu_ms"] / 1000)], int(process["calls"])
        except (OSError, ValueError, LookupError, TypeError):
            return [], 0


def _note(found: dict[str, Process], name: str, status: Mapping[str, Any]) -> None:
    usage = status.get("usage")
    if isinstance(usage, Mapping) and "cpu_s" in usage:
        disk_s = float(usage.get("blocking_s", 0.0))
        found[name] = Process(name, float(usage["cpu_s"]), disk_s, is_datanode=name != NAMENODE)


def _machine() -> tuple[int, float]:
    """Processors, and seconds in which they were busy; 0 and 0 if that is not known."""
    try:
        columns = Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
        busy = sum(int(columns[at]) for at in _BUSY_COLUMNS)
    except (OSError, ValueError, LookupError):
        return 0, 0.0
    return os.cpu_count() or 0, busy / os.sysconf("SC_CLK_TCK")


def _links() -> list[Link]:
    """Interfaces that say how fast they are."""
    found = []
    with contextlib.suppress(OSError):
        for interface in sorted(Path("/sys/class/net").iterdir()):
            with contextlib.suppress(OSError, ValueError):  # it is down, or a kind that has no speed
                megabits = int((interface / "speed").read_text())
                sent, received = (int((interface / "statistics" / f"{way}_bytes").read_text()) for way in ("tx", "rx"))
                if megabits > 0:
                    found.append(Link(interface.name, sent, received, megabits * _BITS_PER_MBIT / 8))
    return found


def mount_of(directory: Path) -> str | None:
    """The address of the NameNode whose mount `directory` is in; None if it is in no mount of ours."""
    where = os.path.realpath(directory)
    around = [each for each in mounted() if Path(where).is_relative_to(each.mountpoint)]
    innermost = max(reversed(around), key=lambda each: len(each.mountpoint), default=None)  # the last hides others
    if innermost is None or not innermost.is_dfs:
        return None
    return innermost.source.partition(":/")[0] or None
