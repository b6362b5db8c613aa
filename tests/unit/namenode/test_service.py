"""Clients share a NameNode: neither long questions nor what is to be refused costs the others much.

Nor is anybody believed to have had what he cannot have.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, limits
from dfs.keys import Key, Role
from dfs.rpc import Call, Peer
from dfs.types import ROOT_INO
from nodes.namenode.commands import open_session
from nodes.namenode.queries import Queries
from tests.keys import MASTERS, READER
from tests.unit.namenode.test_replication import ROOM, chunks_on, world
from tests.unit.namenode.world import Namespace

FLOODER, OTHER = MASTERS.issue(Role.CLIENT, "flooder"), MASTERS.issue(Role.CLIENT, "other")


def calls(key: Key, connection: int) -> Call:
    peer = Peer(f"{key.id.name}:1", connection)
    peer.key = key.id
    return Call(peer, None)


@pytest.mark.parametrize("question", ["explain", "summarize"])
async def test_who_asks_long_questions_without_end_delays_another_by_a_few_of_them(
    tmp_path: Path, question: str
) -> None:
    answered = 0
    async with world(tmp_path, lambda space: chunks_on(space, ["n1"]), "n1") as here, trio.open_nursery() as nursery:
        arguments: Any = [1] if question == "explain" else ROOT_INO
        ask = getattr(here.service, question)

        async def flood(connection: int) -> None:
            nonlocal answered
            await ask(calls(FLOODER, connection), arguments)
            answered += 1

        for connection in range(500):
            nursery.start_soon(flood, connection)
        await trio.lowlevel.checkpoint()
        before = answered
        await ask(calls(OTHER, 1000), arguments)
        assert answered - before <= 2 * limits.LONG_QUERIES_MAX
        nursery.cancel_scope.cancel()


async def test_what_there_is_no_room_for_is_refused_before_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMMAND_QUEUE_MAX", 3)
    async with world(tmp_path, lambda space: chunks_on(space, ["n1"]), "n1") as here:
        call = calls(OTHER, 1)
        session = (await here.service.open_session(call, {"name": "other", "host": "here"}))["session"]
        with pytest.raises(errors.Busy):
            await here.service.apply(call, session, 0, ["no command"] * 4)
        with pytest.raises(errors.InvalidArgument):
            await here.service.apply(call, session, 0, ["no command"] * 2)


async def test_on_full_datanodes_who_deleted_files_is_told_to_wait(tmp_path: Path) -> None:
    def fill(space: Namespace) -> None:
        session = space.open_session()
        space.written(session, space.file(session).ino, 100, ["n1", "n2"])
        space.end_session(session)

    async with world(tmp_path, fill, "n1", "n2", garbage_grace_s=60.0) as here:
        here.used = {"n1": ROOM, "n2": ROOM}
        await here.beat("n1", "n2")
        call = calls(OTHER, 1)
        session = (await here.service.open_session(call, {"name": "other", "host": "here"}))["session"]

        async def refusal(seq: int) -> str:
            with pytest.raises(errors.NoSpace) as caught:
                await here.service.allocate(call, session, 0, seq, 1, 2, [], "here")
            return caught.value.message

        assert await refusal(1) == "no space on DataNodes n1, n2: delete files or add DataNodes"
        await here.service.apply(call, session, 0, [[2, "unlink", [ROOT_INO, b"file"]]])
        assert "wait for what was deleted, which comes free after 60 s, delete files or" in await refusal(3)


async def test_a_directory_that_is_removed_while_somebody_waits_to_own_it_is_owned_by_nobody(tmp_path: Path) -> None:
    def fill(space: Namespace) -> None:
        space.do(space.open_session(), "mkdir", ROOT_INO, b"d", 0o755, 0, 0)

    async with world(tmp_path, fill, "n1") as here, trio.open_nursery() as nursery:
        service, call = here.service, calls(OTHER, 1)
        directory = here.queries.lookup(ROOT_INO, b"d").ino
        wish = {"name": "mount", "host": "here", "caches": True, "directories": True}
        owner, reader = [(await service.open_session(call, wish))["session"] for _ in range(2)]
        remover = (await service.open_session(call, {"name": "script", "host": "here"}))["session"]
        assert service.leased_getattr(call, reader, directory)[1]

        async def own() -> None:
            with pytest.raises(errors.NotFound):
                await service.own_directory(call, owner, directory, 100)

        for method, *arguments in ((own,), (service.apply, call, remover, 0, [[1, "rmdir", [ROOT_INO, b"d"]]])):
            nursery.start_soon(method, *arguments)
            await trio.testing.wait_all_tasks_blocked()
        incarnation, recalls = await service.events(call, reader, 0, 0)
        for number, _, _ in recalls:
            service.forgot(call, reader, incarnation, number, [])
        await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks
        assert (await service.status())["leases"]["owned"] == 0


@pytest.mark.parametrize("directories", [False, True])
@pytest.mark.parametrize("drops", [False, True])
async def test_what_a_session_said_of_its_cache_is_known_after_a_restart(
    tmp_path: Path, directories: bool, drops: bool
) -> None:
    async with world(tmp_path, lambda space: None) as here:
        wish = {"name": "other", "host": "here", "caches": True, "directories": directories, "drops_recalled": drops}
        opened = await here.service.open_session(calls(OTHER, 1), wish)
        kept = {session: caches for session, _, caches, _ in Queries(here.store).sessions()}
        assert open_session.cached(kept[opened["session"]]) == (True, directories, drops)


@pytest.mark.parametrize("directories", [False, True])
async def test_after_a_restart_who_cannot_own_directories_is_not_believed_that_he_did(
    tmp_path: Path, directories: bool
) -> None:
    async with world(tmp_path, lambda space: None) as here:
        call, wish = calls(OTHER, 1), {"name": "other", "host": "here", "caches": True, "directories": directories}
        opened = await here.service.open_session(call, wish)
        here.leases.join(opened["session"], owns_directories=opened["directories"], again=True)
        with contextlib.nullcontext() if directories else pytest.raises(errors.NotPermitted):
            await here.service.reclaim(call, opened["session"], opened["incarnation"], [], [], [ROOT_INO], True)
        assert here.leases.is_owner(opened["session"], ROOT_INO) == directories


async def test_after_a_restart_who_only_reads_is_not_believed_that_he_owned_a_file(tmp_path: Path) -> None:
    async with world(tmp_path, lambda space: None) as here:
        call = calls(READER, 1)
        opened = await here.service.open_session(call, {"name": "reader", "host": "here", "caches": True})
        here.leases.join(opened["session"], again=True)
        with pytest.raises(errors.NotPermitted, match="does not allow to own"):
            await here.service.reclaim(call, opened["session"], opened["incarnation"], [], [], [2], True)
