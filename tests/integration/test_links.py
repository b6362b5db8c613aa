"""What crosses the links between hosts."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.integration.hosts import Hosts, hosts, need_namespaces
from tests.integration.sites import CLIENT, NAMENODE, PATIENCE_S, PYTHON, Site
from tests.integration.test_partitions import mounted

OTHER: Final = f"{CLIENT}-other"
TIMEOUT_S: Final = 10.0

MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A NameNode, three DataNodes with three copies, and a client, on links of 1 Gbit/s; all are up."""
    need_namespaces()
    with hosts(NAMENODE, "n1", "n2", "n3", CLIENT) as network:
        for name in network.names:
            network.limit(name, 1000)
        made = Site(network, tmp_path)
        made.start(NAMENODE, *made.datanodes)
        made.until(lambda: list(made.states().values()) == ["up"] * 3, "three DataNodes")
        yield made


def sent_bytes(network: Hosts, host: str) -> int:
    """What a host has sent over its link so far."""
    lines = network.run(host, ["cat", "/proc/net/dev"], check=True).stdout.splitlines()
    columns = next(line for line in lines if line.strip().startswith("eth0:")).partition(":")[2].split()
    return int(columns[8])


def sent_during(site: Site, *command: str | Path) -> tuple[int, int]:
    """What the client has sent, and all DataNodes."""
    before = {name: sent_bytes(site.network, name) for name in site.network.names}
    assert site.dfs(*command).returncode == 0
    sent = {name: sent_bytes(site.network, name) - before[name] for name in site.network.names}
    return sent[CLIENT], sum(sent[name] for name in site.datanodes)


def test_a_client_sends_each_copy_itself_and_fetches_one(site: Site, tmp_path: Path) -> None:
    size = 8 * MIB
    (tmp_path / "file").write_bytes(os.urandom(size))
    by_client, by_datanodes = sent_during(site, "upload", tmp_path / "file", "/")
    assert 3 * size < by_client < 3.3 * size
    assert by_datanodes < 0.2 * size
    by_client, by_datanodes = sent_during(site, "download", "/file", tmp_path / "again")
    assert size < by_datanodes < 2.5 * size  # not every replica's: only reads that are slow ask another one as well
    assert by_client < 0.2 * size


def test_of_a_large_file_a_client_with_a_narrow_link_sends_one_copy_and_nodes_the_others(
    site: Site, tmp_path: Path
) -> None:
    for name in site.network.names:
        site.network.limit(name, 200)
    size = 128 * MIB
    (tmp_path / "file").write_bytes(os.urandom(size))
    by_client, by_datanodes = sent_during(site, "upload", tmp_path / "file", "/")
    assert by_client < 1.4 * size, "but for its beginning, of which nothing follows yet"
    assert by_client + by_datanodes > 3 * size
    assert site.dfs("download", "/file", tmp_path / "again").returncode == 0
    assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()
    site.until_sound()


# Writes to a file in pieces, without one fsync before the end; prints how far it has come, and leaves the digest.
STREAM: Final = """
import hashlib, os, sys, time
digest, size, end = hashlib.sha256(), 0, time.monotonic() + float(sys.argv[2])
with open(sys.argv[1], "wb", buffering=0) as file:
    while time.monotonic() < end:
        data = os.urandom(256 * 1024)
        file.write(data)
        digest.update(data)
        size += len(data)
        print(size, flush=True)
    os.fsync(file.fileno())
with open(sys.argv[3], "w") as file:
    file.write(digest.hexdigest())
"""


def test_who_writes_over_a_slow_link_keeps_his_bytes_and_nobody_waiting_when_others_look(tmp_path: Path) -> None:
    need_namespaces()
    with hosts(NAMENODE, "n1", "n2", "n3", CLIENT, OTHER) as network:
        site = Site(network, tmp_path, session_timeout_s=TIMEOUT_S)
        site.start(NAMENODE, *site.datanodes)
        site.until(lambda: list(site.states().values()) == ["up"] * 3, "three DataNodes")
        network.limit(CLIENT, 16)
        with mounted(site) as here, mounted(site, OTHER) as there:
            log = tmp_path / "stream"
            with log.open("wb") as out:
                argv = [PYTHON, "-c", STREAM, str(here / "file"), str(1.5 * TIMEOUT_S), tmp_path / "digest"]
                process = subprocess.Popen(argv, stdout=out)
            try:
                while process.poll() is None:
                    time.sleep(TIMEOUT_S / 4)
                    written = log.read_text().splitlines()[-1]
                    assert (there / "file").stat().st_size >= int(written)
                assert process.wait(PATIENCE_S) == 0, "fsync succeeds"
            finally:
                process.kill()
                process.wait(PATIENCE_S)
            digest = hashlib.sha256((there / "file").read_bytes()).hexdigest()
            assert digest == (tmp_path / "digest").read_text()
