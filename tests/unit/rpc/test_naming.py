"""The name server that we serve, asked by our client over a simulated network."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from dfs import errors, limits
from dfs.rpc import Pool, Server, parse_uri, uri
from dfs.rpc.naming import NAME_SERVER_OBJECT, NameServerClient, NameServerObject
from nodes.namenode.names import NameServer
from tests.simulation.network import MemoryNetwork


@asynccontextmanager
async def name_server() -> AsyncIterator[tuple[NameServerObject, NameServerClient, Callable[..., Awaitable[Any]]]]:
    """The name server, our client of it, and calls of any of its methods."""
    network = MemoryNetwork()
    names = NameServerObject()
    server = Server(network.host("server"))
    server.register(names, NAME_SERVER_OBJECT)
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, "server:9090")
        async with Pool(network.host("client")) as pool:
            yield names, NameServerClient(pool, address), partial(pool.call, address, NAME_SERVER_OBJECT)
        nursery.cancel_scope.cancel()


async def test_names_are_registered_found_listed_and_removed() -> None:
    async with name_server() as (_, client, call):
        await call("register", "app.one", "PYRO:one@h:1", False, ["class:x", "fast"])
        await client.register("app.two", "two", "./u:/run/two")
        assert str(await call("lookup", "app.one")) == "PYRO:one@h:1"
        found, tags = await call("lookup", "app.one", True)
        assert str(found) == "PYRO:one@h:1" and set(tags) == {"class:x", "fast"}
        assert parse_uri(str(await call("lookup", "app.two"))) == ("two", "./u:/run/two")
        await client.register("other", "o", "h:2")
        assert await call("list", "app.") == {"app.one": "PYRO:one@h:1", "app.two": "PYRO:two@./u:/run/two"}
        assert len(await call("list")) == 3
        assert await call("remove", "app.one") == 1
        assert await call("remove", "app.one") == 0
        await client.remove("app.two")
        await client.remove("app.two")
        for name in ("app.one", "app.two"):
            with pytest.raises(errors.NotFound, match=rf"unknown name: {re.escape(name)}"):
                await call("lookup", name)


async def test_the_clusters_own_names_are_set_from_inside_only() -> None:
    async with name_server() as (names, client, call):
        names.register_own("dfs.namenode", uri("dfs.namenode", "h:1"))
        with pytest.raises(errors.RemoteFault, match="reserved"):
            await client.register("dfs.namenode", "evil", "h:666")
        with pytest.raises(errors.RemoteFault, match="reserved"):
            await client.register("Pyro.NameServer", "evil", "h:666")
        with pytest.raises(errors.RemoteFault, match="reserved"):
            await client.remove("dfs.namenode")
        with pytest.raises(errors.RemoteFault, match="reserved"):
            await call("set_metadata", "dfs.namenode", ["x"])
        await client.register("default", "d", "h:1")
        assert await call("remove", None, "d") == 1
        assert await call("list") == {"dfs.namenode": "PYRO:dfs.namenode@h:1"}
        for method in ("register_own", "remove_own"):
            with pytest.raises(errors.NotSupported):
                await call(method, "dfs.namenode", "PYRO:x@y:1")
        names.remove_own("dfs.namenode")
        names.remove_own("dfs.namenode")
        assert await call("list") == {}


async def test_regular_expressions_are_refused() -> None:
    async with name_server() as (_, _, call):
        for method, before in (("list", [None]), ("remove", [None, None])):
            with pytest.raises(errors.RemoteFault, match="regular expressions are not accepted"):
                await call(method, *before, "(a+)+$")


async def test_its_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_MAX", 2)
    async with name_server() as (_, client, call):
        await client.register("a", "o", "h:1")
        await client.register("b", "o", "h:1")
        with pytest.raises(errors.RemoteFault, match="full"):
            await client.register("c", "o", "h:1")
        await client.register("b", "o", "h:2")
        with pytest.raises(errors.RemoteFault, match="at most 128 characters"):
            await client.register("n" * 129, "o", "h:1")
        with pytest.raises(errors.RemoteFault, match="at most 256 characters"):
            await client.register("b", "o" * 300, "h:1")
        with pytest.raises(errors.RemoteFault, match="at most 8 tags"):
            await call("register", "b", "PYRO:o@h:1", False, [str(number) for number in range(9)])


async def test_nonsense_is_a_naming_error_and_not_a_bug() -> None:
    async with name_server() as (_, _, call):
        for method, arguments in (
            ("register", [1, "PYRO:x@y:1"]),
            ("register", ["n", "nonsense"]),
            ("register", ["n", 5]),
            ("register", ["n", "PYRO:x@y:1", False, "text"]),
            ("register", ["n", "PYRO:x@y:1", False, [1]]),
            ("lookup", [None]),
            ("lookup", [["n"]]),
            ("remove", [3]),
            ("list", [3]),
            ("set_metadata", ["nobody", ["t"]]),
            ("yplookup", [["a"], ["b"]]),
        ):
            with pytest.raises((errors.RemoteFault, errors.NotFound)) as caught:
                await call(method, *arguments)
            assert "unexpectedly" not in str(caught.value), (method, arguments)


async def test_names_are_found_by_their_tags() -> None:
    async with name_server() as (_, _, call):
        await call("register", "a", "PYRO:o@h:1", False, ["x", "y"])
        await call("register", "b", "PYRO:o@h:2", False, ["y"])
        found = await call("yplookup", ["x", "y"], None, False)
        assert found == {"a": "PYRO:o@h:1"}
        found = await call("yplookup", None, ["x", "y"], False)
        assert set(found) == {"a", "b"}


def test_uris_that_are_none_are_refused() -> None:
    for text in ("", "PYRO:x", "PYRO:@h:1", "PYRO:x@h", "PYRONAME:x@h:1", "x@h:1"):
        with pytest.raises(errors.InvalidArgument):
            parse_uri(text)


async def test_names_of_the_cluster_itself_always_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NAMES_MAX", 2)
    async with name_server() as (names, client, call):
        for number in range(2):
            await client.register(f"app.{number}", "one", "h:1")
        names.register_own("dfs.datanode.n1", uri("dfs.datanode.n1", "h:2"))
        assert str(await call("lookup", "dfs.datanode.n1")) == "PYRO:dfs.datanode.n1@h:2"


async def test_a_daemon_whose_address_is_none_costs_no_more_than_its_name() -> None:
    async with name_server() as (names, _, call):
        for address in ("h", "h:" + "1" * 1000):
            await NameServer(own=names).register("dfs.datanode.n1", address)
        assert await call("list", "dfs.datanode.") == {}
