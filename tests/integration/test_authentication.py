"""Nobody is served who does not prove that he knows a key of the cluster, nor beyond what its role allows."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import Pyro5.api
import Pyro5.errors
import pytest
import trio

from dfs import errors, keys, limits
from dfs.client import open_filesystem
from dfs.client.datanodes import DataNodes
from dfs.keys import Key, KeyFile, Masters, Role
from dfs.login import stock_login
from dfs.rpc import Pool, SocketNetwork, serialize, uri
from dfs.rpc.authentication import answer, hello
from dfs.rpc.protocol import (
    CONNECT,
    CONNECT_FAIL,
    CONNECT_OK,
    DAEMON_OBJECT,
    DFS_PROTOCOL,
    HEADER_BYTES,
    INVOKE,
    MSGPACK,
    Decoder,
    Message,
    encode,
)
from dfs.rpc.tls import client_context
from dfs.types import NAMENODE_OBJECT, NodeId
from nodes.datanode import authorization as datanode_policy
from nodes.datanode.service import DataNode
from nodes.namenode import authorization as namenode_policy
from nodes.namenode.service import NameNode
from tests.forked import as_text, run_dfs
from tests.integration.real import RealCluster, real_cluster
from tests.keys import ADMIN, CLIENT, MASTERS, PLAIN, READER

NODE = MASTERS.issue(Role.NODE, "a-node")
STRANGER = Masters.make().issue(Role.ADMIN, "tests")
"""Of another cluster, with the name of one of ours."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[RealCluster]:
    async with real_cluster(tmp_path, datanodes=2, replicas=2) as made:
        yield made


@asynccontextmanager
async def pool(key: Key | None) -> AsyncIterator[Pool]:
    async with Pool(SocketNetwork(), key=key) as made:
        yield made


async def refused(address: str, key: Key | None, object_id: str, method: str, *args: Any) -> str:
    """What is said to a call that must not succeed."""
    async with pool(key) as caller:
        with pytest.raises((errors.Refused, errors.NotPermitted)) as caught:
            await caller.call(address, object_id, method, *args)
    return str(caught.value)


# --- the policy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("service", "policy"), [(NameNode, namenode_policy), (DataNode, datanode_policy)])
def test_the_policy_names_every_method_and_no_other(service: type, policy: Any) -> None:
    exposed = {name for name in dir(service) if getattr(getattr(service, name), "_pyroExposed", False)}
    assert exposed == set(policy.METHODS)


# --- who comes in -----------------------------------------------------------------------------------------


async def test_without_a_key_of_the_cluster_nobody_is_served(cluster: RealCluster) -> None:
    for address, object_id in (
        (cluster.namenode_address, NAMENODE_OBJECT),
        (cluster.addresses["n1"], "dfs.datanode.n1"),
    ):
        assert "admits nobody without a key" in await refused(address, None, object_id, "status")
        assert "not of this cluster" in await refused(address, STRANGER, object_id, "status")
        renamed = CLIENT._replace(id=ADMIN.id)
        assert "not of this cluster" in await refused(address, renamed, object_id, "status")
        swapped = ADMIN._replace(secrets=dict(zip(keys.REALMS, reversed(ADMIN.secrets.values()), strict=False)))
        assert "not of this cluster" in await refused(address, swapped, object_id, "status")
        async with pool(ADMIN) as caller:
            await caller.call(address, object_id, "status")
    assert "handshake refused" in cluster.log("namenode") and "handshake refused" in cluster.log("n1")


async def test_a_client_with_a_wrong_key_is_told_at_once(cluster: RealCluster) -> None:
    with trio.fail_after(10), pytest.raises(errors.Refused) as caught:
        async with open_filesystem(cluster.namenode_address, STRANGER._replace(file=Path("their.key"))):
            pass
    assert "no NameNode" not in caught.value.message
    assert caught.value.message.endswith("is not of this cluster; the key is that in their.key")


async def test_a_server_that_does_not_know_the_key_is_not_believed(tmp_path: Path) -> None:
    """One that says yes to everything, and one of the kind that asks for no key."""
    for answers in (
        [{"dfs": DFS_PROTOCOL, "realm": "namenode", "nonce": b"x" * 16}, {"dfs": DFS_PROTOCOL, "proof": b"y" * 32}],
        [{"dfs": DFS_PROTOCOL, "realm": "namenode", "nonce": b"x" * 16}, {"dfs": DFS_PROTOCOL}],
        [{"dfs": DFS_PROTOCOL}],
    ):
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port = listener.socket.getsockname()[1]

        async def pretend(stream: trio.SocketStream, answers: list[Any] = answers) -> None:
            for said in answers:
                await stream.receive_some(65536)
                payload = serialize.dumps(MSGPACK, {"handshake": said})
                buffers, _ = encode(CONNECT_OK, 0, 0, MSGPACK, payload)
                await stream.send_all(b"".join(buffers))
            assert not await stream.receive_some(65536), "the client must not send a call"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, pretend, [listener])
            said = await refused(f"127.0.0.1:{port}", ADMIN, NAMENODE_OBJECT, "status")
            assert "does not know the key" in said or "asked for no key" in said
            nursery.cancel_scope.cancel()


# --- raw handshakes ---------------------------------------------------------------------------------------


class Wire:
    """A connection whose every byte is ours; perhaps within TLS."""

    def __init__(self, address: str, context: ssl.SSLContext | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.sock: socket.socket = socket.create_connection((host, int(port)), timeout=10)
        self.binding = b""
        if context is not None:
            self.sock = context.wrap_socket(self.sock)
            self.binding = hashlib.sha256(self.sock.getpeercert(binary_form=True) or b"").digest()
        self._decoder = Decoder()

    def send(self, payload: bytes, kind: int = CONNECT) -> None:
        self.sock.sendall(b"".join(encode(kind, 0, 0, MSGPACK, payload)[0]))

    def receive(self) -> tuple[int, bytes]:
        """Kind and payload of the next message; (0, b"") at the end."""
        while True:
            event = self._decoder.next()
            if isinstance(event, Message):
                assert event.payload is not None
                return event.kind, bytes(event.payload)
            try:
                count = self.sock.recv_into(self._decoder.space())
            except (ConnectionResetError, ssl.SSLError):  # closed in the middle of what it was sent, or of what it said
                count = 0
            if not count:
                return 0, b""
            self._decoder.received(count)

    def close(self) -> None:
        self.sock.close()


def handshake(said: dict[str, Any]) -> bytes:
    return serialize.dumps(MSGPACK, {"handshake": said, "object": DAEMON_OBJECT})


def in_it(payload: bytes) -> dict[str, Any]:
    return dict(serialize.loads(MSGPACK, payload)["handshake"])


def log_in(wire: Wire, key: Key) -> tuple[bytes, bytes]:
    """What a client sends to come in."""
    first = handshake({"dfs": DFS_PROTOCOL, **hello(key, NAMENODE_OBJECT)})
    wire.send(first)
    kind, challenge = wire.receive()
    assert kind == CONNECT_OK
    proof, _ = answer(key, NAMENODE_OBJECT, in_it(challenge), first, challenge, wire.binding)
    wire.send(handshake(proof))
    assert wire.receive()[0] == CONNECT_OK
    return first, handshake(proof)


def test_a_replayed_handshake_is_refused(wires: Any) -> None:
    sent = log_in(wires(), ADMIN)
    again = wires()
    for payload in sent:
        again.send(payload)
        kind, _ = again.receive()
    assert kind == CONNECT_FAIL


def test_a_proof_of_the_server_is_no_proof_of_a_client(wires: Any) -> None:
    """Reflection: what the server proved on one connection, sent back on another."""
    wire = wires()
    first = handshake({"dfs": DFS_PROTOCOL, **hello(ADMIN, NAMENODE_OBJECT)})
    wire.send(first)
    _, challenge = wire.receive()
    proof, owed = answer(ADMIN, NAMENODE_OBJECT, in_it(challenge), first, challenge, wire.binding)
    assert proof["proof"] != owed
    wire.send(handshake({"proof": owed}))
    assert wire.receive()[0] == CONNECT_FAIL


@pytest.mark.parametrize(
    "proof", [{}, {"proof": None}, {"proof": b""}, {"proof": "x" * 32}, {"proof": b"\0" * 32}, {"proof": [1]}, "proof"]
)
def test_what_is_no_proof_is_refused(wires: Any, proof: Any) -> None:
    wire = wires()
    wire.send(handshake({"dfs": DFS_PROTOCOL, **hello(ADMIN, NAMENODE_OBJECT)}))
    assert wire.receive()[0] == CONNECT_OK
    wire.send(handshake(proof))
    assert wire.receive()[0] == CONNECT_FAIL
    assert wire.receive()[0] == 0


@pytest.mark.parametrize(
    "said",
    [
        {"dfs": DFS_PROTOCOL},
        {"dfs": DFS_PROTOCOL, "key": None, "nonce": b"x" * 16},
        {"dfs": DFS_PROTOCOL, "key": [1, "admin", "tests"]},
        {"dfs": DFS_PROTOCOL, "key": [1, "admin", "../../etc"], "nonce": b"x" * 16},
        {"dfs": DFS_PROTOCOL, "key": [99, "admin", "tests"], "nonce": b"x" * 16},
        {"dfs": DFS_PROTOCOL, "key": {"a": 1}, "nonce": b"x" * 16},
        {"key": [1, "admin", "tests"]},
        "hello",
    ],
)
def test_a_strange_greeting_never_comes_in(wires: Any, said: Any) -> None:
    wire = wires()
    wire.send(handshake(said))
    kind, payload = wire.receive()
    if kind == CONNECT_OK:
        proof = answer(ADMIN, NAMENODE_OBJECT, in_it(payload), handshake(said), payload, wire.binding)[0]["proof"]
        wire.send(handshake({"proof": proof}))
        kind, _ = wire.receive()
    assert kind == CONNECT_FAIL


def test_a_call_before_the_proof_ends_the_connection(wires: Any) -> None:
    call = serialize.dumps_call(NAMENODE_OBJECT, "status", [])
    wire = wires()
    wire.send(call, INVOKE)
    assert wire.receive() in ((0, b""), (CONNECT_FAIL, b"")) or wire.receive()[0] == 0
    wire = wires()
    wire.send(handshake({"dfs": DFS_PROTOCOL, **hello(ADMIN, NAMENODE_OBJECT)}))
    assert wire.receive()[0] == CONNECT_OK
    wire.send(call, INVOKE)
    assert wire.receive()[0] == CONNECT_FAIL
    assert wire.receive()[0] == 0


def test_an_oversized_greeting_is_not_read(wires: Any) -> None:
    wire = wires()
    with suppress(OSError):  # the server may be gone in the middle of it
        wire.send(handshake({"dfs": DFS_PROTOCOL, "padding": b"x" * limits.MIB}))
    assert wire.receive()[0] == 0


def test_a_thousand_who_say_nothing_keep_nobody_out(wires: Any) -> None:
    silent = [wires() for _ in range(1000)]
    started = time.monotonic()
    log_in(wires(), ADMIN)
    assert time.monotonic() - started < 5
    half = [wires() for _ in range(300)]
    for wire in half:
        try:
            wire.sock.sendall(b"".join(encode(CONNECT, 0, 0, MSGPACK, b"x" * 100)[0])[: HEADER_BYTES + 7])
        except OSError:
            pass  # made room for another already
    log_in(wires(), ADMIN)
    open_now = 0
    for wire in (*silent, *half):
        wire.sock.setblocking(False)
        try:
            open_now += bool(wire.sock.recv(1))
        except (BlockingIOError, ssl.SSLWantReadError):
            open_now += 1
        except OSError:
            pass
    assert open_now <= limits.HANDSHAKES_AT_ONCE_MAX


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A NameNode for tests that only shake hands, as a process."""
    with only_namenode(tmp_path_factory.mktemp("resident")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same with TLS."""
    with only_namenode(tmp_path_factory.mktemp("secured"), tls=True) as cluster:
        yield cluster


@contextmanager
def only_namenode(directory: Path, *, tls: bool = False) -> Iterator[RealCluster]:
    cluster = RealCluster(directory, tls=tls)
    cluster.configure_namenode(nameserver="off")
    cluster.launch("namenode")
    trio.run(cluster.wait_until_up)
    yield cluster
    cluster.kill("namenode")


@pytest.fixture(params=["resident", "secured"])
def wires(request: pytest.FixtureRequest) -> Any:
    cluster = request.getfixturevalue(request.param)
    tls = cluster.admin.tls
    context = None if tls is None else client_context(tls)
    made: list[Wire] = []

    def connect() -> Wire:
        made.append(Wire(cluster.namenode_address, context))
        return made[-1]

    yield connect
    for wire in made:
        wire.close()


# --- what a role allows -----------------------------------------------------------------------------------


async def test_a_reader_reads_and_changes_nothing(cluster: RealCluster) -> None:
    data = os.urandom(100_000)
    async with cluster.client() as fs:
        async with await fs.open("/file", "w") as file:
            await file.pwrite(data, 0)
        (place,) = await fs.replicas("/file")
    async with open_filesystem(cluster.namenode_address, READER) as fs:
        async with await fs.open("/file") as file:
            assert await file.pread(len(data), 0) == data
        assert [entry.name async for entry in fs.scandir("/")] == [b"file"]
        with pytest.raises(errors.NotPermitted):
            await fs.mkdir("/directory")
        with pytest.raises(errors.NotPermitted):
            await fs.touch("/other")
        with pytest.raises(errors.NotPermitted):
            await fs.remove("/file")
        with pytest.raises(errors.NotPermitted):
            await fs.chmod("/file", 0o777)
        with pytest.raises(errors.NotPermitted):
            async with await fs.open("/file", "r+") as file:
                await file.pwrite(b"x", 0)
                await file.fsync()
        with pytest.raises(errors.NotPermitted):
            await fs.session.ask_once("allocate", 1, 2, [], "")
    node = place.nodes[0]
    for method, args in (("append", (place.chunk, len(data), b"")), ("sync", ([place.chunk],))):
        said = await refused(cluster.addresses[node], READER, f"dfs.datanode.{node}", method, *args)
        assert "does not allow" in said
    async with cluster.client() as fs, await fs.open("/file") as file:
        assert await file.pread(len(data) + 1, 0) == data


async def test_roles_are_kept_apart(cluster: RealCluster) -> None:
    namenode, n1 = cluster.namenode_address, cluster.addresses["n1"]
    for key in (CLIENT, READER):
        for method, args in (
            ("drain", ("n1",)),
            ("remove_node", ("n1",)),
            ("heartbeat", ("n1", {})),
            ("check", (None,)),
        ):
            assert "does not allow" in await refused(namenode, key, NAMENODE_OBJECT, method, *args)
        for method, args in (("decide_held", (True,)), ("read_blocks", (1, 0, 1)), ("list_chunks", (0, 10))):
            assert "does not allow" in await refused(n1, key, "dfs.datanode.n1", method, *args)
    for method, args in (("lookup", (1, b"x")), ("apply", (1, 0, [])), ("drain", ("n1",)), ("status", ())):
        assert "does not allow" in await refused(namenode, NODE, NAMENODE_OBJECT, method, *args)
    assert "append" in await refused(n1, NODE, "dfs.datanode.n1", "append", 1, 0, b"")
    mend = [[1, "mend_rows", ["x"]]]
    assert "does not allow mending" in await refused(namenode, CLIENT, NAMENODE_OBJECT, "apply", 1, 0, mend)


async def test_a_node_speaks_for_itself_only(cluster: RealCluster) -> None:
    namenode = cluster.namenode_address
    for method, args in (("heartbeat", ("n1", {})), ("farewell", ("n1",)), ("report_chunks", ("n1", 1, 2, []))):
        assert "not of n1" in await refused(namenode, NODE, NAMENODE_OBJECT, method, *args)
    for about in ({"node": "n1"}, {}, None, ["node"]):
        assert "key is that of node" in await refused(namenode, NODE, NAMENODE_OBJECT, "register", about)


def test_a_stock_proxy_cannot_get_round_the_policy_with_named_arguments(resident: RealCluster) -> None:
    with stock(resident, READER) as namenode, pytest.raises(OSError, match="by position"):
        namenode.apply(session=1, acked=0, wire=[[1, "unlink", [1, b"file"]]])
    with stock(resident, NODE) as namenode, pytest.raises(OSError, match="not of None"):
        namenode.heartbeat(node="n1", report={})
    with stock(resident, READER) as namenode:
        batch = Pyro5.api.BatchProxy(namenode)
        batch.drain("n1")
        batch.status()
        with pytest.raises(OSError, match="does not allow 'drain' at the NameNode: use an admin's"):
            list(batch())


def test_a_client_key_does_not_start_a_datanode(tmp_path: Path) -> None:
    cluster = RealCluster(tmp_path)
    cluster.configure_datanode("n1")
    (tmp_path / "n1.key").unlink()
    keys.save(tmp_path / "n1.key", KeyFile(CLIENT, MASTERS.of(keys.DATANODE)))
    done = subprocess.run(cluster.command("n1"), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "not that of node n1" in done.stderr and len(done.stderr.splitlines()) == 1


# --- stock proxies ----------------------------------------------------------------------------------------


def stock(cluster: RealCluster, key: Key, login: Any = None) -> Pyro5.api.Proxy:
    made = Pyro5.api.Proxy(uri(NAMENODE_OBJECT, cluster.namenode_address))
    made._pyroSerializer = "msgpack"
    made._pyroTimeout = 10
    made._pyroHandshake = stock_login(key, NAMENODE_OBJECT) if login is None else login
    return made


def test_a_stock_proxy_logs_in_with_a_key_once(resident: RealCluster) -> None:
    login = stock_login(CLIENT, NAMENODE_OBJECT)
    with stock(resident, CLIENT, login) as namenode:
        assert namenode.status()["files"] == 0
    late = stock_login(CLIENT, NAMENODE_OBJECT, time.time() - 2 * limits.STOCK_LOGIN_MAX_S)
    for bad, why in (
        (login, "used before"),
        (late, "another time"),
        (stock_login(STRANGER, NAMENODE_OBJECT), "not of this cluster"),
        (stock_login(CLIENT, "dfs.datanode.n1"), "not of this cluster"),
        ({**stock_login(CLIENT, NAMENODE_OBJECT), "nonce": "x" * 1000}, "a nonce"),
        ({**stock_login(CLIENT, NAMENODE_OBJECT), "proof": "\u00e9"}, "not of this cluster"),
        ({**stock_login(CLIENT, NAMENODE_OBJECT), "time": 1e300}, "a time"),
        ({**stock_login(CLIENT, NAMENODE_OBJECT), "key": ADMIN.id.to_wire()}, "not of this cluster"),
        ({**stock_login(CLIENT, NAMENODE_OBJECT), "time": float("nan")}, "a time"),
        ({"key": CLIENT.id.to_wire()}, "a time"),
        ("hello", "without a key"),
    ):
        with stock(resident, CLIENT, bad) as namenode, pytest.raises(Pyro5.errors.CommunicationError, match=why):
            namenode.status()


# --- the command line -------------------------------------------------------------------------------------


def test_keys_are_made_and_used_from_the_command_line(tmp_path: Path, resident: RealCluster) -> None:
    def dfs(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DFS_CONFIG": str(tmp_path / "client.toml")}
        return as_text(run_dfs(*arguments, environment=environment, directory=tmp_path))

    (tmp_path / "client.toml").write_text(f'namenode = "{resident.namenode_address}"\n')
    missing = dfs("ls", "/")
    assert missing.returncode == 1 and "no such key file" in missing.stderr
    masters = str(resident.directory / "cluster.keys")
    assert dfs("key", "add", "eve", "--role", "reader", "--keys", masters, "--out", "client.key").returncode == 0
    assert dfs("ls", "/").returncode == 0
    denied = dfs("mkdir", "/d")
    assert denied.returncode == 1 and "reader eve" in denied.stderr and len(denied.stderr.splitlines()) == 1
    again = dfs("key", "add", "eve", "--keys", masters, "--out", "client.key")
    assert again.returncode == 1 and "never overwritten" in again.stderr
    assert dfs("key", "show", "client.key").stdout == "client.key: the key of reader eve, generation 1\n"
    (tmp_path / "client.key").chmod(0o644)
    assert "chmod 600" in dfs("ls", "/").stderr
    assert dfs("key", "init").returncode == 0
    assert dfs("key", "add", "mallory", "--keys", "cluster.keys").returncode == 0
    (tmp_path / "client.toml").write_text(f'namenode = "{resident.namenode_address}"\nkey = "mallory.key"\n')
    foreign = dfs("ls", "/")
    assert foreign.returncode == 1
    assert foreign.stderr.endswith(f" is not of this cluster; the key is that in {tmp_path / 'mallory.key'}\n")


async def test_a_reader_is_not_told_that_datanodes_do_not_answer(cluster: RealCluster) -> None:
    """They do: they say that a reader's key is not enough."""
    keys.save(cluster.directory / "reader.key", PLAIN.issue(Role.READER, "eve"))
    config = cluster.directory / "reader.toml"
    config.write_text(f'namenode = "{cluster.namenode_address}"\nkey = "reader.key"\n')
    async with cluster.client() as fs, await fs.open("/seen", "w") as file:
        await file.pwrite(b"data", 0)
        await file.fsync()

    async def dfs(*arguments: str) -> tuple[int, str, str]:
        environment = {**os.environ, "DFS_CONFIG": str(config)}
        done = as_text(await trio.to_thread.run_sync(partial(run_dfs, *arguments, environment=environment)))
        return done.returncode, done.stdout, done.stderr

    for path in ("/seen", "/"):
        status, said, _ = await dfs("why", path)
        assert status == 0, said
        assert "did not answer" not in said
        assert "1 chunk, all well, as far as the NameNode knows" in said
        assert "does not allow a look at copies at a DataNode: use a client's or an admin's" in said
    (chunk,) = json.loads((await dfs("why", "--json", "/seen"))[1])
    assert [copy["condition"] for copy in chunk["copies"]] == ["not looked at"] * 2
    status, said, complaint = await dfs("scrub")
    assert status == 1
    assert "no answer" not in said and said.count("not allowed") == 2
    assert complaint.count("\n") == 1
    assert complaint.endswith("does not allow a scrub at a DataNode: use an admin's\n")
    status, _, complaint = await dfs("fsck")
    assert (status, complaint) == (
        1,
        "dfs: the key of reader eve does not allow a check (fsck) at the NameNode: use an admin's\n",
    )
    status, _, complaint = await dfs("chmod", "600", "/seen")
    assert (status, complaint) == (
        1,
        "dfs: the key of reader eve allows reading only: use a client's or an admin's\n",
    )


async def test_a_client_proves_nothing_to_another_daemon_than_it_calls(cluster: RealCluster) -> None:
    """A DataNode could pass a challenge of the NameNode or of another DataNode on, and act there as who has called."""
    n1 = cluster.addresses["n1"]
    async with Pool(SocketNetwork(ADMIN.tls), key=ADMIN) as pool:
        for _ in range(2):
            with pytest.raises(errors.Refused, match="no daemon of the datanode's kind"):
                await pool.call(cluster.namenode_address, "dfs.datanode.n1", "status")
            with pytest.raises(errors.Refused, match=r"this is dfs\.datanode\.n1, and another object is called"):
                await pool.call(n1, "dfs.datanode.n2", "status")
            await pool.call(cluster.namenode_address, NAMENODE_OBJECT, "cluster")
            await pool.call(n1, "dfs.datanode.n1", "status")


def test_who_says_of_before_what_he_calls_or_says_nothing(wires: Any) -> None:
    """Clients of before name no object."""
    for calls, kind in (
        (NAMENODE_OBJECT, CONNECT_OK),
        (None, CONNECT_OK),
        ("dfs.datanode.n1", CONNECT_FAIL),
        (7, CONNECT_FAIL),
    ):
        wire = wires()
        said = {"dfs": DFS_PROTOCOL, **hello(ADMIN, NAMENODE_OBJECT), "calls": calls}
        if calls is None:
            del said["calls"]
        wire.send(handshake(said))
        _, challenge = wire.receive()
        wire.send(
            handshake(answer(ADMIN, NAMENODE_OBJECT, in_it(challenge), handshake(said), challenge, wire.binding)[0])
        )
        assert wire.receive()[0] == kind


async def test_datanodes_that_change_their_addresses_among_them_are_found(cluster: RealCluster) -> None:
    async with cluster.client() as fs:
        nodes = DataNodes(fs.session)
        await nodes.refresh()
        fs.session.on_nodes_changed = lambda: None  # it does not hear of it from the NameNode
        addresses = cluster.addresses
        addresses["n1"], addresses["n2"] = addresses["n2"], addresses["n1"]
        for name in ("n1", "n2"):
            cluster.kill(name)
            cluster.configure_datanode(name)
        for name in ("n1", "n2"):
            await cluster.start(name)
        for name in ("n1", "n2"):
            assert (await nodes.call(NodeId(name), "status"))[0]
