"""A cluster on this machine, as somebody meets it who has just installed dfs: up, used, hurt, down, and up again."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dfs.cli.local.layout import Layout
from dfs.cli.local.making import Wish, make
from dfs.cli.local.ports import FreePorts
from tests.forked import as_text, run_dfs
from tests.integration.real import wait_until

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "cluster")


@pytest.fixture
def dfs(layout: Layout, tmp_path: Path) -> Iterator[Shell]:
    """Runs `dfs` in a shell of a new user, and leaves no cluster behind."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"HOME": str(tmp_path), "DFS_CONFIG": str(layout.client)}

    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = as_text(run_dfs(*arguments, environment=environment))
        assert done.returncode == status, done.stderr
        return done

    yield run
    run("down", "--dir", str(layout.directory))


@pytest.fixture
def _kept_ports(layout: Layout) -> Iterator[None]:
    """The ports of the cluster are not to be had by others, though its supervisor, which claims them, is killed."""
    layout.claim()
    with FreePorts() as ports:
        make(layout, Wish(datanodes=2, replicas=2), ports)
        yield


@pytest.fixture
def up(dfs: Shell, layout: Layout) -> Callable[..., dict[str, Any]]:
    """`dfs up` of two DataNodes with two copies; what it reports."""

    def run(*arguments: str) -> dict[str, Any]:
        found = json.loads(dfs("up", "--dir", str(layout.directory), "--json", *arguments).stdout)
        assert isinstance(found, dict)
        return found

    run("--datanodes", "2", "--replicas", "2")
    return run


def pids(report: dict[str, Any]) -> dict[str, int]:
    return {name: daemon["pid"] for name, daemon in report["daemons"].items()}


def lives(pid: int) -> bool:
    """Whether a process runs; one that is over and only waits to be taken note of does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_up_status_down(dfs: Shell, layout: Layout) -> None:
    welcome = dfs("up", "--dir", str(layout.directory), "--datanodes", "2", "--replicas", "2").stdout
    assert "2 DataNodes, 2 copies of all data" in welcome
    assert "dfs upload FILE /" in welcome
    status = json.loads(dfs("status", "--json").stdout)
    assert sorted(node["node"] for node in status["nodes"]) == ["n1", "n2"]
    assert {node["state"] for node in status["nodes"]} == {"up"}
    assert "is down" in dfs("down", "--dir", str(layout.directory)).stdout
    assert not any(map(lives, status["pids"]))
    assert "No cluster runs" in dfs("down", "--dir", str(layout.directory)).stdout


def test_nobody_else_may_look_into_a_cluster_or_lock_it(up: Callable[..., dict[str, Any]], layout: Layout) -> None:
    up()
    for directory in (layout.directory, layout.directory / "namenode", layout.directory / "n1", layout.logs):
        assert directory.stat().st_mode & 0o777 == 0o700
    assert layout.command_lock.stat().st_mode & 0o077 == 0


def test_up_twice_starts_nothing_twice(up: Callable[..., dict[str, Any]]) -> None:
    first, second = up(), up("--datanodes", "2")
    assert not first["started"]
    assert pids(first) == pids(second)
    assert first["supervisor"] == second["supervisor"]


def test_killed_datanode_comes_back(up: Callable[..., dict[str, Any]]) -> None:
    before = pids(up())
    os.kill(before["n1"], signal.SIGKILL)
    wait_until(lambda: not lives(before["n1"]))
    after = up()
    assert after["daemons"]["n1"]["pid"] != before["n1"]
    assert after["daemons"]["n1"]["restarts"] == 1
    assert pids(after)["n2"] == before["n2"]


def test_data_is_there_after_down_and_up(
    dfs: Shell, up: Callable[..., dict[str, Any]], layout: Layout, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(300_000))
    dfs("upload", str(source), "/kept")
    dfs("down", "--dir", str(layout.directory))
    assert up()["started"]
    dfs("download", "/kept", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_restart_takes_one_daemon_after_another_while_files_are_written(
    dfs: Shell, up: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    before = up("--datanodes", "3")
    source, restarted = tmp_path / "source", threading.Event()
    source.write_bytes(os.urandom(300_000))

    def upload() -> int:
        """Upload until the daemons have been restarted, and once more; how many files."""
        for count in itertools.count(1):
            is_last = restarted.is_set()
            dfs("upload", str(source), f"/{count}")
            if is_last:
                break
        return count

    with ThreadPoolExecutor(1) as pool:
        uploading = pool.submit(upload)
        try:
            report = json.loads(dfs("restart", "--dir", before["dir"], "--json").stdout)
        finally:
            restarted.set()
        count = uploading.result()
    assert report["restarted"] == ["namenode", "n1", "n2", "n3"]
    assert {daemon["restarts"] for daemon in report["daemons"].values()} == {1}
    after = up()
    assert after["supervisor"] == before["supervisor"]
    assert not set(pids(after).values()) & set(pids(before).values())
    for number in range(1, count + 1):
        dfs("download", "--force", f"/{number}", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_restart_of_one_leaves_the_others(dfs: Shell, up: Callable[..., dict[str, Any]]) -> None:
    before = up()
    assert dfs("restart", "n2", "--dir", before["dir"]).stdout == "n2 runs again.\n"
    after = up()
    changed = {name for name, pid in pids(after).items() if pid != pids(before)[name]}
    assert changed == {"n2"}
    assert "no daemon 'n9'" in dfs("restart", "n9", "--dir", before["dir"], status=1).stderr


def test_restart_does_not_wait_for_a_datanode_that_was_away_before(
    dfs: Shell, up: Callable[..., dict[str, Any]]
) -> None:
    """As where its disks have failed: its own turn may mend that."""
    before = up()
    os.kill(pids(before)["n2"], signal.SIGSTOP)
    try:
        wait_until(lambda: "suspect" in dfs("nodes", "--config", before["config"]).stdout)
        assert dfs("restart", "n1", "--dir", before["dir"]).stdout == "n1 runs again.\n"
    finally:
        os.kill(pids(before)["n2"], signal.SIGCONT)


def test_restart_ends_at_the_first_daemon_that_cannot_start(
    dfs: Shell, up: Callable[..., dict[str, Any]], layout: Layout
) -> None:
    before = up()
    layout.datanode(1).write_text(layout.datanode(1).read_text() + 'key = "/missing"\n')
    assert "/missing" in dfs("restart", "--dir", before["dir"], status=1).stderr
    assert lives(pids(before)["n2"])


def test_restart_where_nothing_runs(dfs: Shell, layout: Layout) -> None:
    assert (
        f"`dfs up --dir {layout.directory}` starts it"
        in dfs("restart", "--dir", str(layout.directory), status=1).stderr
    )


@pytest.mark.usefixtures("_kept_ports")
def test_up_after_the_supervisor_was_killed(up: Callable[..., dict[str, Any]]) -> None:
    before = up()
    os.kill(before["supervisor"], signal.SIGKILL)
    after = up()
    assert after["started"]
    assert not any(map(lives, pids(before).values()))
    assert all(map(lives, pids(after).values()))


def test_down_after_the_supervisor_was_killed(dfs: Shell, up: Callable[..., dict[str, Any]], layout: Layout) -> None:
    before = up()
    os.kill(before["supervisor"], signal.SIGKILL)
    dfs("down", "--dir", str(layout.directory))
    assert not any(map(lives, pids(before).values()))


def test_datanodes_are_added_while_the_cluster_runs(up: Callable[..., dict[str, Any]]) -> None:
    before = up()
    after = up("--datanodes", "3")
    assert after["added"] == ["n3"]
    assert not after["started"]
    assert pids(after).items() > pids(before).items()


@pytest.mark.parametrize("verb", ["restart", "up"])
def test_a_removed_datanode_is_let_go(dfs: Shell, up: Callable[..., dict[str, Any]], layout: Layout, verb: str) -> None:
    """By `restart` while the cluster runs; by `up` after a `down` that came before the DataNode knew."""
    before = up("--datanodes", "3")
    dfs("drain", "n1", "--wait")
    os.kill(before["daemons"]["n1"]["pid"], signal.SIGSTOP)  # it does not hear of its removal by itself
    dfs("remove", "n1")
    os.kill(before["daemons"]["n1"]["pid"], signal.SIGCONT)
    if verb == "up":
        dfs("down", "--dir", before["dir"])
    assert f"n1 was removed from the cluster and is not run any more; what it keeps stays in {layout.directory}.\n" in (
        dfs(verb, "--dir", before["dir"]).stdout
    )
    after = up("--datanodes", "3")
    assert list(after["daemons"]) == ["namenode", "n2", "n3", "n4"]
    assert not set(pids(after).values()) & set(pids(before).values())
    assert (layout.directory / "n1").is_dir()


def test_a_datanode_that_has_not_heard_of_its_removal_does_not_count(
    dfs: Shell, up: Callable[..., dict[str, Any]]
) -> None:
    before = up("--datanodes", "3")
    dfs("drain", "n1", "--wait")
    os.kill(before["daemons"]["n1"]["pid"], signal.SIGSTOP)
    dfs("remove", "n1")
    os.kill(before["daemons"]["n1"]["pid"], signal.SIGCONT)
    after = up("--datanodes", "3")
    assert (after["datanodes"], after["added"], after["removed"], after["started"]) == (3, ["n4"], ["n1"], False)


def test_two_shells_say_up_at_once(layout: Layout, dfs: Shell, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "dfs.cli", "up", "--dir", str(layout.directory), "--datanodes", "1", "--json"]
    shells = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(shell.communicate(timeout=120)[0]) for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0]
    assert sorted(report["started"] for report in reports) == [False, True]
    assert pids(reports[0]) == pids(reports[1])


@pytest.mark.slow
def test_daemon_that_cannot_start_is_named_with_its_reason(dfs: Shell, layout: Layout) -> None:
    directory = str(layout.directory)
    dfs("up", "--dir", directory, "--datanodes", "1")
    dfs("down", "--dir", directory)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        kept = layout.datanode(1).read_text().splitlines(keepends=True)
        others = [line for line in kept if not line.startswith("listen")]
        layout.datanode(1).write_text("".join([*others, f'listen = "127.0.0.1:{port}"\n']))
        message = dfs("up", "--dir", directory, status=1).stderr
    assert message.count("\n") == 1
    assert message.startswith("dfs: n1 does not run: ")
    assert str(layout.log("n1")) in message
    wait_until(lambda: dfs("up", "--dir", directory).returncode == 0)
