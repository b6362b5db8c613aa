"""What limits: from what was used before and after a piece of work to the one thing that was busy all the time.

Each thing that can be busy has a **share** of the time: a process's processor time, of one core, since each of our
processes is one event loop; the time that a daemon waited for its disk; what went over a link, of what it can carry;
all processors of this machine; and the round trips, each of which took at least the time that an empty call is on its
way. A share near 1 is the limit: nothing else would make the work faster.

Work that goes from one to the next and back, as a small call does, keeps nobody busy all the time. Then nothing
alone is the limit, and the largest shares say where the time went.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

BUSY: Final = 0.7
"""Of the time: what is busy for so much of it is the limit. Queues build up long before all of it."""
_ALL_PROCESSORS: Final = 0.9
"""With the machine so busy every process waits for a processor: its own share says too little."""
_MENTIONED: Final = 0.1
"""Smaller shares are not worth a word."""
_CPU: Final = "CPU"
_MACHINE: Final = "machine"
_OTHERS: Final = "others CPU"
_MENTIONED_MAX: Final = 3


class Process(NamedTuple):
    """What a process has used since its start."""

    name: str
    """As people call it: `client`, `mount`, `NameNode`, `n1`."""
    cpu_s: float
    disk_s: float = 0.0
    """Seconds in which it waited for a disk: of daemons."""
    is_datanode: bool = False


class Link(NamedTuple):
    """A network interface of this machine, both directions counted since its start."""

    name: str
    sent_bytes: int
    received_bytes: int
    capacity_bytes_per_s: float


class Reading(NamedTuple):
    """All that is known at one moment. What is not known is not there."""

    at_s: float
    processes: tuple[Process, ...]
    links: tuple[Link, ...] = ()
    processors: int = 0
    """Of this machine; 0: not known."""
    busy_s: float = 0.0
    """Seconds of all of them together in which they did something."""
    calls: int = 0
    """That the client, or the mount, has made to daemons."""


class Share(NamedTuple):
    """`part` of the time, 0 to 1 and for processes of several threads above, in which `what` was busy."""

    what: str
    part: float
    kind: str = ""
    """What is alike among shares: of several DataNodes' disks the busiest says enough."""


class Limit(NamedTuple):
    """What limited, and all shares, the largest first."""

    is_known: bool
    """Whether the first of `shares` alone was the limit."""
    shares: tuple[Share, ...]


def shares(before: Reading, after: Reading, on_the_way_s: float) -> list[Share]:
    """How busy each thing was between two readings. `on_the_way_s`: of an empty call, in which neither end works."""
    elapsed_s = after.at_s - before.at_s
    if elapsed_s <= 0:
        return []
    found = [*_of_processes(before, after, elapsed_s), *_of_links(before, after, elapsed_s)]
    calls = after.calls - before.calls
    if calls > 0 and on_the_way_s > 0:
        found.append(Share("round trips", min(1.0, calls * on_the_way_s / elapsed_s)))
    if after.processors:
        found += _of_machine(before, after, elapsed_s, sum(share.part for share in found if share.kind.endswith(_CPU)))
    return found


def _of_machine(before: Reading, after: Reading, elapsed_s: float, known: float) -> Iterator[Share]:
    """All processors together, and what strangers have of them at least: `known` is the share of all our processes."""
    busy = (after.busy_s - before.busy_s) / elapsed_s
    yield Share(f"all {after.processors} CPUs here", min(1.0, busy / after.processors), _MACHINE)
    yield Share("other programs' CPU", max(0.0, busy - known), _OTHERS)


def _of_processes(before: Reading, after: Reading, elapsed_s: float) -> Iterator[Share]:
    earlier = {process.name: process for process in before.processes}
    for process in after.processes:
        was = earlier.get(process.name)
        if was is not None and process.cpu_s >= was.cpu_s:  # else it was started again meanwhile
            whose = "DataNode" if process.is_datanode else process.name
            yield Share(f"{process.name} CPU", (process.cpu_s - was.cpu_s) / elapsed_s, f"{whose} {_CPU}")
            yield Share(f"{process.name} disk", (process.disk_s - was.disk_s) / elapsed_s, f"{whose} disk")


def _of_links(before: Reading, after: Reading, elapsed_s: float) -> Iterator[Share]:
    earlier = {link.name: link for link in before.links}
    for link in after.links:
        was = earlier.get(link.name)
        if was is not None:
            carried = max(link.sent_bytes - was.sent_bytes, link.received_bytes - was.received_bytes)
            yield Share(f"link {link.name}", carried / elapsed_s / link.capacity_bytes_per_s)


def limit_of(found: Sequence[Share]) -> Limit:
    """What of `found` was the limit. All processors of a machine come first, for then the others' shares mislead."""
    ordered = sorted(found, key=lambda share: -share.part)
    machine = [share for share in ordered if share.kind == _MACHINE]
    strangers = [share for share in ordered if share.kind == _OTHERS]
    if machine and machine[0].part >= _ALL_PROCESSORS:
        return Limit(True, (*machine, *(share for share in ordered if share.kind != _MACHINE)))
    ours = [share for share in ordered if share.kind not in (_MACHINE, _OTHERS)]
    return Limit(bool(ours) and ours[0].part >= BUSY, (*ours, *machine, *strangers))


def in_words(limit: Limit) -> str:
    """For a table: `NameNode disk 93 %`, or `shared: client CPU 45 %, NameNode disk 30 %`.

    Of a machine without a free processor also who used most of them.
    """
    worth = _one_of_a_kind(limit)
    if limit.is_known and worth:
        first, *others = worth
        most = [share for share in others if share.kind.endswith(_CPU)] if first.kind == _MACHINE else []
        return ", most by ".join(_word(share) for share in (first, *most[:1]))
    words = [_word(share) for share in worth if share.kind not in (_MACHINE, _OTHERS)]
    return "shared: " + ", ".join(words[:_MENTIONED_MAX]) if words else "nothing that was measured"


def _one_of_a_kind(limit: Limit) -> list[Share]:
    """Those that are worth a word: the largest of each kind."""
    kinds: dict[str, Share] = {}
    for share in limit.shares:
        if share.part >= _MENTIONED:
            kinds.setdefault(share.kind or share.what, share)
    return list(kinds.values())


def _word(share: Share) -> str:
    return f"{share.what} {share.part * 100:.0f} %"
