"""The transport beside stock Pyro5 and bare sockets, in one run: `python -m tests.bench.rpc [--rounds N]`.

Servers run in processes of their own. Ours, stock and bare sockets take turns in short rounds, so that a busy machine
is busy for all three; times are medians of the rounds, and the ratio is the median of the ratios of each round, which
a slow round cannot spoil. "stock call" is what a trio program would do without dfs.rpc: a stock `Proxy` (msgpack) in
`trio.to_thread`. "stock 1 MiB" is a stock `Proxy` in a plain thread, with the bytes in an annotation, without the cost
of trio. "x4" has four transfers in flight: ours on one connection, stock on four, from four threads.

"ours" is what a client has that is on the daemon's host, where connections take a short cut (`dfs.rpc.shortcut`);
"TCP" is ours as it is between hosts, and "TLS" the same in a cluster with TLS. Stock and bare are TCP over loopback.

"bare" is a yardstick: the same bytes between two processes over TCP with blocking `sendmsg` and `recv_into` and nothing
else, neither messages nor an event loop. It is no hard bound: a receiver that is woken less often can be faster.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection

import Pyro5.api
import Pyro5.callcontext
import trio

from dfs.certificates import TlsIdentity
from dfs.keys import make_cluster
from dfs.rpc import Call, Pool, Server, SocketNetwork, WithData, expose, takes_call, uri

MIB = 1024 * 1024
CALLS = 40  # in a round
TRANSFERS = 8
WARM_UP = 4  # steps that are not counted
TARGETS = {"call": 1.8, "1 MiB up": 4.0, "1 MiB down": 4.0, "1 MiB up x4": 4.0, "1 MiB down x4": 4.0}
AT_ONCE = 4
_PAYLOAD = bytes(range(256)) * (MIB // 256)
_SMALL = b"x" * 48  # about what a small call or its answer is in our messages

Times = dict[str, dict[str, list[float]]]
"""Seconds a step in each round, of "ours", "TCP", "TLS", "stock" and "bare", by the name of the measurement."""


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


def _serve_ours(pipe: Connection, tls: TlsIdentity | None = None) -> None:
    async def main() -> None:
        server = Server(SocketNetwork(tls))
        server.register(Ours(), "bench")
        async with trio.open_nursery() as nursery:
            pipe.send(await nursery.start(server.serve, "127.0.0.1:0"))

    trio.run(main)


def _serve_stock(pipe: Connection) -> None:
    daemon = Pyro5.api.Daemon("127.0.0.1", 0)
    daemon.register(Stock(), "bench")
    pipe.send(daemon.locationStr)
    daemon.requestLoop()


def _serve_bare(pipe: Connection) -> None:
    """Take `_SMALL` or a MiB, as the first byte says, and answer with the other, or with `_SMALL` to `_SMALL`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pipe.send("{}:{}".format(*listener.getsockname()))
        peer, _ = listener.accept()
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(MIB))
    head = memoryview(bytearray(len(_SMALL)))
    while _bare_receive(peer, head):
        match head[:1].tobytes():
            case b"u":
                _bare_receive(peer, buffer)
                peer.sendall(_SMALL)
            case b"d":
                peer.sendall(_PAYLOAD)
            case _:
                peer.sendall(_SMALL)


def _bare_receive(sock: socket.socket, view: memoryview) -> bool:
    got = 0
    while got < len(view):
        step = sock.recv_into(view[got:])
        if not step:
            return False
        got += step
    return True


def _start(serve: Callable[[Connection], None]) -> tuple[multiprocessing.process.BaseProcess, str]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    return process, here.recv()


async def _timed(count: int, step: Callable[[], Awaitable[object]]) -> float:
    """Seconds a step, after a few that bring code and data back into the caches."""
    for _ in range(WARM_UP):
        await step()
    started = time.perf_counter()
    for _ in range(count):
        await step()
    return (time.perf_counter() - started) / count


def _timed_blocking(count: int, step: Callable[[], object]) -> float:
    for _ in range(WARM_UP):
        step()
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


class _Bare:
    """The client's half of the bare sockets."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._sock = socket.create_connection((host, int(port)))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(MIB))
        self._small = memoryview(bytearray(len(_SMALL)))

    def call(self) -> None:
        self._sock.sendall(_SMALL)
        _bare_receive(self._sock, self._small)

    def up(self) -> None:
        rest: list[bytes | memoryview] = [b"u" + _SMALL[1:], _PAYLOAD]
        sent = self._sock.sendmsg(rest)
        self._sock.sendall(memoryview(_PAYLOAD)[sent - len(_SMALL) :])
        _bare_receive(self._sock, self._small)

    def down(self) -> None:
        self._sock.sendall(b"d" + _SMALL[1:])
        _bare_receive(self._sock, self._buffer)

    def close(self) -> None:
        self._sock.close()


async def _measure(addresses: list[str], tls: TlsIdentity, rounds: int) -> Times:
    ours, secured, stock, bare = addresses
    found: Times = {name: {"ours": [], "TCP": [], "TLS": [], "stock": [], "bare": []} for name in TARGETS}
    buffers = [memoryview(bytearray(MIB)) for _ in range(AT_ONCE)]
    proxies = [Pyro5.api.Proxy(uri("bench", stock)) for _ in range(AT_ONCE)]
    near, far = Pyro5.api.Proxy(uri("bench", stock)), Pyro5.api.Proxy(uri("bench", stock))
    sockets = _Bare(bare)
    async with (
        Pool(SocketNetwork()) as near_pool,
        Pool(SocketNetwork(short_cuts=False)) as tcp_pool,
        Pool(SocketNetwork(tls, short_cuts=False)) as tls_pool,
    ):
        pools = {"ours": (near_pool, ours), "TCP": (tcp_pool, ours), "TLS": (tls_pool, secured)}

        async def stock_call() -> None:
            await trio.to_thread.run_sync(_add, far)

        async def call(pool: Pool, address: str) -> None:
            await pool.call(address, "bench", "add", 1, 2)

        async def up(pool: Pool, address: str) -> None:
            await pool.call_with_data(address, "bench", "up", data=[_PAYLOAD])

        async def down(pool: Pool, address: str) -> None:
            into = buffers.pop()
            await pool.call_with_data(address, "bench", "down", into=into)
            buffers.append(into)

        with ThreadPoolExecutor(AT_ONCE) as threads:
            for _ in range(rounds + 1):
                times = found["call"]
                for kind, pool in pools.items():
                    times[kind].append(await _timed(CALLS, partial(call, *pool)))
                times["stock"].append(await _timed(CALLS, stock_call))
                times["bare"].append(_timed_blocking(CALLS, sockets.call))
                for name, step, stock_step, bare_step in (
                    ("1 MiB up", up, _stock_up, sockets.up),
                    ("1 MiB down", down, _stock_down, sockets.down),
                ):
                    times = found[name]
                    for kind, pool in pools.items():
                        times[kind].append(await _timed(TRANSFERS, partial(step, *pool)))
                    times["stock"].append(_timed_blocking(TRANSFERS, partial(stock_step, near)))
                    times["bare"].append(_timed_blocking(TRANSFERS, bare_step))
                    times = found[f"{name} x4"]
                    for kind, pool in pools.items():
                        times[kind].append(await _timed_at_once(TRANSFERS, partial(step, *pool)))
                    times["stock"].append(_timed_stock_at_once(threads, proxies, TRANSFERS, stock_step))
    for proxy in (near, far, *proxies):
        proxy._pyroClaimOwnership()
        proxy._pyroRelease()
    sockets.close()
    return found


def _add(proxy: Pyro5.api.Proxy) -> None:
    proxy._pyroClaimOwnership()
    assert proxy.add(1, 2) == 3


def _print(found: Times) -> None:
    print(
        f"{'':14}{'ours':>11}{'TCP':>11}{'TLS':>11}{'stock':>11}{'bare':>11}{'ratio':>8}{'target':>8}{'TCP':>6}{'TLS':>6}{'bare':>6}"
    )
    for name, times in found.items():
        columns = [_in_words(name, seconds[1:]) for seconds in times.values()]  # the first round warms up
        ratios = {kind: f"{_ratio(times['stock'], seconds):.1f}" for kind, seconds in times.items() if seconds}
        print(
            f"{name:14}{''.join(f'{text:>11}' for text in columns)}{ratios['ours']:>8}{TARGETS[name]:>8.1f}"
            f"{ratios['TCP']:>6}{ratios['TLS']:>6}{ratios.get('bare', ''):>6}"
        )


def _in_words(name: str, seconds: list[float]) -> str:
    if not seconds:
        return ""
    median_s = statistics.median(seconds)
    return f"{median_s * 1e6:.0f} us" if name == "call" else f"{MIB / median_s / 1e9:.2f} GB/s"


def _ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(s / f for s, f in zip(slow[1:], fast[1:], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    Pyro5.config.SERIALIZER = "msgpack"
    tls = make_cluster(tls=True).tls
    assert tls is not None
    served = _serve_ours, partial(_serve_ours, tls=tls), _serve_stock, _serve_bare
    started = [_start(serve) for serve in served]
    try:
        _print(trio.run(_measure, [address for _, address in started], tls, options.rounds))
    finally:
        for process, _ in started:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
