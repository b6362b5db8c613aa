"""What goes wrong in a run, when, for how long, by the seed's chance, and never more than the contract allows for.

Several faults may be on at once, each a task: it breaks something, waits, and mends it. A `Profile` says which kinds
there are and how many DataNodes may be in trouble at once. Bytes are destroyed for good (an empty node, a flipped bit)
only where enough other copies are good that the contract promises the data all the same: `good_copies` looks at the
disks themselves for that, not at what the NameNode believes.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import trio

from nodes.datanode import identity
from nodes.datanode.index import RECORDS_OFFSET, BlockIndex
from tests.simulation import settings
from tests.simulation.cluster import NAMENODE, Cluster
from tests.simulation.disk import MemoryDisk
from tests.simulation.process import Process

CLOCK_JUMP_MAX_S: Final = 20.0
_FLIPS_MAX: Final = 4
"""Bits of one DataNode that flip at once."""


class Profile(NamedTuple):
    """`trouble`: errors may reach clients. `nodes_down`: DataNodes in trouble at once, at most."""

    name: str
    kinds: tuple[str, ...]
    trouble: bool
    nodes_down: int
    pause_s: float


_NODE: Final = (
    "lose_answers",
    "lose_answers",
    "kill",
    "kill",
    "stop",
    "isolate",
    "one_way",
    "slow",
    "reset",
    "power",
    "power_at_write",
)
_DAMAGE: Final = ("replace", "flip", "broken_disk", "full_disk")
_CLUSTER: Final = ("namenode", "namenode", "client", "client", "cut_client", "outlast", "blackout", "clock", "reset")

PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("calm", ("reset", "slow", "lose_answers", "lose_answers"), False, 0, 2.0),
        Profile("one-node", _NODE + _DAMAGE, False, 1, 1.5),
        Profile("two-nodes", _NODE, False, 2, 1.5),
        Profile("storm", _NODE + _DAMAGE + _CLUSTER + _CLUSTER, True, 2, 0.8),
    )
}


class Faults:
    """Use `run` as a task; `heal` ends all faults and brings everything back."""

    def __init__(self, cluster: Cluster, profile: Profile, chance: random.Random, nursery: trio.Nursery) -> None:
        self._cluster = cluster
        self._profile = profile
        self._chance = chance
        self._nursery = nursery
        self._troubled: dict[str, str] = {}
        """Processes with a fault, and which."""
        self._damaged: set[tuple[int, int]] = set()
        """Blocks (chunk, number) one copy of which was damaged: no other copy of theirs is."""
        self._ending = trio.Event()
        self._under_way = 0
        self._none_under_way = trio.Event()
        self.lost_power = False

    async def run(self) -> None:
        """Break things until `heal`."""
        with trio.CancelScope() as scope:
            self._scope = scope
            while not self._ending.is_set():
                await self._pause(self._chance.uniform(0.2, 2 * self._profile.pause_s))
                kind = self._chance.choice(self._profile.kinds)
                if not self._ending.is_set():
                    self._begin(kind)

    def _begin(self, kind: str) -> None:
        victim = self._victim(kind)
        if victim is None:
            return
        self._troubled[victim.name] = kind
        self._under_way += 1
        self._cluster.story.counts[kind] += 1
        self._nursery.start_soon(self._carry_out, kind, victim)

    def _victim(self, kind: str) -> Process | None:
        processes = self._cluster.processes
        if kind == "namenode":
            names = [NAMENODE]
        elif kind in ("client", "cut_client", "outlast"):
            names = [name for name in processes if name.startswith("c")]
        elif kind in ("blackout", "reset", "clock", "lose_answers"):
            names = [*processes, NAMENODE, NAMENODE]  # who is talked to most
        else:
            names = self._cluster.datanodes
        in_trouble = sum(name in self._troubled for name in self._cluster.datanodes)
        harmless = kind in ("reset", "lose_answers", "slow", "clock", "client", "cut_client", "outlast", "namenode")
        if not harmless and in_trouble >= self._profile.nodes_down:
            return None
        free = [name for name in names if name not in self._troubled and processes[name].is_up]
        return processes[self._chance.choice(free)] if free else None

    async def _carry_out(self, kind: str, victim: Process) -> None:
        action: Callable[[Process], Awaitable[None]] = getattr(self, "_" + kind)
        try:
            await action(victim)
        finally:
            del self._troubled[victim.name]
            self._under_way -= 1
            if not self._under_way:
                self._none_under_way.set()
                self._none_under_way = trio.Event()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not beyond `heal`."""
        with trio.move_on_after(seconds):
            await self._ending.wait()

    def _tell(self, what: str) -> None:
        self._cluster.story.tell("fault", what)

    async def heal(self) -> None:
        """End all faults; on return every process is up and every link whole."""
        self._tell("-- all is to be healed --")
        self._ending.set()
        while self._under_way:
            await self._none_under_way.wait()
        self._cluster.network.heal_all()
        latest_s = max(process.clock.offset_s for process in self._cluster.processes.values())
        for process in self._cluster.processes.values():
            process.clock.offset_s = latest_s  # no due time is left in the future

    # --- processes

    async def _restart(self, victim: Process) -> None:
        await self._pause(self._chance.choice((0.01, 0.5, 3.0, 8.0, 20.0)))
        victim.start()
        await self._pause(2.0)

    async def _kill(self, victim: Process) -> None:
        await victim.crash(power=False)
        await self._restart(victim)

    async def _stop(self, victim: Process) -> None:
        await victim.stop()
        await self._restart(victim)

    async def _power(self, victim: Process) -> None:
        self.lost_power = True
        await victim.crash(power=True)
        await self._restart(victim)

    async def _power_at_write(self, victim: Process) -> None:
        """In the middle of something."""
        self.lost_power = True
        life = victim.life
        assert life is not None
        self._chance.choice(victim.disks).power_off_after(self._chance.randrange(20))
        with trio.move_on_after(5.0):
            await life.gone.wait()
        await victim.crash(power=True)
        await self._restart(victim)

    async def _namenode(self, victim: Process) -> None:
        if self._chance.random() < 0.3:
            await victim.stop()
        else:
            await victim.crash(power=True)
        await self._pause(self._chance.choice((0.01, 1.0, 5.0, 15.0)))
        victim.start()
        await self._pause(3.0)

    async def _client(self, victim: Process) -> None:
        await victim.crash(power=True)
        await self._pause(self._chance.choice((0.01, 3.0, 15.0)))
        victim.start()

    async def _blackout(self, _victim: Process) -> None:
        """The power of the whole room."""
        self.lost_power = True
        names = [name for name in (NAMENODE, *self._cluster.datanodes) if name not in self._troubled]
        names = [name for name in names if self._cluster.processes[name].is_up]
        for name in names:
            self._troubled[name] = "blackout"
            self._cluster.processes[name].cut(power=True)
        for name in names:
            await self._cluster.processes[name].crash(power=True)
        await self._pause(self._chance.choice((0.5, 5.0)))
        for name in names:
            self._cluster.processes[name].start()
            if name != _victim.name:
                del self._troubled[name]
        self._troubled.setdefault(_victim.name, "blackout")

    # --- the network

    def _others(self, name: str) -> list[str]:
        return [other for other in self._cluster.processes if other != name]

    async def _isolate(self, victim: Process) -> None:
        await self._cut([(victim.name, other) for other in self._others(victim.name)], both_ways=True)

    async def _one_way(self, victim: Process) -> None:
        pairs = [(victim.name, other) for other in self._others(victim.name)]
        if self._chance.random() < 0.5:
            pairs = [(other, name) for name, other in pairs]
        if self._chance.random() < 0.5:
            pairs = [self._chance.choice(pairs)]
        await self._cut(pairs, both_ways=False)

    async def _cut_client(self, victim: Process) -> None:
        other = self._chance.choice((NAMENODE, NAMENODE, *self._cluster.datanodes))
        await self._cut([(victim.name, other)], both_ways=self._chance.random() < 0.5)

    async def _outlast(self, victim: Process) -> None:
        """A client is cut off for longer than its session lasts, and goes on with what it has in memory."""
        for_s = settings.LIMITS["SESSION_TIMEOUT_S"] + self._chance.uniform(1.0, 5.0)
        await self._cut([(victim.name, NAMENODE)], both_ways=self._chance.random() < 0.5, for_s=for_s)

    async def _cut(self, pairs: list[tuple[str, str]], *, both_ways: bool, for_s: float | None = None) -> None:
        shown = f"{pairs[0][0]} and {pairs[0][1]}" + (f" and {len(pairs) - 1} more pairs" if pairs[1:] else "")
        self._tell(f"nothing passes between {shown}" + ("" if both_ways else ", one way"))
        for one, other in pairs:
            self._cluster.network.partition(one, other, both_ways=both_ways)
        await self._pause(for_s or self._chance.choice((0.5, 3.0, 8.0, 20.0)))
        for one, other in pairs:
            self._cluster.network.heal(one, other)
        self._tell(f"all passes again between {shown}")
        await self._pause(2.0)

    async def _reset(self, victim: Process) -> None:
        other = self._chance.choice(self._others(victim.name))
        count = self._cluster.network.reset(victim.name, other)
        self._tell(f"{count} connections between {victim.name} and {other} are reset")

    async def _lose_answers(self, victim: Process) -> None:
        """What is asked of the victim gets there and happens; what it answers does not."""
        other = self._chance.choice([NAMENODE, *self._others(victim.name)])
        if other == victim.name:
            return
        self._tell(f"{victim.name}'s answers to {other} get lost")
        self._cluster.network.partition(victim.name, other, both_ways=False)
        await self._pause(self._chance.uniform(0.1, 2.0))
        self._cluster.network.reset(victim.name, other)
        self._cluster.network.heal(victim.name, other)

    async def _slow(self, victim: Process) -> None:
        self._tell(f"{victim.name} is slow")
        others = self._others(victim.name)
        delay_s = self._chance.choice((0.02, 0.2))
        victim.delay_s = delay_s * 2
        if victim.life is not None:
            victim.life.delay_s = victim.delay_s
        for other in others:
            self._cluster.network.set_latency(victim.name, other, delay_s)
        await self._pause(5.0)
        victim.delay_s = 0.002
        if victim.life is not None:
            victim.life.delay_s = victim.delay_s
        for other in others:
            self._cluster.network.set_latency(victim.name, other, 0.001)
        self._tell(f"{victim.name} is as fast as ever")

    async def _clock(self, victim: Process) -> None:
        jump_s = self._chance.uniform(-CLOCK_JUMP_MAX_S, CLOCK_JUMP_MAX_S)
        victim.clock.offset_s = jump_s
        self._tell(f"{victim.name}'s clock is {jump_s:+.3f} s off")

    # --- disks

    def good_copies(self) -> dict[int, int]:
        """Of each chunk that files use: DataNodes up that have all of it, durably, on a disk in order."""
        found: dict[int, int] = {row.chunk: 0 for row in self._cluster.chunks() if row.live}
        lengths = {row.chunk: row.length for row in self._cluster.chunks()}
        for name in self._cluster.datanodes:
            if self._cluster.processes[name].is_up and name not in self._troubled:
                for chunk, disk, path in self._cluster.held(name):
                    if chunk in found and disk.durable_size(path) >= lengths[chunk]:
                        found[chunk] += 1
        return found

    async def _wait_for_copies(self, victim: Process) -> bool:
        """Whether everything has all its copies soon."""
        for _ in range(20):
            if self._ending.is_set() or not victim.is_up:
                return False
            needed = settings.REPLICAS
            del self._troubled[victim.name]
            good = self.good_copies()
            self._troubled[victim.name] = "waits"
            if all(count >= needed for count in good.values()):
                return True
            await self._pause(2.0)
        return False

    async def _replace(self, victim: Process) -> None:
        """The node comes back with empty disks."""
        if not await self._wait_for_copies(victim):
            return
        await victim.crash(power=True)
        self._tell(f"{victim.name} gets new, empty disks")
        self._cluster.give_disks(victim.name)
        victim.may_end = True  # while the NameNode takes the old one for alive, the new one is refused
        while not victim.is_up:
            await trio.sleep(settings.LIMITS["NODE_SUSPECT_AFTER_S"] / 2)
            victim.start()
            await trio.sleep(1.0)
        victim.may_end = False
        self._troubled[victim.name] = "waits"
        await self._wait_for_copies(victim)

    async def _flip(self, victim: Process) -> None:
        if not await self._wait_for_copies(victim):
            return
        live = [row.chunk for row in self._cluster.chunks() if row.live]
        held = [each for each in self._cluster.held(victim.name) if each[0] in live and each[1].durable_size(each[2])]
        for _ in range(self._chance.randint(1, _FLIPS_MAX) if held else 0):
            chunk, disk, path = self._chance.choice(held)
            position = self._chance.randrange(disk.durable_size(path))
            index = BlockIndex.unpack(disk.read_file(path + ".idx")[RECORDS_OFFSET:])
            block = index.blocks_in(position)
            if position < index.length and (chunk, block) not in self._damaged:
                self._damaged.add((chunk, block))
                self._tell(f"a bit of {victim.name}'s {path} flips, at {position}")
                disk.flip_bit(path, position)

    async def _broken_disk(self, victim: Process) -> None:
        if not all(disk.exists(identity.PATH) for disk in victim.disks):
            return  # it has not joined the cluster yet: an empty disk that fails meanwhile is another story
        disk: MemoryDisk = self._chance.choice(victim.disks)
        operation = self._chance.choice(("read", "write", "sync", "names"))
        victim.may_end = True
        self._tell(f"{disk.name} answers EIO to each {operation}")
        disk.fail(operation, errno.EIO)
        await self._pause(self._chance.choice((1.0, 10.0, 20.0)))
        await victim.crash(power=False)
        disk.mend()
        self._tell(f"{disk.name} works again")
        await self._restart(victim)
        victim.may_end = False

    async def _full_disk(self, victim: Process) -> None:
        disk: MemoryDisk = self._chance.choice(victim.disks)
        used = disk.capacity_bytes() - disk.free_bytes()
        self._tell(f"{disk.name} is all but full")
        disk.set_capacity(used + self._chance.choice((0, 8192, 100_000)))
        await self._pause(self._chance.choice((1.0, 10.0)))
        disk.set_capacity(settings.DISK_BYTES)
        self._tell(f"{disk.name} has room again")
