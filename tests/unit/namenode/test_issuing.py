"""Keys that the NameNode issues: when a newer generation is in use, what a token becomes, and who is refused."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dfs import errors, keys, limits, tokens
from dfs.keys import Holder, Key, KeyFile, Masters, Role
from dfs.rpc import Gate
from dfs.sealing import Receiver
from nodes.namenode.issuing import RENEW, Issuing
from nodes.namenode.leases import Leases
from nodes.namenode.membership import Membership
from nodes.namenode.sessions import Sessions
from nodes.namenode.store import open_store
from nodes.namenode.writer import Writer
from tests.simulation.disk import InlineRuntime

OLD = Masters.make()
BOTH = OLD.with_next()
ALICE = OLD.issue(Role.CLIENT, "alice", {"subtree": "/a"})
ADMIN = OLD.issue(Role.ADMIN, "admin")
REPORT = {"capacity_bytes": 1000, "free_bytes": 400, "chunks": 0, "load": 0}
FAR_S = 4_000_000_000


class Office:
    """The parts of a NameNode that issue keys; `file` is put where it looks for a changed cluster.keys."""

    def __init__(self, directory: Path, masters: Masters) -> None:
        self.runtime = InlineRuntime()
        self.store = open_store(directory, random.Random(1))
        leases = Leases()
        self.writer = Writer(self.store, self.runtime, 0, leases)
        self.members = Membership(self.runtime, 10.0, 60.0)
        self.gate = Gate(keys.NAMENODE, "dfs.namenode", masters, lambda: 1e9)
        self.sessions = Sessions(30.0, self._end_session, leases, 1)
        self.file: KeyFile | None = None
        self.issuing = Issuing(
            self.gate, self.store, self.writer, self.members, self.sessions, self.runtime, reload=self._reload
        )

    async def _end_session(self, _session: Any, _party: Any) -> bool:
        return True

    def _reload(self) -> KeyFile | None:
        found, self.file = self.file, None
        return found

    def beat(self, node: str, *generations: int) -> bool:
        """A heartbeat; whether it is heard."""
        if node not in {member.node for member in self.members.all()}:
            info = {"node": node, "address": f"{node}:1", "host": "h", "rack": "", "directories": [node]}
            self.members.enter(self.members.check(info))
        member = self.members.registered(node)
        if not self.issuing.confirm(member.node, {"generations": list(generations)}):
            return False
        self.members.heard(node, REPORT)
        return True

    async def look(self) -> None:
        """Until the NameNode has looked at everything again."""
        await trio.sleep(limits.KEYS_LOOK_PERIOD_S * 1.5)

    def renewed(self, key: Key) -> KeyFile:
        receiver = Receiver()
        sealed = self.issuing.renew(key.id, receiver.public)
        return keys.parse(receiver.open(sealed, key.secrets[keys.NAMENODE], RENEW))

    async def joined(self, word: str, name: str = "", receiver: Receiver | None = None) -> KeyFile:
        token, receiver = tokens.parse(word), receiver or Receiver()
        sealed = await self.issuing.join(token.id, {"name": name, "public": receiver.public}, "joiner")
        return keys.parse(receiver.open(sealed, token.secrets[keys.NAMENODE], tokens.CONTEXT))


@asynccontextmanager
async def office(directory: Path, masters: Masters = OLD) -> AsyncIterator[Office]:
    made = Office(directory, masters)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.writer.run)
            nursery.start_soon(made.issuing.run)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        made.store.close()


# --- generations ----------------------------------------------------------------------------------------


async def test_a_new_generation_is_issued_when_all_that_live_accept_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with office(tmp_path) as here:
        assert here.beat("n1", 1) and here.beat("n2", 1)
        here.file = KeyFile(None, BOTH)
        await here.look()
        assert here.issuing.told({})["generations"] == [1, 2]
        assert here.issuing.in_use == 1 and here.issuing.status()["waits_for"] == ["n1", "n2"]
        assert here.beat("n1", 1, 2)
        await here.look()
        assert here.issuing.in_use == 1 and here.renewed(ALICE).key == ALICE
        assert here.beat("n2", 1, 2)
        await here.look()
        assert here.issuing.in_use == 2
        assert here.renewed(ALICE).key == BOTH.issue(Role.CLIENT, "alice", {"subtree": "/a"})


async def test_a_dead_datanode_holds_nothing_up_and_is_not_heard_before_it_has_caught_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with office(tmp_path) as here:
        here.beat("n1", 1)
        await trio.sleep(61)
        here.file = KeyFile(None, BOTH)
        await here.look()
        await here.look()
        assert here.issuing.in_use == 2
        assert not here.beat("n1", 1)
        assert here.beat("n1", 1, 2)


async def test_a_restart_does_not_take_a_generation_back(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with office(tmp_path, BOTH) as here:
        assert here.issuing.in_use == 1
        await here.look()
        assert here.issuing.in_use == 2
    async with office(tmp_path, BOTH) as here:
        assert here.issuing.in_use == 2


async def test_what_a_datanode_renews_has_the_masters_of_its_realm_and_a_clients_has_none(tmp_path: Path) -> None:
    async with office(tmp_path, BOTH) as here:
        node = here.renewed(BOTH.issue(Role.NODE, "n1"))
        assert node.masters == BOTH.of(keys.DATANODE) and node.cluster == here.store.cluster
        assert here.renewed(ALICE).masters == Masters({})


@pytest.mark.parametrize("found", [KeyFile(ALICE, Masters({})), KeyFile(None, BOTH, "f" * 32)])
async def test_a_cluster_keys_that_is_something_else_is_not_used(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, found: KeyFile
) -> None:
    async with office(tmp_path) as here:
        here.file = found
        await here.look()
        assert here.gate.masters == OLD


# --- tokens ---------------------------------------------------------------------------------------------


async def test_a_token_becomes_the_key_that_it_says(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        word = tokens.issue(OLD, Role.READER, "", "/photos", FAR_S)
        found = await here.joined(word, "bob")
        assert found == KeyFile(OLD.issue(Role.READER, "bob", {"subtree": "/photos"}), Masters({}), here.store.cluster)
        node = await here.joined(tokens.issue(OLD, Role.NODE, "n7", "", FAR_S), "other")
        assert node.key == OLD.issue(Role.NODE, "n7") and node.masters == OLD.of(keys.DATANODE)


async def test_who_joined_is_in_the_status_before_he_comes(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        await here.joined(tokens.issue(OLD, Role.CLIENT, "", "", FAR_S), "bob")
        assert [holder[:3] for holder in here.issuing.status()["holders"]] == [["client", "bob", 1]]


async def test_a_token_counts_once_but_its_answer_may_be_asked_for_again(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        word, receiver = tokens.issue(OLD, Role.CLIENT, "", "", FAR_S), Receiver()
        assert await here.joined(word, "bob", receiver) == await here.joined(word, "bob", receiver)
        with pytest.raises(errors.NotPermitted, match=r"used before.*client bob: .*`dfs key revoke bob"):
            await here.joined(word, "eve")
    async with office(tmp_path) as here:
        with pytest.raises(errors.NotPermitted, match="used before"):
            await here.joined(word, "bob")


async def test_one_receiver_does_not_make_many_names_of_a_token(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        word, receiver = tokens.issue(OLD, Role.CLIENT, "", "", FAR_S), Receiver()
        await here.joined(word, "bob", receiver)
        with pytest.raises(errors.NotPermitted, match="used before"):
            await here.joined(word, "eve", receiver)


async def test_a_token_that_expired_is_refused(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        with pytest.raises(errors.NotPermitted, match="has expired"):
            await here.joined(tokens.issue(OLD, Role.CLIENT, "", "", 1), "bob")


@pytest.mark.parametrize(
    ("role", "name", "kind"),
    [
        (Role.NODE, "a.b", errors.InvalidArgument),
        (Role.NODE, "n1", errors.Exists),
        (Role.CLIENT, "../x", errors.InvalidArgument),
        (Role.CLIENT, "", errors.InvalidArgument),
        (Role.CLIENT, "mallory", errors.NotPermitted),
    ],
)
async def test_a_name_that_cannot_be_uses_no_token_up(
    tmp_path: Path, role: Role, name: str, kind: type[errors.DfsError]
) -> None:
    async with office(tmp_path) as here:
        here.beat("n1", 1)
        await here.issuing.revoke(ADMIN.id, ["client", "mallory"])
        word = tokens.issue(OLD, role, "", "", FAR_S)
        with pytest.raises(kind):
            await here.joined(word, name)
        assert (await here.joined(word, "other")).key == OLD.issue(role, "other")


@pytest.mark.parametrize("request_", [None, [], {}, {"name": 1}, {"name": "bob"}, {"name": "bob", "public": b"x"}])
async def test_what_asks_for_nothing_uses_no_token_up(tmp_path: Path, request_: Any) -> None:
    async with office(tmp_path) as here:
        word = tokens.issue(OLD, Role.CLIENT, "", "", FAR_S)
        with pytest.raises(errors.InvalidArgument):
            await here.issuing.join(tokens.parse(word).id, request_, "joiner")
        assert (await here.joined(word, "bob")).key is not None


# --- revoking -------------------------------------------------------------------------------------------


async def test_a_revoked_holder_is_refused_over_restarts_until_he_is_restored(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        await here.issuing.revoke(ADMIN.id, ["client", "alice"])
        assert not here.gate.admits(ALICE.id) and here.gate.admits(ADMIN.id)
    async with office(tmp_path) as here:
        assert not here.gate.admits(ALICE.id)
        await here.issuing.restore(["client", "alice"])
        assert here.gate.admits(ALICE.id)
        with pytest.raises(errors.NotFound, match="is not revoked"):
            await here.issuing.restore(["client", "alice"])


async def test_datanodes_are_told_who_is_revoked_when_they_have_another_list(tmp_path: Path) -> None:
    async with office(tmp_path) as here:
        assert "revoked" not in here.issuing.told({"revoked": ""})
        await here.issuing.revoke(ADMIN.id, ["client", "alice"])
        told = here.issuing.told({"revoked": ""})
        assert told["revoked"] == [["client", "alice"]]
        known = keys.digest(frozenset(map(Holder.from_wire, told["revoked"])))
        assert "revoked" not in here.issuing.told({"revoked": known})


async def test_as_many_as_may_be_are_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REVOKED_MAX", 3)
    async with office(tmp_path) as here:
        for number in (1, 2, 3, 3):
            await here.issuing.revoke(ADMIN.id, ["client", f"c{number}"])
        with pytest.raises(errors.ArgumentTooLarge, match="as many as may be"):
            await here.issuing.revoke(ADMIN.id, ["client", "c4"])


@pytest.mark.parametrize("holder", [None, [], ["client"], ["root", "a"], ["client", "../a"], ["admin", "admin"]])
async def test_who_cannot_be_revoked_is_named(tmp_path: Path, holder: Any) -> None:
    async with office(tmp_path) as here:
        with pytest.raises(errors.InvalidArgument):
            await here.issuing.revoke(ADMIN.id, holder)
