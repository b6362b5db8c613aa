"""What every daemon does: run until a signal, tell systemd how it goes, end with a sentence and a status."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_PROGRAM = """
import sys, trio
from dfs import errors, tasks
from dfs.daemon import run_daemon

async def serve(task_status=trio.TASK_STATUS_IGNORED):
    task_status.started("127.0.0.1:7")
    print("serving", flush=True)
    try:
        await trio.sleep_forever()
    finally:
        print("stopped in order", flush=True)

async def hang(task_status=trio.TASK_STATUS_IGNORED):
    task_status.started("127.0.0.1:7")
    print("serving", flush=True)
    try:
        await trio.sleep_forever()
    finally:
        print("stopping", flush=True)
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()

async def refuse(task_status=trio.TASK_STATUS_IGNORED):
    raise errors.DirectoryInUse("another daemon runs on /srv: stop it")

async def refuse_in_a_task(task_status=trio.TASK_STATUS_IGNORED):
    task_status.started("127.0.0.1:7")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)

async def break_(task_status=trio.TASK_STATUS_IGNORED):
    task_status.started("127.0.0.1:7")
    raise KeyError("a bug of ours")

async def end(task_status=trio.TASK_STATUS_IGNORED):
    task_status.started("127.0.0.1:7")

sys.exit(run_daemon(globals()[sys.argv[1]], name="test", log_level="info"))
"""


class Service:
    """systemd's end of the notifications."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(20)
        self._socket.bind(str(self.path))

    def start(self, what: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, what],
            env={"NOTIFY_SOCKET": str(self.path), "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def told(self) -> dict[str, str]:
        """The next notification."""
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().splitlines())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_serves_until_a_signal_and_stops_in_order(systemd: Service, number: signal.Signals) -> None:
    with systemd.start("serve") as daemon:
        assert daemon.stdout is not None
        assert systemd.told() == {"READY": "1", "STATUS": "serving at 127.0.0.1:7"}
        daemon.send_signal(number)
        assert systemd.told() == {"STOPPING": "1"}
        out, log = daemon.communicate(timeout=20)
    assert daemon.returncode == 0
    assert out.splitlines() == ["serving", "stopped in order"]
    assert "serving" in log
    assert "stopping" in log
    assert "Traceback" not in log


def test_a_second_signal_ends_one_that_does_not_come_to_its_end(systemd: Service) -> None:
    with systemd.start("hang") as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "serving\n"
        assert systemd.told()["READY"] == "1"
        daemon.terminate()
        assert daemon.stdout.readline() == "stopping\n"
        daemon.terminate()
        assert daemon.wait(20) == 128 + signal.SIGTERM


@pytest.mark.parametrize("what", ["refuse", "refuse_in_a_task"])
def test_one_that_may_not_run_says_why_in_a_sentence(systemd: Service, what: str) -> None:
    with systemd.start(what) as daemon:
        _, log = daemon.communicate(timeout=20)
    assert daemon.returncode == 1
    assert log.splitlines()[-1] == "dfs test: another daemon runs on /srv: stop it"
    assert "Traceback" not in log
    told = systemd.told()
    if "READY" in told:
        told = systemd.told()
    assert told["STATUS"] == "another daemon runs on /srv: stop it"


def test_a_bug_is_logged_with_its_traceback(systemd: Service) -> None:
    with systemd.start("break_") as daemon:
        _, log = daemon.communicate(timeout=20)
    assert daemon.returncode == 1
    assert "Traceback" in log
    assert "a bug of ours" in log


def test_one_that_ends_by_itself_ends_well(systemd: Service) -> None:
    with systemd.start("end") as daemon:
        daemon.communicate(timeout=20)
    assert daemon.returncode == 0


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from dfs.daemon import notify

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY="1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    notify(READY="1")
