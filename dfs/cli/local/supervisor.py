"""The supervisor: the one process of a local cluster that `dfs up` starts; it starts and keeps all others.

    python -m dfs.cli.local.supervisor --dir DIR

It takes the cluster's lock, opens the control socket, gives each program of the roster a `Keeper`, and writes every
change of theirs to cluster.json. It ends when it is asked to (`stop`, SIGTERM, SIGINT), after all daemons: those of the
highest stage first, each stage when the one above is gone. Killed with SIGKILL it takes the daemons along
(`Keeper`), and the lock is free when the last of them is gone.

A DataNode that was removed from the cluster is let go: its keeper ends, its configuration is set aside, what it keeps
stays.

What must hold: there is one supervisor for a directory (`supervisor.lock`); it leaves no daemon behind; no failure of
a daemon, a request or the disk ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from itertools import groupby
from typing import Any

import click
import structlog
import trio

from dfs import errors, limits, tasks
from dfs.cli.local import control, locks
from dfs.cli.local.keeper import REMOVED, Keeper
from dfs.cli.local.layout import Layout
from dfs.cli.local.roster import Roster, read_roster
from dfs.logfiles import empty_if_full
from dfs.telemetry import configure_logs

log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps a roster running. Use `supervise`. Everything happens in one event loop, nothing needs a lock."""

    def __init__(self, layout: Layout, read: Callable[[], Roster], lock: int) -> None:
        """`lock`: the descriptor of `supervisor.lock`, held."""
        self._layout = layout
        self._read = read
        self._lock = lock
        self._keepers: dict[str, Keeper] = {}
        self._replicas = 0
        self._pid: int | None = os.getpid()
        self._stop_asked = trio.Event()
        self._all_stopped = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start what the roster names and keep it running until asked to stop. Raises `ConfigError` at start only."""
        async with tasks.open_nursery() as replying:  # outlives the daemons: those who asked to stop get an answer
            async with tasks.open_nursery() as daemons:
                self._reload(daemons)
                async with tasks.open_nursery() as serving:
                    await serving.start(self._watch_signals)
                    await serving.start(self._serve, control.listen(self._layout), daemons, replying)
                    serving.start_soon(self._bound_logs)
                    task_status.started()
                    await self._stop_asked.wait()
                    # From here on nobody connects any more: a command that comes now waits for the lock.
                    serving.cancel_scope.cancel()
                await self._stop_daemons()
            self._pid = None
            self._write()
            self._all_stopped.set()
            replying.cancel_scope.deadline = trio.current_time() + 1  # a peer that reads its reply needs less

    # --- daemons ----------------------------------------------------------------------------------------

    def _reload(self, nursery: trio.Nursery) -> None:
        """Start what the roster names and does not run. Raises `ConfigError`, having started nothing."""
        roster = self._read()
        self._replicas = roster.replicas
        for program in roster.programs:
            known = self._keepers.get(program.name)
            if known is not None:
                known.hurry()
                continue
            keeper = Keeper(self._layout, program, self._lock, self._write)
            self._keepers[program.name] = keeper
            nursery.start_soon(self._keep, keeper)
        self._write()

    async def _keep(self, keeper: Keeper) -> None:
        await keeper.keep()
        if keeper.state == REMOVED:
            self._let_go(keeper.program.name)

    def _let_go(self, name: str) -> None:
        log.info("a daemon was removed from the cluster and is run no more; what it keeps stays", daemon=name)
        del self._keepers[name]
        try:
            self._layout.set_aside(name)
        except OSError as error:
            log.error("the configuration of a removed daemon cannot be set aside", daemon=name, error=str(error))
        self._write()

    def _restart(self, name: str) -> None:
        """Have a daemon end and start again, as it is configured now. Raises `ConfigError`, `InvalidArgument`."""
        programs = {program.name: program for program in self._read().programs}
        if name not in self._keepers or name not in programs:
            raise errors.InvalidArgument(
                f"no daemon {name!r} runs in {self._layout.directory}: there are {', '.join(self._keepers)}"
            )
        self._keepers[name].restart(programs[name])

    async def _stop_daemons(self) -> None:
        in_order = sorted(self._keepers.values(), key=_stage, reverse=True)
        for _, keepers in groupby(in_order, key=_stage):
            async with tasks.open_nursery() as nursery:
                for keeper in keepers:
                    nursery.start_soon(keeper.stop)

    def _cluster(self) -> dict[str, Any]:
        """What cluster.json holds, its version aside."""
        datanodes = sum(1 for keeper in self._keepers.values() if keeper.program.stage > 0)
        daemons = {name: keeper.view() for name, keeper in self._keepers.items()}
        return {"pid": self._pid, "datanodes": datanodes, "replicas": self._replicas, "daemons": daemons}

    def _write(self) -> None:
        try:
            self._layout.write_cluster(self._cluster())
        except OSError as error:  # a full disk: the daemons matter more than the file
            log.error("the cluster's file cannot be written", path=str(self._layout.cluster_file), error=str(error))

    async def _bound_logs(self) -> None:
        while True:
            await trio.sleep(limits.LOG_CHECK_PERIOD_S)
            for name in (*self._keepers, "supervisor"):
                try:
                    empty_if_full(self._layout.log(name))
                except OSError as error:
                    log.error("a log cannot be bounded", daemon=name, error=str(error))

    # --- orders -----------------------------------------------------------------------------------------

    async def _watch_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                log.info("stopping", signal=signal.Signals(number).name)
                self._stop_asked.set()

    async def _serve(
        self,
        sock: socket.socket,
        daemons: trio.Nursery,
        replying: trio.Nursery,
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]],
    ) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

        async def answer(stream: trio.SocketStream) -> None:
            await self._answer(stream, daemons)

        try:
            await trio.serve_listeners(answer, [listener], handler_nursery=replying, task_status=task_status)
        finally:
            self._layout.socket.unlink(missing_ok=True)

    async def _answer(self, stream: trio.SocketStream, daemons: trio.Nursery) -> None:
        async with stream:
            try:
                with trio.fail_after(limits.LOCAL_CONTROL_TIMEOUT_S):
                    line = await _receive_line(stream)
                reply = await self._obey(control.parse_request(line), daemons)
            except (trio.TooSlowError, trio.BrokenResourceError):
                return
            except errors.DfsError as error:
                reply = {"error": error.message}
            with trio.move_on_after(limits.LOCAL_CONTROL_TIMEOUT_S):
                try:
                    await stream.send_all(control.encode_reply(reply))
                except trio.BrokenResourceError:  # whoever asked has gone
                    pass

    async def _obey(self, order: control.Order, daemons: trio.Nursery) -> dict[str, Any]:
        if order.do == "stop":
            self._stop_asked.set()
            await self._all_stopped.wait()  # each daemon's end has its deadline
            return {"stopped": True}
        if order.do == "reload" and not self._stop_asked.is_set():
            self._reload(daemons)
        if order.do == "restart":
            self._restart(order.daemon)
        return {"cluster": self._cluster()}


def _stage(keeper: Keeper) -> int:
    return keeper.program.stage


async def _receive_line(stream: trio.SocketStream) -> bytes:
    received = bytearray()
    while not received.endswith(b"\n") and len(received) < limits.LOCAL_CONTROL_MAX_BYTES:
        more = await stream.receive_some(limits.LOCAL_CONTROL_MAX_BYTES)
        if not more:
            break
        received += more
    return bytes(received)


async def supervise(
    layout: Layout,
    read: Callable[[], Roster],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a supervisor of `layout` until it is asked to stop; `started` when it answers at the control socket.

    `read` tells what to run, at start and at each reload. Raises `DirectoryInUse` if another supervisor, or a daemon
    of an earlier one, is there still; `ConfigError` as `read` does.
    """
    lock = locks.take(layout.supervisor_lock)
    if lock is None:
        raise errors.DirectoryInUse(
            f"another supervisor, or a daemon that one left, still runs in {layout.directory}:"
            f" `{layout.command('down')}` stops it"
        )
    try:
        await Supervisor(layout, read, lock).run(task_status=task_status)
    finally:
        os.close(lock)


@click.command()
@click.option("--dir", "directory", required=True, type=click.Path(), help="The cluster's directory.")
def main(directory: str) -> None:
    """Run the daemons of a local cluster. `dfs up` starts this in the background."""
    layout = Layout(directory)
    configure_logs("info")
    log.info("supervising", directory=str(layout.directory), pid=os.getpid())
    try:
        trio.run(supervise, layout, lambda: read_roster(layout))
    except BaseException as error:
        first = tasks.leaves(error)[0]
        if not isinstance(first, errors.DfsError):
            log.error("the supervisor failed", exc_info=first)
            sys.exit(1)
        click.echo(f"dfs supervisor: {first}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
