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


def sent_during(site: Site, *command: str | Path) -> tuple[int, int]:
    """What the client has sent, and all DataNodes."""
    before = {name: sent_bytes(site.network, name) for name in site.network.names}
    site.dfs(*command, check=True)
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
    site.dfs("download", "/file", tmp_path / "again", check=True)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()
    site.until_sound()
