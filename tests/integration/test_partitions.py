"""Hosts that are cut off from the others, and come back: a cluster on network namespaces, used by programs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from dfs.mountpoint import is_mounted, unmount
from tests.integration.hosts import hosts, need_namespaces
from tests.integration.sites import CLIENT, DEAD_S, NAMENODE, PATIENCE_S, PYTHON, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A NameNode, four DataNodes with three copies, and a client, each on a host of its own; all are up."""
    need_namespaces()
    with hosts(NAMENODE, "n1", "n2", "n3", "n4", CLIENT) as network:
        made = Site(network, tmp_path)
        made.start(NAMENODE, *made.datanodes)
        made.until(lambda: list(made.states().values()) == ["up"] * 4, "four DataNodes")
        yield made


SESSION_S: Final = 6.0

# Writes files of 1 to 200 KiB, each fsynced, until told to end; prints each one's name and digest when it is durable.
WRITER: Final = """
import hashlib, os, random, signal, sys
end = []
signal.signal(signal.SIGTERM, lambda *_: end.append(1))
number = 0
while not end:
    data = random.randbytes(random.randrange(1024, 200 * 1024))
    with open(os.path.join(sys.argv[1], f"{number}"), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    print(number, hashlib.sha256(data).hexdigest(), flush=True)
    number += 1
"""


@contextlib.contextmanager
def mounted(site: Site, host: str = CLIENT) -> Iterator[Path]:
    """The cluster, mounted on a host, by default the client's."""
    where = site.directory / f"mnt-{host}"
    where.mkdir()
    done = site.dfs("mount", where, host=host)
    assert done.returncode == 0, done.stderr
    try:
        yield where
    finally:
        if is_mounted(where):
            unmount(where, lazy=True)


@contextlib.contextmanager
def writing(where: Path, log: Path) -> Iterator[Callable[[], int]]:
    """A program that writes on the mount all the time, without one error. Gives how many files are durable by now."""
    with log.open("wb") as out:
        process = subprocess.Popen([PYTHON, "-c", WRITER, str(where)], stdout=out)
        try:
            yield lambda: len(log.read_bytes().splitlines())
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
            process.wait(PATIENCE_S)


def wrote(more: int, *counts: Callable[[], int]) -> Callable[[], bool]:
    """Whether each program has made so many more files durable since this was called."""
    goals = [count() + more for count in counts]
    return lambda: all(count() >= goal for count, goal in zip(counts, goals, strict=True))


def all_there(where: Path, log: Path) -> bool:
    """Whether every file that was durable once has its bytes."""
    for line in log.read_text().splitlines():
        name, digest = line.split()
        if hashlib.sha256((where / name).read_bytes()).hexdigest() != digest:
            return False
    return True


@pytest.mark.fuse
def test_a_datanode_is_cut_off_for_good_and_comes_back_all_the_same(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "written"
    with mounted(site) as where:
        with writing(where, log) as count:
            site.until(lambda: count() > 20, "a few files")
            site.network.cut("n2")
            site.until(lambda: site.states()["n2"] == "dead", "n2 to be dead")
            reached = count()
            site.until(lambda: count() > reached + 20, "writing to go on without n2")
            site.network.join("n2")
            site.until(lambda: site.states()["n2"] == "up", "n2 to be back")
            reached = count()
            site.until(lambda: count() > reached + 20, "writing to go on with n2")
        assert all_there(where, log)
    site.until_sound()


@pytest.mark.fuse
def test_host_after_host_is_upgraded_beneath_mounts_on_two_of_them(site: Site, tmp_path: Path) -> None:
    logs = tmp_path / "one", tmp_path / "two"
    with mounted(site) as here, mounted(site, "n1") as there:
        tops = here / "one", there / "two"
        for top in tops:
            top.mkdir()
        with writing(tops[0], logs[0]) as first, writing(tops[1], logs[1]) as second:
            for name in (NAMENODE, *site.datanodes):
                site.until(wrote(5, first, second), "both to write")
                site.network.stop(name)
                site.start(name)
                site.until(lambda: list(site.states().values()) == ["up"] * 4, f"all to be up after {name}")
            site.until(wrote(5, first, second), "both to write")
        assert all_there(there / "one", logs[0])
        assert all_there(here / "two", logs[1])
    site.until_sound()


@pytest.mark.fuse
def test_the_namenode_is_cut_off_and_users_only_wait(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "written"
    with mounted(site) as where:
        with writing(where, log) as count:
            site.until(lambda: count() > 20, "a few files")
            site.network.cut(NAMENODE)
            time.sleep(DEAD_S + 3)  # so that it takes all DataNodes for dead
            site.network.join(NAMENODE)
            reached = count()
            site.until(lambda: count() > reached + 20, "writing to go on")
        assert all_there(where, log)
    site.until_sound()


@pytest.mark.fuse
def test_the_namenode_is_cut_off_for_longer_than_a_session_lasts_and_nothing_is_lost(tmp_path: Path) -> None:
    need_namespaces()
    with hosts(NAMENODE, "n1", "n2", "n3", CLIENT) as network:
        site = Site(network, tmp_path, session_timeout_s=SESSION_S)
        site.start(NAMENODE, *site.datanodes)
        site.until(lambda: list(site.states().values()) == ["up"] * 3, "three DataNodes")
        with mounted(site) as where, (where / "file").open("w+b", buffering=0) as file:
            (where / "file").unlink()
            file.write(b"kept")
            network.cut(NAMENODE)
            time.sleep(3 * SESSION_S)
            network.join(NAMENODE)
            os.fsync(file.fileno())
            file.seek(0)
            assert file.read() == b"kept"
        site.until_sound()


@pytest.mark.fuse
def test_the_client_is_cut_off_longer_than_its_session_and_works_again(site: Site, tmp_path: Path) -> None:
    with mounted(site) as where:
        (where / "before").write_bytes(b"before")
        os.sync()
        site.network.cut(CLIENT)
        time.sleep(DEAD_S)
        site.network.join(CLIENT)
        assert (where / "before").read_bytes() == b"before"
        (where / "after").write_bytes(b"after")
        assert sorted(path.name for path in where.iterdir()) == ["after", "before"]
    site.until_sound()
