"""What every daemon does: run until a signal, tell systemd how it goes, end with a sentence and a status."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import structlog

from dfs.telemetry import configure_logs

_UNITS = Path(__file__).parents[2] / "systemd"
_PROGRAM = """
import signal, sys, time, trio
from dfs import errors, tasks
from dfs.daemon import Condition, Health, run_daemon

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

health = Health()
health.ask = lambda: Condition(True, "serving at 127.0.0.1:7")
arrived = []

async def register(task_status=trio.TASK_STATUS_IGNORED):
    health.ask = lambda: Condition(bool(arrived), "registered" if arrived else "waiting for the NameNode")
    task_status.started("127.0.0.1:7")
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async for _ in signals:
            arrived.append(True)

async def stall(task_status=trio.TASK_STATUS_IGNORED):
    task_status.started("127.0.0.1:7")
    await trio.sleep(0.3)
    time.sleep(600)

sys.exit(run_daemon(globals()[sys.argv[1]], name="test", log_level="info", health=health, node="n1"))
"""


class Service:
    """systemd's end of the notifications."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(20)
        self._socket.bind(str(self.path))

    def start(self, what: str, stderr: IO[str] | int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, what],
            env={"NOTIFY_SOCKET": str(self.path), "PYTHONPATH": ":".join(sys.path), **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def told(self) -> dict[str, str]:
        """The next notification."""
        return dict(line.split("=", 1) for line in self._socket.recv(65536).decode().splitlines())

    def told_until(self, key: str, patience_s: float = 20) -> dict[str, str]:
        """The next notification that has this key. Raises TimeoutError when nothing at all comes for so long."""
        self._socket.settimeout(patience_s)
        while key not in (found := self.told()):
            pass
        return found

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
        assert systemd.told() == {"STATUS": "starting"}
        assert systemd.told() == {"READY": "1", "STATUS": "serving at 127.0.0.1:7"}
        daemon.send_signal(number)
        assert systemd.told() == {"STOPPING": "1", "STATUS": "stopping"}
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
        assert systemd.told_until("READY")["READY"] == "1"
        daemon.terminate()
        assert daemon.stdout.readline() == "stopping\n"
        daemon.terminate()
        assert daemon.wait(20) == 128 + signal.SIGTERM


def test_one_that_others_cannot_use_yet_is_not_ready_and_says_what_it_waits_for(systemd: Service) -> None:
    with systemd.start("register") as daemon:
        assert systemd.told() == {"STATUS": "starting"}
        assert systemd.told() == {"STATUS": "waiting for the NameNode"}
        daemon.send_signal(signal.SIGUSR1)
        assert systemd.told() == {"READY": "1", "STATUS": "registered"}
        daemon.terminate()
        assert daemon.wait(20) == 0


def test_the_watchdog_is_fed_while_the_event_loop_turns_and_sigabrt_tells_where_one_hangs(systemd: Service) -> None:
    with systemd.start("stall", WATCHDOG_USEC="300000") as daemon:
        assert systemd.told_until("WATCHDOG") == {"WATCHDOG": "1"}
        with pytest.raises(TimeoutError):  # the loop stands still: so do the pings
            systemd.told_until("nothing", patience_s=2)
        daemon.send_signal(signal.SIGABRT)
        _, log = daemon.communicate(timeout=20)
    assert daemon.returncode == -signal.SIGABRT
    assert "in stall" in log


def test_logs_in_a_file_are_logfmt_and_in_the_journal_carry_their_priority(systemd: Service, tmp_path: Path) -> None:
    with systemd.start("break_") as daemon:
        _, log = daemon.communicate(timeout=20)
    assert re.match(r"time=\S+Z level=info event=serving address=127.0.0.1:7 pid=\d+ daemon=test node=n1\n", log)
    with (tmp_path / "journal").open("w+") as journal:
        status = os.fstat(journal.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        with systemd.start("break_", stderr=journal, **environment) as daemon:
            assert daemon.wait(20) == 1
    lines = (tmp_path / "journal").read_text().splitlines()
    assert lines[0].startswith("<6>level=info event=serving ")
    assert lines[1].startswith('<3>level=error event="the daemon failed" ')
    assert lines[2].startswith("<3>Traceback")
    assert all(line.startswith("<3>") for line in lines[1:])


def test_notifications_go_to_abstract_sockets_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from dfs.systemd import notify

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0dfs-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@dfs-test-{os.getpid()}")
        notify(STATUS="two\nlines")
        assert manager.recv(100) == b"STATUS=two lines"


@pytest.mark.parametrize("what", ["refuse", "refuse_in_a_task"])
def test_one_that_may_not_run_says_why_in_a_sentence(systemd: Service, what: str) -> None:
    with systemd.start(what) as daemon:
        _, log = daemon.communicate(timeout=20)
    assert daemon.returncode == 1
    assert log.splitlines()[-1] == "dfs test: another daemon runs on /srv: stop it"
    assert "Traceback" not in log
    told = systemd.told()
    while told["STATUS"] in ("starting", "serving at 127.0.0.1:7"):
        told = systemd.told()
    assert told["STATUS"] == "another daemon runs on /srv: stop it"


def test_a_bug_is_logged_with_its_traceback(systemd: Service) -> None:
    with systemd.start("break_") as daemon:
        _, log = daemon.communicate(timeout=20)
    assert daemon.returncode == 1
    assert "Traceback" in log
    assert "a bug of ours" in log


@pytest.mark.parametrize("program", ["nodes.datanode.__main__", "nodes.namenode.__main__", "mount.__main__"])
def test_a_program_begins_without_what_it_does_not_use(program: str) -> None:
    if program.startswith("mount"):
        pytest.importorskip("pyfuse3")
    script = f"import {program}, sys; assert 'structlog' in sys.modules; assert 'rich' not in sys.modules; import rich"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_one_that_ends_by_itself_ends_well(systemd: Service) -> None:
    with systemd.start("end") as daemon:
        daemon.communicate(timeout=20)
    assert daemon.returncode == 0


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from dfs.systemd import notify

    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify(READY="1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/no/such/socket")
    notify(READY="1")


def test_without_descriptors_nobody_is_told_and_nobody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from dfs.systemd import notify

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setattr(socket, "socket", refuse)
    notify(WATCHDOG="1")


def test_a_log_that_cannot_be_written_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        configure_logs("info")
        log = structlog.get_logger()
        log.info("one")
        log.error("another", number=1)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()


@pytest.mark.parametrize("unit", sorted(_UNITS.glob("dfs-*node*.service")), ids=lambda path: path.name)
def test_a_daemon_of_systemd_waits_for_the_time_only_where_something_tells_it(unit: Path) -> None:
    lines = [line.partition("=") for line in unit.read_text().splitlines() if not line.startswith("#")]
    said = {key: [value for name, _, value in lines if name == key] for key in ("After", "Wants", "Requires")}
    assert any("time-sync.target" in value.split() for value in said["After"])
    assert not any("time-sync.target" in value for value in (*said["Wants"], *said["Requires"]))
