"""The transport beside stock Pyro5, in one run: `python -m tests.bench.rpc [--rounds N]`.

Servers run in processes of their own. Ours and stock take turns, round by round, so that a busy machine is
busy for both; figures are medians of the rounds. "stock call" is what a trio program would do without dfs.rpc: a stock
`Proxy` (msgpack) in `trio.to_thread`. "stock 1 MiB" is a stock `Proxy` in a plain thread, with the bytes in an
annotation, without the cost of trio. "x4" has four transfers in flight: ours on one connection, stock on four,
from four threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection

import Pyro5.api
import Pyro5.callcontext
import trio

from dfs.rpc import Call, Pool, Server, SocketNetwork, WithData, expose, takes_call, uri

MIB = 1024 * 1024
CALLS = 300  # in a round
TRANSFERS = 40
TARGETS = {"call": 1.8, "1 MiB up": 4.0, "1 MiB down": 4.0, "1 MiB up x4": 4.0, "1 MiB down x4": 4.0}
AT_ONCE = 4
_PAYLOAD = bytes(range(256)) * (MIB // 256)


class Ours:
    @expose
    def add(self, left: int, right: int) -> int:
        return left + right

    @expose
    @takes_call
    def up(self, call: Call) -> int:
        return len(call.data or b"")

    @expose
    def down(self) -> WithData:
        return WithData(MIB, [_PAYLOAD])


class Stock:
    @expose
    def add(self, left: int, right: int) -> int:
        return left + right

    @expose
    def up(self) -> int:
        return len(Pyro5.callcontext.current_context.annotations["DATA"])

    @expose
    def down(self) -> int:
        Pyro5.callcontext.current_context.response_annotations = {"DATA": _PAYLOAD}
        return MIB


def _serve_ours(pipe: Connection) -> None:
    async def main() -> None:
        server = Server(SocketNetwork())
        server.register(Ours(), "bench")
        async with trio.open_nursery() as nursery:
            pipe.send(await nursery.start(server.serve, "127.0.0.1:0"))

    trio.run(main)


def _serve_stock(pipe: Connection) -> None:
    daemon = Pyro5.api.Daemon("127.0.0.1", 0)
    daemon.register(Stock(), "bench")
    pipe.send(daemon.locationStr)
    daemon.requestLoop()


def _start(serve: Callable[[Connection], None]) -> tuple[multiprocessing.process.BaseProcess, str]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    return process, here.recv()


def _spread(servers: list[int]) -> None:
    """Client on one processor, servers on another: left alone they share one now and then, which blurs both."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(0, {cpus[0]})
        for pid in servers:
            os.sched_setaffinity(pid, {cpus[1]})


async def _timed(count: int, step: Callable[[], Awaitable[object]]) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    for _ in range(count):
        await step()
    return (time.perf_counter() - started) / count


def _timed_stock(count: int, step: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - started) / count


async def _timed_at_once(count: int, step: Callable[[], Awaitable[object]]) -> float:
    """Seconds a step, with AT_ONCE of them in flight."""

    async def repeat() -> None:
        for _ in range(count // AT_ONCE):
            await step()

    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(repeat)
    return (time.perf_counter() - started) / count


def _timed_stock_at_once(
    threads: ThreadPoolExecutor, proxies: list[Pyro5.api.Proxy], count: int, step: Callable[[Pyro5.api.Proxy], None]
) -> float:
    def repeat(proxy: Pyro5.api.Proxy) -> None:
        proxy._pyroClaimOwnership()
        for _ in range(count // AT_ONCE):
            step(proxy)

    started = time.perf_counter()
    list(threads.map(repeat, proxies))
    return (time.perf_counter() - started) / count


def _stock_up(proxy: Pyro5.api.Proxy) -> None:
    Pyro5.callcontext.current_context.annotations = {"DATA": _PAYLOAD}
    assert proxy.up() == MIB
    Pyro5.callcontext.current_context.annotations = {}


def _stock_down(proxy: Pyro5.api.Proxy) -> None:
    proxy.down()
    assert len(Pyro5.callcontext.current_context.response_annotations["DATA"]) == MIB


async def _measure(ours: str, stock: str, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
    found: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in TARGETS}
    buffers = [memoryview(bytearray(MIB)) for _ in range(AT_ONCE)]
    proxies = [Pyro5.api.Proxy(uri("bench", stock)) for _ in range(AT_ONCE)]
    near, far = Pyro5.api.Proxy(uri("bench", stock)), Pyro5.api.Proxy(uri("bench", stock))
    async with Pool(SocketNetwork()) as pool:

        async def stock_call() -> None:
            await trio.to_thread.run_sync(_add, far)

        async def call() -> None:
            await pool.call(ours, "bench", "add", 1, 2)

        async def up() -> None:
            await pool.call(ours, "bench", "up", data=_PAYLOAD)

        async def down() -> None:
            into = buffers.pop()
            await pool.call(ours, "bench", "down", into=into)
            buffers.append(into)

        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in range(rounds):
                found["call"][0].append(await _timed(CALLS, call))
                found["call"][1].append(await _timed(CALLS, stock_call))
                for name, step, stock_step in (("up", up, _stock_up), ("down", down, _stock_down)):
                    found[f"1 MiB {name}"][0].append(await _timed(TRANSFERS, step))
                    found[f"1 MiB {name}"][1].append(_timed_stock(TRANSFERS, partial(stock_step, near)))
                    found[f"1 MiB {name} x4"][0].append(await _timed_at_once(TRANSFERS, step))
                    found[f"1 MiB {name} x4"][1].append(_timed_stock_at_once(threads, proxies, TRANSFERS, stock_step))
    for proxy in (near, far, *proxies):
        proxy._pyroClaimOwnership()
        proxy._pyroRelease()
    return found


def _add(proxy: Pyro5.api.Proxy) -> None:
    proxy._pyroClaimOwnership()
    assert proxy.add(1, 2) == 3


def _print(found: dict[str, tuple[list[float], list[float]]]) -> None:
    print(f"{'':14}{'ours':>14}{'stock':>14}{'ratio':>8}{'target':>8}")
    for name, (ours, stock) in found.items():
        our_s, stock_s = statistics.median(ours), statistics.median(stock)
        columns = [f"{value * 1e6:.0f} us" for value in (our_s, stock_s)]
        if name != "call":
            columns = [f"{MIB / value / 1e9:.2f} GB/s" for value in (our_s, stock_s)]
        print(f"{name:14}{columns[0]:>14}{columns[1]:>14}{stock_s / our_s:>8.1f}{TARGETS[name]:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    Pyro5.config.SERIALIZER = "msgpack"
    started = [_start(_serve_ours), _start(_serve_stock)]
    _spread([process.pid or 0 for process, _ in started])
    try:
        _print(trio.run(_measure, started[0][1], started[1][1], options.rounds))
    finally:
        for process, _ in started:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
