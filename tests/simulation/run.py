"""One run: a cluster, its clients and its faults, from a seed.

The seed decides all: trio's order of tasks, the daemons' own chance, delays, operations and faults. Two runs of a seed
tell the same story to the byte, in any process and on any machine with the same libraries.
"""

from __future__ import annotations

from tests.keys import ADMIN, CLIENT

from tests.simulation import settings as settings  # isort: skip - before anything else of dfs

import os
import random
import shutil
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final, NamedTuple

import structlog
import trio
import trio.testing

from dfs import errors
from dfs.client import FileSystem, open_filesystem
from dfs.client.cache import Cache
from dfs.client.openinodes import open_inodes
from tests.simulation.clock import VirtualClock
from tests.simulation.cluster import ADDRESS, NAMENODE, Cluster
from tests.simulation.faults import PROFILES, Faults, Profile
from tests.simulation.process import Life
from tests.simulation.story import Story
from tests.simulation.verdict import judge
from tests.simulation.workload import SAVED, Client, MountClient, Rules, Shared, saved

_START_MAX_S: Final = 60.0
_RUN_MAX_S: Final = 2000.0
"""Of virtual time: far more than any run needs, so a run that takes longer hangs."""
_SHORT_S: Final = (4.0, 12.0)
_LONG_S: Final = (16.0, 26.0)
_LONG_SHARE: Final = 0.2
"""How long clients work. Nearly all mistakes show as often in a short run, which costs half as much; in the long ones
DataNodes are dead, and come back, while clients work."""
_WEIGHTS: Final = (
    "calm",
    "one-node",
    "one-node",
    "one-node",
    "two-nodes",
    "two-nodes",
    "storm",
    "storm",
    "storm",
    "storm",
)


class Outcome(NamedTuple):
    """`violations` is empty if all was as promised. `cpu_s` is the only thing in it that differs between two runs."""

    seed: int
    profile: str
    violations: list[str]
    digest: str
    counts: Counter[str]
    virtual_s: float
    cpu_s: float
    lines: list[str]


def run(seed: int, profile: str = "") -> Outcome:
    """Simulate; `profile` is one of faults.PROFILES, chosen by the seed where it is empty."""
    chance = random.Random(f"{seed}/run")
    chosen = PROFILES[profile or chance.choice(_WEIGHTS)]
    story = Story()
    began = time.process_time()
    directory = Path(tempfile.mkdtemp(prefix="dfs-simulation-", dir=_memory()))
    hostname, umask = socket.gethostname, os.umask(0o022)
    socket.gethostname = lambda: "simulated"
    try:
        story.listen()
        _schedule_by(seed)
        virtual_s = trio.run(_run, seed, chosen, chance, directory, story, clock=VirtualClock())
    finally:
        structlog.reset_defaults()
        socket.gethostname = hostname
        os.umask(umask)
        shutil.rmtree(directory)
    cpu_s = time.process_time() - began
    return Outcome(seed, chosen.name, story.violations, story.digest(), story.counts, virtual_s, cpu_s, story.lines)


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _schedule_by(seed: int) -> None:
    """Tasks that can run at the same time run in an order that only the seed decides, as hypothesis-trio does it."""
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    trio._core._run._r.seed(f"{seed}/order")


async def _run(seed: int, profile: Profile, chance: random.Random, directory: Path, story: Story) -> float:
    rules = Rules(trouble=profile.trouble, lost=False)
    shared = Shared(story, rules)
    async with trio.open_nursery() as nursery:
        datanodes = chance.choice((4, 5, 5, 6)) if profile.nodes_down < 2 else chance.choice((5, 6, 7))
        cluster = Cluster(seed, directory, nursery, story, datanodes)
        story.tell("run", f"seed {seed}, profile {profile.name}, {datanodes} DataNodes")
        with trio.move_on_after(_RUN_MAX_S) as limit:
            await _simulate(cluster, shared, profile, chance, nursery)
        if limit.cancelled_caught:
            story.violated("run", f"the run did not end within {_RUN_MAX_S:g} s")
        for process in cluster.processes.values():
            await process.crash(power=False)
        virtual_s = trio.current_time()
        nursery.cancel_scope.cancel()
    return virtual_s


async def _simulate(
    cluster: Cluster, shared: Shared, profile: Profile, chance: random.Random, nursery: trio.Nursery
) -> None:
    for name in (NAMENODE, *cluster.datanodes):
        cluster.processes[name].start()
    judging = cluster.add("judge", lambda life: _judge(life, cluster, shared, profile, chance, nursery))
    life = judging.start()
    await life.gone.wait()


async def _judge(
    life: Life, cluster: Cluster, shared: Shared, profile: Profile, chance: random.Random, nursery: trio.Nursery
) -> None:
    """Who prepares the run, ends it, and looks at what is left."""
    while True:
        try:
            async with open_filesystem(ADDRESS, ADMIN, network=life, runtime=life) as fs:
                await _prepare(cluster, shared, fs)
            break
        except errors.Unreachable:
            if trio.current_time() > _START_MAX_S:
                raise
    faults = Faults(cluster, profile, chance, nursery)
    shared.until = trio.current_time() + chance.uniform(*(_LONG_S if chance.random() < _LONG_SHARE else _SHORT_S))
    clients = [_add_client(cluster, shared, chance, number) for number in range(1, chance.choice((2, 3, 3, 4)) + 1)]
    nursery.start_soon(faults.run)
    await trio.sleep_until(shared.until)
    await faults.heal()
    shared.rules.lost = faults.lost_power
    for name in clients:
        process = cluster.processes[name]
        assert process.life is not None
        await process.life.gone.wait()
    cluster.story.tell("run", "-- the clients are done --")
    async with open_filesystem(ADDRESS, ADMIN, network=life, runtime=life) as fs:
        await judge(cluster, fs, shared, Client("judge", fs, shared, life.random, 0.0))


async def _prepare(cluster: Cluster, shared: Shared, fs: FileSystem) -> None:
    with trio.fail_after(_START_MAX_S):
        while sum(view.state == "up" for view in await fs.nodes()) < len(cluster.datanodes):
            await trio.sleep(0.2)
    shared.names_ino = (await fs.mkdir("/names")).ino
    async with await fs.open("/log", "x"):
        pass
    shared.saved_ino = (await fs.mkdir("/saved")).ino
    for name in SAVED:
        async with await fs.open(f"/saved/{name}", "x") as file:
            await file.pwrite(saved("nobody", 3), 0)
            await file.fsync()


def _add_client(cluster: Cluster, shared: Shared, chance: random.Random, number: int) -> str:
    is_mount = number % 2 == 0
    pause_s = chance.choice((0.5, 1.0, 2.5))
    name = f"c{number}"

    async def main(life: Life) -> None:
        label = f"{name}-{cluster.processes[name].lives}"
        while trio.current_time() < shared.until:
            try:
                cache = Cache(*settings.CACHE) if is_mount else None
                async with open_filesystem(ADDRESS, CLIENT, network=life, runtime=life, cache=cache) as fs:
                    fs.session.host = name  # of its own: DataNodes send on what it appends
                    if is_mount:
                        async with open_inodes(fs) as inodes:
                            inodes.flush_on_close = number % 4 == 0
                            await MountClient(label, fs, shared, life.random, pause_s, inodes=inodes).run(label)
                    else:
                        await Client(label, fs, shared, life.random, pause_s).run(label)
            except errors.Unreachable as error:
                if not shared.rules.trouble:
                    raise
                cluster.story.tell(name, f"cannot start: {error}")

    cluster.add(name, main).start()
    return name
