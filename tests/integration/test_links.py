"""What crosses the links between hosts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hosts import Hosts, hosts, need_namespaces
from tests.integration.sites import CLIENT, NAMENODE, Site

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


def test_a_client_sends_each_copy_itself_and_fetches_one(site: Site, tmp_path: Path) -> None:
    size = 10 * MIB
    (tmp_path / "file").write_bytes(os.urandom(size))

    def sent_during(*command: str | Path) -> tuple[int, int]:
        """By the client, and by all DataNodes."""
        before = {name: sent_bytes(site.network, name) for name in site.network.names}
        site.dfs(*command, check=True)
        sent = {name: sent_bytes(site.network, name) - before[name] for name in site.network.names}
        return sent[CLIENT], sum(sent[name] for name in site.datanodes)

    by_client, by_datanodes = sent_during("upload", tmp_path / "file", "/")
    assert 3 * size < by_client < 3.3 * size
    assert by_datanodes < 0.2 * size
    by_client, by_datanodes = sent_during("download", "/file", tmp_path / "again")
    assert size < by_datanodes < 2.5 * size  # not every replica's: only reads that are slow ask another one as well
    assert by_client < 0.2 * size
