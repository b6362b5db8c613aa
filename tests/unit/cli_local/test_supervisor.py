"""A supervisor keeps programs running, whatever they do, and leaves none behind. Its programs here are real ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.cli.local import control, locks, running
from dfs.cli.local.layout import Layout
from dfs.cli.local.roster import Program, Roster, environment
from dfs.cli.local.supervisor import supervise
from tests.unit.cli_local import children

PATIENCE_S = 20


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.claim()
    return made


async def ask(layout: Layout, line: bytes) -> dict[str, Any]:
    """As `control.request`, without holding up the supervisor that runs in this very thread."""
    with trio.fail_after(PATIENCE_S), trio.socket.socket(trio.socket.AF_UNIX) as sock:
        await sock.connect(str(layout.socket))
        stream = trio.SocketStream(sock)
        await stream.send_all(line)
        received = b"".join([part async for part in stream])
    found = json.loads(received)
    assert isinstance(found, dict)
    return found


async def request(layout: Layout, do: str) -> dict[str, Any]:
    return await ask(layout, json.dumps({"do": do}).encode() + b"\n")


async def daemon_when(layout: Layout, name: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What the supervisor knows of a daemon, once `condition` holds of it."""
    with trio.fail_after(PATIENCE_S):
        while True:
            found = (await request(layout, "status"))["cluster"]["daemons"].get(name)
            if found is not None and condition(found):
                return dict(found)
            await trio.sleep(0.02)


def runs(daemon: dict[str, Any]) -> bool:
    return bool(daemon["state"] == "running")


@asynccontextmanager
async def supervised(layout: Layout, *programs: Program) -> AsyncIterator[list[Program]]:
    """A supervisor of programs, to which more may be added for it to find at the next reload."""
    roster = list(programs)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervise, layout, lambda: Roster(tuple(roster), 1))
        yield roster
        if layout.socket.exists():
            assert await request(layout, "stop") == {"stopped": True}


# --- keeping daemons ------------------------------------------------------------------------------------


async def test_daemon_that_says_it_is_ready_is_running(layout: Layout) -> None:
    async with supervised(layout, children.serving("namenode"), children.serving("n1", stage=1)):
        daemon = await daemon_when(layout, "n1", runs)
        os.kill(daemon["pid"], 0)
        await daemon_when(layout, "namenode", runs)
        cluster = layout.read_cluster()
        assert cluster["version"] == 1
        assert cluster["pid"] == os.getpid()
        assert cluster["datanodes"] == 1
        assert cluster["replicas"] == 1
        assert cluster["daemons"]["n1"] == {**daemon, "address": "127.0.0.1:1", "restarts": 0, "state": "running"}
    assert layout.log("n1").read_text() == "serving\n"


async def test_daemon_that_never_says_so_is_starting(layout: Layout) -> None:
    async with supervised(layout, children.never_ready("n1")):
        daemon = await daemon_when(layout, "n1", lambda daemon: daemon["pid"] is not None)
        assert daemon["state"] == "starting"


async def test_killed_daemon_is_started_again(layout: Layout) -> None:
    async with supervised(layout, children.serving("namenode"), children.serving("n1", stage=1)):
        first = await daemon_when(layout, "n1", runs)
        other = await daemon_when(layout, "namenode", runs)
        os.kill(first["pid"], signal.SIGKILL)
        second = await daemon_when(layout, "n1", lambda daemon: runs(daemon) and daemon["restarts"] == 1)
        assert second["pid"] != first["pid"]
        assert await daemon_when(layout, "namenode", runs) == other


async def test_daemon_that_fails_is_tried_again_and_again(layout: Layout) -> None:
    async with supervised(layout, children.failing("n1")):
        daemon = await daemon_when(
            layout, "n1", lambda daemon: daemon["restarts"] >= 2 and daemon["state"] == "backing off"
        )
        assert daemon["pid"] is None
        assert layout.log("n1").read_text().count("the port is taken") == daemon["restarts"] + 1


async def test_datanode_that_was_removed_is_let_go_and_its_configuration_set_aside(layout: Layout) -> None:
    layout.datanode(1).touch()
    async with supervised(layout, children.removed("n1"), children.serving("n2", stage=1)):
        await daemon_when(layout, "n2", runs)
        with trio.fail_after(PATIENCE_S):
            while "n1" in (await request(layout, "status"))["cluster"]["daemons"]:
                await trio.sleep(0.02)
        assert layout.read_cluster()["datanodes"] == 1
        assert (layout.datanode_numbers(), layout.removed_numbers()) == ([], [1])


async def test_program_that_is_not_there_fails_no_other(layout: Layout, tmp_path: Path) -> None:
    missing = Program("n1", (str(tmp_path / "missing"),))
    async with supervised(layout, missing, children.serving("n2")):
        await daemon_when(layout, "n1", lambda daemon: daemon["restarts"] >= 1)
        await daemon_when(layout, "n2", runs)


async def test_reload_tries_at_once_what_waits(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_DELAY_FIRST_S", 3600.0)
    async with supervised(layout, children.failing("n1")):
        await daemon_when(layout, "n1", lambda daemon: daemon["state"] == "backing off")
        await request(layout, "reload")
        await daemon_when(layout, "n1", lambda daemon: daemon["restarts"] == 1)


async def test_reload_starts_what_is_new_and_leaves_the_rest(layout: Layout) -> None:
    async with supervised(layout, children.serving("n1")) as roster:
        before = await daemon_when(layout, "n1", runs)
        roster.append(children.serving("n2"))
        await request(layout, "reload")
        await daemon_when(layout, "n2", runs)
        assert await daemon_when(layout, "n1", runs) == before


async def restart(layout: Layout, name: str) -> dict[str, Any]:
    return await ask(layout, json.dumps({"do": "restart", "daemon": name}).encode() + b"\n")


async def test_restart_ends_a_daemon_in_order_and_starts_it_at_once_as_it_is_configured_now(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RESTART_DELAY_FIRST_S", 3600.0)
    book = tmp_path / "book"
    async with supervised(layout, children.serving("namenode"), children.signing_off("n1", book, 1)) as roster:
        first = await daemon_when(layout, "n1", runs)
        other = await daemon_when(layout, "namenode", runs)
        roster[1] = children.serving("n1", stage=1)
        await restart(layout, "n1")
        second = await daemon_when(layout, "n1", lambda daemon: runs(daemon) and daemon["restarts"] == 1)
        assert second["pid"] != first["pid"]
        assert book.read_text() == "n1\n"
        assert layout.log("n1").read_text() == "serving\n"
        assert await daemon_when(layout, "namenode", runs) == other


async def test_restart_of_a_daemon_that_waits_tries_it_at_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_DELAY_FIRST_S", 3600.0)
    async with supervised(layout, children.failing("n1")) as roster:
        await daemon_when(layout, "n1", lambda daemon: daemon["state"] == "backing off")
        roster[0] = children.serving("n1")
        await restart(layout, "n1")
        assert (await daemon_when(layout, "n1", runs))["restarts"] == 1


async def test_restarted_daemon_that_dies_by_itself_is_started_again_later(layout: Layout) -> None:
    async with supervised(layout, children.serving("n1")):
        await daemon_when(layout, "n1", runs)
        await restart(layout, "n1")
        again = await daemon_when(layout, "n1", lambda daemon: runs(daemon) and daemon["restarts"] == 1)
        os.kill(again["pid"], signal.SIGKILL)
        await daemon_when(layout, "n1", lambda daemon: daemon["state"] == "backing off")
        await daemon_when(layout, "n1", lambda daemon: runs(daemon) and daemon["restarts"] == 2)


async def test_restart_of_a_daemon_that_there_is_not_is_an_answer(layout: Layout) -> None:
    async with supervised(layout, children.serving("n1")):
        assert "no daemon 'n7' runs" in (await restart(layout, "n7"))["error"]
        await daemon_when(layout, "n1", runs)


async def test_reload_of_a_broken_configuration_is_an_answer(layout: Layout) -> None:
    sound = True

    def read() -> Roster:
        if not sound:
            raise errors.ConfigError("n1.toml:3: unknown key 'lisen'")
        return Roster((children.serving("n1"),))

    async with trio.open_nursery() as nursery:
        await nursery.start(supervise, layout, read)
        before = await daemon_when(layout, "n1", runs)
        sound = False
        assert await request(layout, "reload") == {"error": "n1.toml:3: unknown key 'lisen'"}
        assert await daemon_when(layout, "n1", runs) == before
        await request(layout, "stop")


async def test_log_that_is_full_is_put_aside_while_its_daemon_writes(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_FILE_MAX_BYTES", 4)
    monkeypatch.setattr(limits, "LOG_CHECK_PERIOD_S", 0.05)
    async with supervised(layout, children.serving("n1")):
        await daemon_when(layout, "n1", runs)
        before = layout.log("n1").with_name("n1.log.1")
        with trio.fail_after(PATIENCE_S):
            while not before.exists() or layout.log("n1").stat().st_size > 0:
                await trio.sleep(0.02)
        assert before.read_text() == "serving\n"


# --- stopping -------------------------------------------------------------------------------------------


async def test_datanodes_stop_before_the_namenode(layout: Layout, tmp_path: Path) -> None:
    book = tmp_path / "book"
    programs = [children.signing_off(name, book, stage) for name, stage in (("namenode", 0), ("n1", 1), ("n2", 1))]
    async with supervised(layout, *programs):
        for program in programs:
            await daemon_when(layout, program.name, runs)
    names = book.read_text().split()
    assert sorted(names[:2]) == ["n1", "n2"]
    assert names[2:] == ["namenode"]


async def test_after_stop_the_file_shows_nothing_running(layout: Layout) -> None:
    async with supervised(layout, children.serving("n1")):
        await daemon_when(layout, "n1", runs)
    cluster = layout.read_cluster()
    assert cluster["pid"] is None
    assert cluster["daemons"]["n1"]["pid"] is None
    assert cluster["daemons"]["n1"]["state"] == "stopped"
    assert locks.is_free(layout.supervisor_lock)
    assert not layout.socket.exists()


async def test_daemon_that_does_not_stop_is_killed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCAL_STOP_TIMEOUT_S", 0.2)
    async with supervised(layout, children.deaf("n1")):
        daemon = await daemon_when(layout, "n1", runs)
    with pytest.raises(ProcessLookupError):
        os.kill(daemon["pid"], 0)


async def test_stop_does_not_wait_out_a_back_off(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RESTART_DELAY_FIRST_S", 3600.0)
    async with supervised(layout, children.failing("n1")):
        await daemon_when(layout, "n1", lambda daemon: daemon["state"] == "backing off")


# --- orders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", [b"\n", b"stop\n", b"[]\n", b'{"do": "dance"}\n', b"\xff" * limits.LOCAL_CONTROL_MAX_BYTES]
)
async def test_request_that_is_none_gets_a_sentence(layout: Layout, line: bytes) -> None:
    async with supervised(layout, children.serving("n1")):
        assert "one line of JSON" in (await ask(layout, line))["error"]
        await daemon_when(layout, "n1", runs)


async def test_peer_that_hangs_up_is_no_trouble(layout: Layout) -> None:
    async with supervised(layout, children.serving("n1")):
        with trio.socket.socket(trio.socket.AF_UNIX) as sock:
            await sock.connect(str(layout.socket))
            await sock.send(b'{"do": "status"}\n')
        await daemon_when(layout, "n1", runs)


async def test_only_the_owner_may_give_orders(layout: Layout) -> None:
    async with supervised(layout):
        assert layout.socket.stat().st_mode & 0o777 == 0o600


async def test_second_supervisor_is_refused(layout: Layout) -> None:
    async with supervised(layout, children.serving("n1")):
        with pytest.raises(errors.DirectoryInUse, match="dfs down"):
            await supervise(layout, lambda: Roster(()))
        await daemon_when(layout, "n1", runs)


# --- a supervisor of its own process --------------------------------------------------------------------

_SUPERVISOR = """
import sys, trio
from dfs.cli.local.layout import Layout
from dfs.cli.local.roster import Program, Roster
from dfs.cli.local.supervisor import supervise
programs = [Program(name, tuple(argv)) for name, *argv in {programs!r}]
trio.run(supervise, Layout(sys.argv[1]), lambda: Roster(tuple(programs), 1))
"""


@contextmanager
def supervisor_process(layout: Layout, *programs: Program) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own, all of whose daemons run."""
    code = _SUPERVISOR.format(programs=[[program.name, *program.argv] for program in programs])
    with subprocess.Popen([sys.executable, "-c", code, str(layout.directory)], env=environment()) as process:
        try:
            wait_until(lambda: _all_run(layout))
            yield process
        finally:
            process.kill()


def _all_run(layout: Layout) -> bool:
    reply = control.request(layout, "status")
    return reply is not None and all(map(runs, reply["cluster"]["daemons"].values()))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_killed_supervisor_takes_its_daemons_along(layout: Layout) -> None:
    with supervisor_process(layout, children.serving("namenode"), children.serving("n1")) as process:
        assert sorted(locks.holders(layout.supervisor_lock)) == sorted(
            [process.pid, *(daemon["pid"] for daemon in layout.read_cluster()["daemons"].values())]
        )
        process.kill()
        process.wait()
        assert running.ask(layout, "status") is None
        assert locks.holders(layout.supervisor_lock) == []


def test_daemon_that_outlives_its_killed_supervisor_is_killed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with supervisor_process(layout, children.deaf("n1")) as process:
        process.kill()
        process.wait()
        assert locks.holders(layout.supervisor_lock) == [layout.read_cluster()["daemons"]["n1"]["pid"]]
        monkeypatch.setattr(running, "_PASSING_TIMEOUT_S", 0.1)
        assert running.stop(layout)
    assert locks.is_free(layout.supervisor_lock)


def test_new_supervisor_takes_over_from_a_killed_one(layout: Layout) -> None:
    with supervisor_process(layout, children.serving("n1")) as process:
        first = layout.read_cluster()["daemons"]["n1"]["pid"]
        process.kill()
        process.wait()
        assert running.ask(layout, "reload") is None
        with supervisor_process(layout, children.serving("n1")):
            assert layout.read_cluster()["daemons"]["n1"]["pid"] != first
            assert running.stop(layout)
            assert not running.stop(layout)


def test_sigterm_stops_everything_in_order(layout: Layout, tmp_path: Path) -> None:
    book = tmp_path / "book"
    with supervisor_process(layout, children.signing_off("n1", book, 0)) as process:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        assert book.read_text() == "n1\n"
        assert locks.is_free(layout.supervisor_lock)


def test_directory_too_deep_for_a_socket_works_all_the_same(tmp_path: Path) -> None:
    layout = Layout(tmp_path / ("deep" * 30) / "er")
    layout.claim()
    with supervisor_process(layout, children.serving("n1")):
        assert running.stop(layout)
