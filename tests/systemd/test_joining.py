"""`dfs init` and `dfs join` on a machine that systemd runs: the daemons come up without a file edited by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.systemd.container import Container, fresh, missing

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """One with the package, and nothing in /etc/dfs."""
    reason = missing()
    if reason and os.environ.get("DFS_REQUIRE_FUSE") == "1":
        pytest.fail(f"DFS_REQUIRE_FUSE=1, but {reason}")
    if reason:
        pytest.skip(reason)
    with fresh(tmp_path_factory.mktemp("machine")) as container:
        container.boot()
        yield container


def test_a_machine_becomes_a_cluster_and_its_keys_rotate(machine: Container) -> None:
    told = machine.run("dfs init --listen 127.0.0.1:9400 --replicas 1")
    (command,) = [line.strip() for line in told.splitlines() if "systemctl" in line]
    machine.run(command)
    told = machine.run("dfs join token")
    (command,) = [line.strip() for line in told.splitlines() if "dfs join" in line]
    (token,) = [line.strip() for line in told.splitlines() if "dfsjoin_" in line]
    assert "It is started" in machine.run(f"echo {token} | {command} --name here --token -")
    machine.run("systemctl is-active dfs-namenode dfs-datanode && systemctl is-enabled dfs-datanode")
    assert machine.run("stat -c %U /etc/dfs/cluster.keys /etc/dfs/keys/here.key").split() == ["dfs", "dfs"]
    machine.run("echo one | dfs upload - /file && [ $(dfs cat /file) = one ]")
    machine.run("dfs key rotate")
    machine.until("dfs key status | grep 'Generation 2: in use'")
    machine.until("dfs key show /etc/dfs/keys/here.key | grep 'generation 2'")
    machine.run("dfs key retire 1 && systemctl restart dfs-namenode dfs-datanode && [ $(dfs cat /file) = one ]")
