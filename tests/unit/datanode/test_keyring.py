"""The keys of a DataNode follow what the NameNode says, and are kept before they are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dfs import errors, keys, sealing
from dfs.keys import Holder, KeyFile, Masters, Role
from dfs.rpc import Gate, Peer, Pool, Server
from nodes.datanode.keyring import Keyring
from tests.simulation.disk import InlineRuntime
from tests.simulation.network import MemoryNetwork

OLD = Masters.make()
BOTH = OLD.with_next()
ALICE = Holder(Role.CLIENT, "alice")


def file_of(masters: Masters, generation: int, name: str = "n1") -> KeyFile:
    return KeyFile(masters.issue(Role.NODE, name, None, generation), masters.of(keys.DATANODE), "0" * 32)


class Node:
    """A DataNode's keys. `answer` is what `renew` gives; `kept` are the files that were kept,
    `said` what was reported then, `asked` how often `renew` was called."""

    def __init__(self) -> None:
        self.gate = Gate(keys.DATANODE, "dfs.datanode.n1", OLD.of(keys.DATANODE), lambda: 1e9)
        host = MemoryNetwork(0.0).host("n1")
        self.pool = Pool(host, key=file_of(OLD, 1).key)
        self.kept: list[KeyFile] = []
        self.said: list[list[int]] = []
        self.asked = 0
        self.answer = file_of(BOTH, 1)
        self.keyring = Keyring(
            file_of(OLD, 1), self.gate, self.pool, Server(host, gate=self.gate), InlineRuntime(), self._keep
        )

    def _keep(self, content: KeyFile) -> None:
        self.said.append(self.keyring.report()["generations"])
        self.kept.append(content)

    async def call(self, method: str, public: bytes) -> Any:
        assert method == "renew" and self.pool.key is not None
        self.asked += 1
        secret = self.pool.key.secrets[keys.NAMENODE]
        return sealing.seal(keys.render(self.answer), public, secret, "renew")

    async def told(self, generations: list[int], in_use: int, **more: Any) -> None:
        await self.keyring.follow({"generations": generations, "in_use": in_use, **more}, self.call)


@pytest.fixture
async def node() -> Node:
    return Node()


async def test_a_datanode_accepts_a_new_generation_before_it_uses_it(node: Node) -> None:
    await node.told([1, 2], 1)
    assert node.keyring.report()["generations"] == [1, 2]
    assert node.pool.key == file_of(BOTH, 1).key
    node.answer = file_of(BOTH, 2)
    await node.told([1, 2], 2)
    assert node.pool.key == file_of(BOTH, 2).key
    node.answer = file_of(BOTH.without(1), 2)
    await node.told([2], 2)
    assert node.keyring.report()["generations"] == [2]
    assert not node.gate.admits(file_of(BOTH, 1).key.id)  # type: ignore[union-attr]
    assert len(node.kept) == 3 and node.said == [[1], [1, 2], [1, 2]], "kept before it is reported"


async def test_nothing_new_asks_for_nothing(node: Node) -> None:
    await node.told([1], 1)
    assert (node.asked, node.kept) == (0, [])


@pytest.mark.parametrize(
    "answer", [file_of(BOTH, 1, "n2"), KeyFile(file_of(BOTH, 1).key, Masters({})), KeyFile(None, BOTH)]
)
async def test_another_key_than_ours_is_not_taken(node: Node, answer: KeyFile) -> None:
    node.answer = answer
    with pytest.raises(errors.ProtocolViolation, match="ours is kept"):
        await node.told([1, 2], 1)
    assert node.keyring.report()["generations"] == [1] and not node.kept


async def test_who_is_revoked_is_refused_and_kept_with_the_key(node: Node) -> None:
    await node.told([1], 1, revoked=[["client", "alice"]])
    assert node.gate.revoked == frozenset({ALICE}) == node.kept[-1].revoked
    assert node.keyring.report()["revoked"] == keys.digest(frozenset({ALICE}))
    await node.told([1, 2], 1)
    assert node.gate.revoked == frozenset({ALICE}) == node.kept[-1].revoked
    await node.told([1, 2], 1, revoked=[])
    assert node.gate.revoked == frozenset() == node.kept[-1].revoked


async def test_connections_end_whose_keys_count_no_more(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = []
    for number, (name, generation) in enumerate((("alice", 2), ("bob", 2), ("carol", 1))):
        peer = Peer("test", number)
        peer.key = BOTH.issue(Role.CLIENT, name, None, generation).id
        peers.append(peer)
    closed: list[list[str]] = []

    def close_connections(of: Callable[[Peer], bool]) -> int:
        closed.append([peer.key.name for peer in peers if of(peer) and peer.key is not None])
        return len(closed[-1])

    monkeypatch.setattr(node.keyring._server, "close_connections", close_connections)
    await node.told([1, 2], 1, revoked=[["client", "alice"]])
    node.answer = file_of(BOTH.without(1), 2)
    await node.told([2], 2)
    assert closed == [["alice"], ["alice", "carol"]]


async def test_a_key_that_cannot_be_kept_is_used_all_the_same(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_content: KeyFile) -> None:
        raise errors.ConfigError("a newer key could not be put there")

    monkeypatch.setattr(node.keyring, "_keep", fail)
    await node.told([1, 2], 1)
    assert node.keyring.report()["generations"] == [1, 2]
