"""A cluster with TLS: what leaves a host is encrypted, and nobody gets between its ends, nor talks plainly to them."""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from dfs import certificates, errors, keys
from dfs.certificates import TlsIdentity
from dfs.client import open_filesystem
from dfs.keys import Key, Role
from dfs.mountpoint import is_mounted, unmount
from dfs.rpc import Pool, SocketNetwork, Stream
from dfs.types import NAMENODE_OBJECT
from tests.forked import as_text, run_dfs
from tests.integration.hosts import Hosts, hosts, need_namespaces
from tests.integration.real import RealCluster
from tests.integration.sites import CLIENT as USER
from tests.integration.sites import NAMENODE, PYTHON, Site
from tests.keys import CLUSTER, holder
from tests.streams import send_all

ADMIN, ALICE, NODE = (holder(role, "a", tls=True) for role in (Role.ADMIN, Role.CLIENT, Role.NODE))
FOREIGN = keys.make_cluster(tls=True)
"""Of another cluster."""


def network(tls: TlsIdentity | None) -> SocketNetwork:
    """As from another host: without short cuts, on which there is no TLS."""
    return SocketNetwork(tls, short_cuts=False)


async def status(address: str, key: Key | None, tls: TlsIdentity | None) -> dict[str, Any]:
    async with Pool(network(tls), key=key) as pool:
        found: dict[str, Any] = await pool.call(address, NAMENODE_OBJECT, "status")
        return found


async def refused(address: str, key: Key | None, tls: TlsIdentity | None) -> str:
    with trio.fail_after(20), pytest.raises((errors.Refused, errors.Unreachable, errors.ConnectionLost)) as caught:
        await status(address, key, tls)
    return str(caught.value)


# --- on the wire ------------------------------------------------------------------------------------------

# Writes down every packet that comes by.
SNIFFER: Final = """
import socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
sock.setsockopt(socket.SOL_SOCKET, 33, 64 * 2**20)  # SO_RCVBUFFORCE
sock.bind(("eth0", 0))
print("listening", file=sys.stderr, flush=True)
while True:
    sys.stdout.buffer.write(sock.recv(2**17))
    sys.stdout.buffer.flush()
"""


@contextmanager
def captured(network: Hosts, host: str, into: Path) -> Iterator[None]:
    with into.open("wb") as file:
        argv = network.within(host, [PYTHON, "-c", SNIFFER])
        process = subprocess.Popen(argv, stdout=file, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None and process.stderr.readline() == b"listening\n"
            yield
        finally:
            process.kill()
            process.communicate(timeout=30)


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
def test_what_leaves_a_host_can_be_read_on_the_way_only_without_tls(tmp_path: Path, tls: bool) -> None:
    """Uploads, downloads, copies between DataNodes, names of files, and a mount: on a host each."""
    need_namespaces()
    word = secrets.token_hex(32).encode()
    content, name = word * 32768, f"plans-{secrets.token_hex(8)}"
    (tmp_path / name).write_bytes(content)
    with hosts(NAMENODE, "n1", "n2", "n3", "n4", USER) as made:
        site = Site(made, tmp_path, tls=tls)
        site.start(NAMENODE, "n1", "n2", "n3")
        site.until(lambda: list(site.states().values()) == ["up"] * 3, "three DataNodes")
        with captured(made, USER, tmp_path / "used"):
            assert site.dfs("upload", tmp_path / name, "/").returncode == 0
            assert site.dfs("download", f"/{name}", tmp_path / "back").returncode == 0
            assert mounted_copy(site, tmp_path / "mnt", name) == content == (tmp_path / "back").read_bytes()
        site.start("n4")
        with captured(made, "n4", tmp_path / "copied"):
            assert site.dfs("drain", "n1").returncode == 0
            site.until(lambda: site.states()["n1"] == "drained", "n1 to be empty")
    used, copied = (tmp_path / "used").read_bytes(), (tmp_path / "copied").read_bytes()
    assert len(used) > 3 * len(content) and len(copied) > len(content), "nothing was captured"
    assert (word in used, word in copied, name.encode() in used) == (not tls,) * 3


def mounted_copy(site: Site, mountpoint: Path, name: str) -> bytes:
    mountpoint.mkdir()
    try:
        assert site.dfs("mount", mountpoint).returncode == 0
        return (mountpoint / name).read_bytes()
    finally:
        if is_mounted(mountpoint):
            unmount(mountpoint)


# --- who comes in -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A NameNode with TLS, as a process."""
    cluster = RealCluster(tmp_path_factory.mktemp("resident"), tls=True)
    cluster.configure_namenode(nameserver="off")
    cluster.launch("namenode")
    trio.run(cluster.wait_until_up)
    yield cluster
    cluster.kill("namenode")


async def test_a_holder_with_key_and_certificate_is_served(resident: RealCluster) -> None:
    for key in (ADMIN, ALICE):
        assert (await status(resident.namenode_address, key, key.tls))["files"] == 0


async def test_a_client_that_speaks_plainly_hears_why_it_is_not_served(resident: RealCluster) -> None:
    for key in (ADMIN, None):
        assert "it is of a cluster with TLS" in await refused(resident.namenode_address, key, None)
    with trio.fail_after(10), pytest.raises(errors.DfsError, match="cluster with TLS"):
        async with open_filesystem(resident.namenode_address, ADMIN, network=network(None)):
            pass


async def test_a_certificate_of_another_cluster_is_refused(resident: RealCluster) -> None:
    theirs = FOREIGN.issue(Role.ADMIN, "a").tls
    assert theirs is not None and ADMIN.tls is not None
    assert "another cluster" in await refused(resident.namenode_address, ADMIN, theirs)
    mixed = TlsIdentity(ADMIN.tls.authority, theirs.certificate, theirs.private_key)
    assert "another cluster" in await refused(resident.namenode_address, ADMIN, mixed)


async def test_a_key_counts_only_with_its_holders_certificate(resident: RealCluster) -> None:
    assert "came with the certificate of client a" in await refused(resident.namenode_address, ADMIN, ALICE.tls)
    assert "without a key" in await refused(resident.namenode_address, None, ADMIN.tls)


async def test_an_expired_certificate_is_refused_with_what_to_do(resident: RealCluster) -> None:
    assert CLUSTER.authority is not None
    old = certificates.issue(CLUSTER.authority, "admin", "a", validity_s=-1)
    assert "`dfs key renew`" in await refused(resident.namenode_address, ADMIN, old)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_nothing_older_than_tls_1_3_is_spoken(resident: RealCluster, tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = stock_context(ADMIN, tmp_path)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    host, _, port = resident.namenode_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        if version == ssl.TLSVersion.TLSv1_2:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                context.wrap_socket(sock)
        else:
            context.wrap_socket(sock).close()


def stock_context(key: Key, directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    files = as_files(key, directory)
    context.load_verify_locations(files["authority"])
    context.load_cert_chain(files["certificate"], files["private_key"])
    return context


def as_files(key: Key, directory: Path) -> dict[str, Path]:
    assert key.tls is not None
    files = {name: directory / f"{name}.pem" for name in ("authority", "certificate", "private_key")}
    for name, path in files.items():
        path.write_text(getattr(key.tls, name))
    return files


async def test_strangers_in_the_midst_of_a_handshake_keep_nobody_out(resident: RealCluster, tmp_path: Path) -> None:
    """Silent ones, some with half a greeting of TLS, and some with noise that begins like one."""
    outgoing = ssl.MemoryBIO()
    half = stock_context(ADMIN, tmp_path).wrap_bio(ssl.MemoryBIO(), outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        half.do_handshake()
    greeting = outgoing.read()
    host, _, port = resident.namenode_address.rpartition(":")
    strangers = [socket.create_connection((host, int(port)), timeout=10) for _ in range(600)]
    try:
        for number, sock in enumerate(strangers):
            try:
                sock.sendall([b"", greeting[: len(greeting) // 2], greeting, b"\x16" + os.urandom(2000)][number % 4])
            except (BrokenPipeError, ConnectionResetError):
                pass  # made room for another already
        with trio.fail_after(20):
            assert (await status(resident.namenode_address, ADMIN, ADMIN.tls))["files"] == 0
    finally:
        for sock in strangers:
            sock.close()
    assert "unexpected error" not in resident.log("namenode")


def test_a_daemon_whose_certificate_has_expired_does_not_start(tmp_path: Path) -> None:
    cluster = RealCluster(tmp_path, tls=True)
    cluster.configure_namenode(nameserver="off")
    keys.replace(tmp_path / "cluster.keys", CLUSTER.certified(CLUSTER.authority, validity_s=-1))
    done = subprocess.run(cluster.command("namenode"), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "`dfs key renew`" in done.stderr and len(done.stderr.splitlines()) == 1


# --- who is believed --------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(tls: TlsIdentity | None, serve: Any) -> AsyncIterator[str]:
    """A server that is not the cluster's; `serve` gets each connection, unsecured."""
    listener = await network(tls).listen("127.0.0.1:0")

    async def accept(nursery: trio.Nursery) -> None:
        while True:
            nursery.start_soon(serve, await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept, nursery)
        yield listener.address
        nursery.cancel_scope.cancel()
    await listener.aclose()


async def hear_nothing(stream: Stream) -> None:
    """Shake hands, and see to it that no byte of a call comes."""
    try:
        await stream.secure()
        assert not await stream.receive_into(memoryview(bytearray(1))), "the client must say nothing"
    except errors.DfsError:
        pass
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()


@pytest.mark.parametrize(
    ("tls", "why"),
    [
        (FOREIGN.tls, "another cluster"),
        (ALICE.tls, "purpose"),
        (CLUSTER.certified(CLUSTER.authority, validity_s=-1).tls, "expired"),
    ],
    ids=["foreign", "a client's", "expired"],
)
async def test_a_server_without_a_servers_certificate_is_not_believed(tls: TlsIdentity, why: str) -> None:
    async with listening(tls, hear_nothing) as address:
        assert why in await refused(address, ADMIN, ADMIN.tls)


async def test_a_client_with_a_certificate_never_speaks_plainly() -> None:
    async def answer_plainly(stream: Stream) -> None:
        view = memoryview(bytearray(1))
        assert await stream.receive_into(view) == 1 and view[0] == 0x16, "this is not how TLS begins"
        await send_all(stream, [b"PYRO" + bytes(100)])
        await stream.aclose()

    async with listening(None, answer_plainly) as address:
        assert "does not speak TLS" in await refused(address, ADMIN, ADMIN.tls)


@pytest.mark.parametrize(("tls", "is_passed_on"), [(NODE.tls, False), (CLUSTER.tls, True)], ids=["a node's", "its own"])
async def test_a_handshake_is_not_passed_on_to_another_daemon(
    resident: RealCluster, tls: TlsIdentity, is_passed_on: bool
) -> None:
    """A node that has stolen a client's certificate as well stands between him and the NameNode."""

    async def relay(near: Stream) -> None:
        far = await network(ADMIN.tls).connect(resident.namenode_address, 10)
        try:
            await near.secure()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, near, far)
                await pump(far, near)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await near.aclose()
                await far.aclose()

    async with listening(tls, relay) as address:
        if is_passed_on:
            assert (await status(address, ADMIN, ADMIN.tls))["files"] == 0
        else:
            assert "not of this cluster" in await refused(address, ADMIN, ADMIN.tls)


async def pump(source: Stream, target: Stream) -> None:
    view = memoryview(bytearray(65536))
    try:
        while count := await source.receive_into(view):
            await send_all(target, [view[:count]])
    except errors.ConnectionLost:
        pass


# --- tools ------------------------------------------------------------------------------------------------

STOCK: Final = """
import sys
from pathlib import Path
import Pyro5.api, Pyro5.socketutil
from dfs import keys, login

address, key, directory = sys.argv[1:]
directory = Path(directory)
Pyro5.config.SSL = True
Pyro5.config.SERIALIZER = "msgpack"
Pyro5.config.SSL_CACERTS = str(directory / "authority.pem")
Pyro5.config.SSL_CLIENTCERT = str(directory / "certificate.pem")
Pyro5.config.SSL_CLIENTKEY = str(directory / "private_key.pem")
Pyro5.socketutil.get_ssl_context(
    clientcert=Pyro5.config.SSL_CLIENTCERT, clientkey=Pyro5.config.SSL_CLIENTKEY, cacerts=Pyro5.config.SSL_CACERTS
).check_hostname = False
with Pyro5.api.Proxy(f"PYRO:dfs.namenode@{address}") as namenode:
    namenode._pyroHandshake = login.stock_login(keys.load_key(Path(key)), "dfs.namenode")
    print(namenode.status()["files"])
"""


def test_a_stock_proxy_with_pyros_own_ssl_is_served(resident: RealCluster, tmp_path: Path) -> None:
    as_files(resident.admin, tmp_path)
    argv = [sys.executable, "-c", STOCK, resident.namenode_address, resident.directory / "client.key", tmp_path]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr


def test_keys_with_certificates_are_made_shown_and_renewed(tmp_path: Path) -> None:
    def dfs(*arguments: str) -> str:
        done = as_text(run_dfs("key", *arguments, directory=tmp_path))
        assert done.returncode == 0, done.stderr
        return done.stdout

    dfs("init", "--tls")
    dfs("add", "eve", "--keys", "cluster.keys")
    assert "the certificate of client eve, good until 20" in dfs("show", "eve.key")
    before = keys.load(tmp_path / "eve.key")
    assert "the certificate of client eve" in dfs("renew", "eve.key", "--keys", "cluster.keys")
    after = keys.load(tmp_path / "eve.key")
    assert after.key == before.key and after.tls != before.tls
    assert "the certificate of namenode namenode" in dfs("renew", "cluster.keys")


@pytest.fixture
def dfs(tmp_path: Path) -> Iterator[Any]:
    """Run `dfs`; a cluster in tmp_path/c is ended."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DFS_CONFIG": str(tmp_path / "c" / "client.toml")}
        return as_text(run_dfs(*arguments, environment=environment))

    yield run
    run("down", "--dir", tmp_path / "c")


def test_dfs_up_makes_a_cluster_with_tls_and_keeps_it_so(tmp_path: Path, dfs: Any) -> None:
    where = ("--dir", tmp_path / "c", "--datanodes", "1", "--replicas", "1")
    done = dfs("up", "--tls", *where)
    assert done.returncode == 0, done.stderr
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    assert dfs("upload", tmp_path / "file", "/").returncode == 0
    assert dfs("up", *where[:2], "--datanodes", "2").returncode == 0
    files = list((tmp_path / "c").glob("*.key*"))
    assert len(files) == 4 and all(keys.load(path).tls is not None for path in files)


def test_a_cluster_without_tls_does_not_take_it_up_by_itself(tmp_path: Path, dfs: Any) -> None:
    assert dfs("up", "--dir", tmp_path / "c", "--datanodes", "1").returncode == 0
    again = dfs("up", "--tls", "--dir", tmp_path / "c")
    assert again.returncode == 1 and "made without TLS" in again.stderr
