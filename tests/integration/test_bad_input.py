"""What people, peers and machines get wrong: each is told in one sentence what is wrong, and no daemon minds."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import trio

import dfs
from dfs import errors, limits
from dfs.cli.local.layout import Layout
from dfs.client import open_filesystem
from tests.integration.real import (
    NAMENODE,
    RealCluster,
    dead_at_last,
    environment,
    free_address,
    lasting_cluster,
    make_as_new,
    real_cluster,
    until,
)
from tests.keys import ADMIN

MIB = limits.MIB


async def run(
    cluster: RealCluster, *arguments: str | bytes, stdin: bytes | IO[bytes] = b""
) -> subprocess.CompletedProcess[bytes]:
    """`dfs ARGUMENTS` as a user of this cluster types it; what it is to read comes through a pipe."""
    if not stdin:
        return await cluster.dfs(*arguments)
    argv = [sys.executable, "-m", "dfs.cli", *arguments]
    return await trio.run_process(
        argv, env=environment(cluster), stdin=stdin, capture_stdout=True, capture_stderr=True, check=False
    )


async def complaint(cluster: RealCluster, *arguments: str | bytes, stdin: bytes = b"") -> str:
    """What `dfs ARGUMENTS` says when it fails: one sentence."""
    done = await run(cluster, *arguments, stdin=stdin)
    text = done.stderr.decode()
    assert done.returncode == 1, text
    assert text.startswith("dfs: "), text
    assert text.count("\n") == 1, text
    return text.removeprefix("dfs: ").rstrip("\n")


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with lasting_cluster(tmp_path_factory.mktemp("cluster"), datanodes=2, replicas=2, garbage_grace_s=0.2) as made:
        yield made


@pytest.fixture
async def cluster(daemons: RealCluster) -> RealCluster:
    """One cluster for all tests of this module, empty."""
    await make_as_new(daemons)
    return daemons


async def is_sound(cluster: RealCluster) -> bool:
    """All daemons run, and a file goes in and comes out."""
    cluster.running()
    probe = random.randbytes(100_000)
    await run(cluster, "upload", "-f", "-", "/probe", stdin=probe)
    return (await run(cluster, "cat", "/probe")).stdout == probe


# --- people -------------------------------------------------------------------------------------------------


async def test_paths_that_cannot_be(cluster: RealCluster, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    file = str(tmp_path / "file")
    assert (await run(cluster, "mkdir", "/directory")).returncode == 0
    assert await complaint(cluster, "cat", "/no/such") == "no such file or directory: /no/such (no is missing)"
    assert await complaint(cluster, "ls", "/nowhere") == "no such file or directory: /nowhere"
    assert await complaint(cluster, "cat", "/directory") == "is a directory: /directory"
    assert await complaint(cluster, "download", "/directory", str(tmp_path)) != ""
    assert "no such file or directory" in await complaint(cluster, "upload", file, "/no/such/file")
    assert "no such file or directory" in await complaint(cluster, "upload", str(tmp_path / "absent"), "/")
    assert await complaint(cluster, "mkdir", "/directory") == "exists already: /directory"
    assert (await run(cluster, "upload", file, "/file")).returncode == 0
    assert await complaint(cluster, "upload", file, "/file") == "exists already (-f replaces it): /file"
    assert await complaint(cluster, "upload", file, "/file/") == "not a directory: /file/"
    assert await complaint(cluster, "upload", file, "/nowhere/") == "no such file or directory: /nowhere/"
    assert "not a directory" in await complaint(cluster, "ls", "/file/below")
    assert "not a directory" in await complaint(cluster, "mkdir", "/file/below")
    assert (await run(cluster, "cat", "/file")).stdout == b"data"


async def test_names_at_and_over_their_limit(cluster: RealCluster) -> None:
    longest, over = "/" + "n" * limits.NAME_MAX_BYTES, "/" + "n" * (limits.NAME_MAX_BYTES + 1)
    assert (await run(cluster, "touch", longest)).returncode == 0
    assert "255" in await complaint(cluster, "touch", over)
    assert "255" in await complaint(cluster, "mkdir", "/" + "ü" * 128)
    async with cluster.client() as fs:
        for name in (b"/a\0b", "/a\0b"):
            with pytest.raises(errors.InvalidArgument):
                await fs.touch(name)
        root = await fs.stat("/")
        for inner in (b"a/b", b"a\0b", b"", b".", b".."):
            with pytest.raises(errors.InvalidArgument):
                await fs.inodes.mkdir(root.ino, inner, 0o755, 0, 0)
        with pytest.raises(errors.NameTooLong):
            await fs.inodes.mkdir(root.ino, b"n" * 256, 0o755, 0, 0)
        assert [entry.name for entry in await fs.listdir("/")] == [longest[1:].encode()]


async def test_names_that_are_no_utf_8_are_kept_byte_for_byte(cluster: RealCluster, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.mkdir()
    back.mkdir()
    names = [b"caf\xe9", b"\xff\xfe", b"new\nline", b"\x1b[31mred", "ünïcode ☃".encode()]
    for name in names:
        (source / os.fsdecode(name)).write_bytes(name)
    assert (await run(cluster, "upload", "-r", str(source), "/")).returncode == 0
    async with cluster.client() as fs:
        assert sorted(entry.name for entry in await fs.listdir("/source")) == sorted(names)
    assert (await run(cluster, "cat", b"/source/caf\xe9")).stdout == b"caf\xe9"
    assert (await run(cluster, "download", "-r", "/source", str(back))).returncode == 0
    assert {os.fsencode(path.name): path.read_bytes() for path in (back / "source").iterdir()} == {
        name: name for name in names
    }


async def test_an_upload_whose_source_fails_half_way_leaves_nothing(cluster: RealCluster) -> None:
    class Vanishing:
        calls = 0

        async def readinto(self, view: memoryview) -> int:
            self.calls += 1
            if self.calls > 3:
                raise OSError("the disk is gone")
            return len(view)

    async with cluster.client() as fs:
        with pytest.raises(OSError, match="the disk is gone"):
            await fs.upload(Vanishing(), "/file")
        assert await fs.listdir("/") == []
    await until_empty(cluster)


async def test_a_local_source_that_cannot_be_uploaded_is_named(cluster: RealCluster, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert str(tmp_path / "loop") in await complaint(cluster, "upload", str(tmp_path / "loop"), "/")
    assert "directory" in await complaint(cluster, "upload", str(tmp_path), "/")
    assert (await run(cluster, "ls", "/")).stdout == b""


async def test_a_pipe_or_device_that_is_named_is_not_waited_for(cluster: RealCluster, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with trio.fail_after(30):
        for name in (str(tmp_path / "fifo"), "/dev/zero"):
            said = await complaint(cluster, "upload", name, "/z")
            assert name in said and "`dfs upload - DST`" in said
    assert (await run(cluster, "ls", "/")).stdout == b""
    for name in ("/dev/fd/../zero", "/dev/fd/77"):
        assert name in await complaint(cluster, "upload", name, "/z")
    with trio.fail_after(30):
        end = os.open(tmp_path / "fifo", os.O_RDWR)
        os.write(end, b"through a name")
        with (tmp_path / "fifo").open("rb") as given:  # opened again it would wait for somebody who writes
            os.close(end)
            assert (await run(cluster, "upload", "/dev/stdin", "z", stdin=given)).returncode == 0
    assert (await run(cluster, "cat", "/z")).stdout == b"through a name"
    for name in ("-", "/dev/stdin"):  # as a shell writes <(...): it is open already
        assert (await run(cluster, "upload", "-f", name, "z", stdin=b"piped")).returncode == 0
        assert (await run(cluster, "cat", "/z")).stdout == b"piped"


async def test_help_says_where_paths_of_the_cluster_begin(cluster: RealCluster) -> None:
    for command in ([], ["upload"], ["download"]):
        said = " ".join((await run(cluster, *command, "--help")).stdout.decode().split())
        assert "root, with a slash or without" in said


async def until_empty(cluster: RealCluster) -> None:
    """No client has anything there: wait until no DataNode has anything either."""

    async def empty() -> bool:
        async with cluster.client() as fs:
            used = (await fs.statfs()).used_bytes
        return not used and not any(cluster.chunk_files(name) for name in cluster.addresses)

    await until(empty, "all space to come back")


async def test_configuration_with_an_unknown_key_is_refused_with_line_and_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "namenode.toml"
    file.write_text('state_dir = "state"\n\nreplica = 2\n')
    for argv in (["-m", "nodes.namenode", "--config", str(file)], ["-m", "dfs.cli", "config", "check", str(file)]):
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert f"{file}:3: unknown key 'replica': did you mean 'replicas'?" in done.stderr
    assert not (tmp_path / "state").exists()


# --- a cluster that cannot ----------------------------------------------------------------------------------


async def test_full_datanodes_say_no_space_and_nothing_is_left_behind(tmp_path: Path) -> None:
    options = {"capacity_bytes": limits.CHUNK_MAX_BYTES + 5 * MIB}
    async with real_cluster(tmp_path, datanodes=2, datanode=options, replicas=2, garbage_grace_s=0.2) as cluster:
        kept = os.urandom(MIB)
        assert (await run(cluster, "upload", "-", "/kept", stdin=kept)).returncode == 0
        message = await complaint(cluster, "upload", "-", "/huge", stdin=bytes(80 * MIB))
        assert "room" in message or "space" in message
        async with cluster.client() as fs:
            assert [entry.name for entry in await fs.listdir("/")] == [b"kept"]
            assert (await fs.statfs()).used_bytes == MIB
        assert (await run(cluster, "cat", "/kept")).stdout == kept

        async def has_room() -> bool:
            return (await run(cluster, "upload", "-f", "-", "/more", stdin=kept)).returncode == 0

        await until(has_room, "room for a small file again")


async def test_too_few_datanodes_are_named(tmp_path: Path) -> None:
    options: dict[str, Any] = {"node_suspect_after_s": 1.5, "node_dead_after_s": 30.0, "replicas": 2}
    async with real_cluster(tmp_path, datanodes=2, **options) as cluster, cluster.client() as fs:
        kept = os.urandom(MIB)
        assert (await run(cluster, "upload", "-", "/kept", stdin=kept)).returncode == 0
        cluster.kill("n2")

        async def noticed() -> bool:
            return [view.state for view in await fs.nodes()] == ["up", "suspect"]

        await until(noticed, "n2 to be missed")
        assert "n2" in await complaint(cluster, "upload", "-", "/file", stdin=b"data")
        assert (await run(cluster, "ls", "/")).stdout == b"kept\n"
        assert (await run(cluster, "cat", "/kept")).stdout == kept
        await cluster.start("n2")
        assert (await run(cluster, "upload", "-", "/file", stdin=b"data")).returncode == 0


async def test_no_namenode_at_the_address(tmp_path: Path) -> None:
    cluster = RealCluster(tmp_path)
    began = time.monotonic()
    message = await complaint(cluster, "ls", "/")
    assert time.monotonic() - began < limits.FIRST_CONTACT_TIMEOUT_S + 3
    assert message.startswith(f"no NameNode at {cluster.namenode_address}: ")


async def test_something_else_listens_where_the_namenode_should(tmp_path: Path) -> None:
    cluster = RealCluster(tmp_path)
    cluster.configure_client(namenode_wait_s=1)
    host, _, port = cluster.namenode_address.rpartition(":")
    with socket.create_server((host, int(port))) as silent:
        message = await complaint(cluster, "ls", "/")
        assert message.startswith(f"no NameNode at {cluster.namenode_address}: ")

        def greet() -> None:
            while True:
                try:
                    connection, _ = silent.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"220 mail.example.org ESMTP\r\n")

        threading.Thread(target=greet, daemon=True).start()
        assert cluster.namenode_address in await complaint(cluster, "ls", "/")
        silent.shutdown(socket.SHUT_RDWR)


# --- daemons that may not start -----------------------------------------------------------------------------


def refusal(cluster: RealCluster, name: str) -> str:
    """The sentence with which a daemon ends that may not run."""
    done = subprocess.run(cluster.command(name), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


async def test_a_datanode_of_another_cluster_is_refused(cluster: RealCluster, tmp_path: Path) -> None:
    directory = tmp_path / "other"
    directory.mkdir()
    with dead_at_last(RealCluster(directory)) as other:
        other.configure_namenode()
        await other.start(NAMENODE)
        cluster.kill("n2")
        other.configure_datanode("n2", directories=[cluster.directory / "n2"])
        assert "cluster" in refusal(other, "n2")
        async with other.client() as fs:
            assert await fs.nodes() == []
    await cluster.start("n2")
    assert await is_sound(cluster)


async def test_a_datanode_with_the_name_of_another_is_refused(cluster: RealCluster, tmp_path: Path) -> None:
    cluster.configure_datanode("n3", node="n1")
    assert "n1" in refusal(cluster, "n3")
    cluster.configure_datanode("n3", directories=[cluster.directory / "n1"])
    assert str(cluster.directory / "n1") in refusal(cluster, "n3")
    assert await is_sound(cluster)


async def test_two_daemons_on_one_directory(cluster: RealCluster) -> None:
    for name in ("n1", NAMENODE):
        sentence = refusal(cluster, name)
        assert str(cluster.directory / name) in sentence, sentence
    assert await is_sound(cluster)


async def test_two_daemons_at_one_address(cluster: RealCluster, tmp_path: Path) -> None:
    cluster.configure_datanode("n3", listen=cluster.addresses["n1"])
    assert cluster.addresses["n1"] in (said := refusal(cluster, "n3"))
    assert "`listen` in the daemon's configuration (datanode.toml)" in said
    (tmp_path / "other").mkdir()
    with dead_at_last(RealCluster(tmp_path / "other")) as other:
        other.configure_namenode(nameserver=cluster.nameserver_address)
        assert cluster.nameserver_address in (said := refusal(other, NAMENODE))
        assert "`nameserver` in the daemon's configuration (namenode.toml)" in said
        other.namenode_address = cluster.namenode_address
        other.configure_namenode()
        assert cluster.namenode_address in (said := refusal(other, NAMENODE))
        assert "`listen` in the daemon's configuration (namenode.toml)" in said
    assert await is_sound(cluster)


async def test_a_namenode_does_without_the_usual_port_for_names(tmp_path: Path) -> None:
    with socket.socket() as taken, dead_at_last(RealCluster(tmp_path)) as cluster:
        with contextlib.suppress(OSError):  # somebody else has it
            taken.bind(("127.0.0.1", limits.NAMESERVER_PORT))
            taken.listen()
        cluster.configure_namenode(nameserver=f"127.0.0.1:{limits.NAMESERVER_PORT}")
        await cluster.start(NAMENODE)
        async with cluster.client() as fs:
            await fs.mkdir("/made")
        cluster.stop(NAMENODE)
        assert "going on without a name server" in cluster.log(NAMENODE)


# --- nonsense on the wire -----------------------------------------------------------------------------------

_HEADER = struct.Struct("!4sHBBHHIIHH")  # of Pyro5: tag, version, type, serializer, flags, sequence, sizes, ...
_CONNECT, _INVOKE, _MSGPACK = 1, 4, 4


def _message(kind: int, payload: bytes, *, size: int | None = None, annotations: int = 0) -> bytes:
    """A message as Pyro5 frames it, whose header may say another size than it has."""
    said = len(payload) if size is None else size
    return _HEADER.pack(b"PYRO", 502, kind, _MSGPACK, 0, 1, said, annotations, 0, 0x4DC5) + payload


def _nonsense() -> dict[str, bytes]:
    chance = random.Random(7)
    return {
        "random bytes": chance.randbytes(5000),
        "zeros": bytes(5000),
        "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3,
        "half a header": _message(_CONNECT, b"")[:20],
        "a connect that never comes whole": _message(_CONNECT, b"\x80", size=10_000),
        "a size of gigabytes": _message(_CONNECT, b"", size=0xFFFFFFFF),
        "annotations of gigabytes": _message(_CONNECT, b"", annotations=0xFFFFFFFF),
        "a payload that is no msgpack": _message(_CONNECT, b"\xc1" * 100),
        "a payload nested too deep": _message(_CONNECT, b"\x91" * 5000 + b"\xc0"),
        "a list of billions": _message(_CONNECT, b"\xdd\xff\xff\xff\xff"),
        "a call before the handshake": _message(_INVOKE, b"\x94\xa1o\xa6status\x90\x80"),
        "a kind that is none": _message(200, b""),
    }


def _throw(address: str, nonsense: bytes) -> bytes:
    """Send it, say that no more comes, and read until the other side closes. Raises TimeoutError if it does not."""
    host, _, port = address.rpartition(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        try:
            sock.sendall(nonsense)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(65536):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass  # closed with bytes unread: as good
    return answer


async def test_nonsense_on_every_port_ends_its_connection_and_nothing_else(cluster: RealCluster) -> None:
    for address in (cluster.namenode_address, cluster.nameserver_address, cluster.addresses["n1"]):
        for nonsense in _nonsense().values():
            answer = await trio.to_thread.run_sync(_throw, address, nonsense)
            assert len(answer) < 4096
    assert await is_sound(cluster)
    for name in (NAMENODE, "n1"):
        assert "Traceback" not in cluster.log(name)


async def test_connections_that_say_nothing_do_not_keep_others_out(cluster: RealCluster) -> None:
    addresses = (cluster.namenode_address, cluster.addresses["n1"], cluster.addresses["n2"])
    pairs = [address.rpartition(":") for address in addresses]
    idle = [socket.create_connection((host, int(port))) for host, _, port in pairs for _ in range(100)]
    try:
        assert await is_sound(cluster)
    finally:
        for sock in idle:
            sock.close()


async def test_calls_with_arguments_of_the_wrong_kind(cluster: RealCluster) -> None:
    """What passes for a message may still be no call: the answer is an error, and the connection stays."""
    values: list[object] = [None, -1, 2**64 - 1, "text", b"bytes", [], {}, 1.5, True, [[[]]], "\ud7ff", 0]
    async with cluster.client() as fs:
        faults = []
        for method in ("getattr", "readdir", "lookup", "extents", "walk", "allocate", "apply", "heartbeat", "register"):
            for count in range(4):
                for value in values:
                    try:
                        with trio.fail_after(20):
                            await fs.session.query(method, *[value] * count)
                    except errors.RemoteFault:
                        faults.append((method, [value] * count))
                    except errors.DfsError:
                        pass
        await fs.touch("/node")
        (node, *_) = await fs.nodes()
        for method in ("append", "read", "read_ranges", "read_blocks", "sync", "list_chunks"):
            for count in range(4):
                for value in values:
                    try:
                        await fs.nodes_known.call(node.node, method, *[value] * count)
                    except errors.RemoteFault:
                        faults.append((method, [value] * count))
                    except errors.DfsError:
                        pass
    assert not faults, "these calls ended in an exception that nobody planned"
    assert await is_sound(cluster)
    for name in (NAMENODE, "n1", "n2"):
        assert "Traceback" not in cluster.log(name)


def test_nonsense_at_the_supervisor(tmp_path: Path) -> None:
    """The socket of `dfs up` answers in a sentence, or not at all, and goes on."""
    layout = Layout(tmp_path / "local")
    argv = [sys.executable, "-m", "dfs.cli"]
    where = ["--dir", str(layout.directory)]
    subprocess.run([*argv, "up", *where, "--datanodes", "1"], check=True, capture_output=True, timeout=60)
    try:
        chance = random.Random(7)
        for nonsense in (
            b"",
            b"\n",
            b"{",
            b'{"do": 7}\n',
            b"[]\n",
            b'{"do": "dance"}\n',
            b'"' * 200_000,
            chance.randbytes(5000),
        ):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(10)
                sock.connect(str(layout.socket))
                try:
                    sock.sendall(nonsense)
                    sock.shutdown(socket.SHUT_WR)
                    answer = sock.recv(65536)
                    assert not answer or b"error" in answer, (nonsense[:20], answer)
                except (ConnectionResetError, BrokenPipeError):
                    pass
        done = subprocess.run([*argv, "up", *where, "--json"], check=True, capture_output=True, text=True, timeout=60)
        assert '"started": false' in done.stdout
        assert "Traceback" not in layout.log("supervisor").read_text()
    finally:
        subprocess.run([*argv, "down", *where], check=True, capture_output=True, timeout=60)


# --- the wrong cluster --------------------------------------------------------------------------------------


async def test_connecting_to_a_datanode_or_a_wrong_address_says_so(cluster: RealCluster) -> None:
    with pytest.raises(errors.Refused, match=f"{cluster.addresses['n1']}: it is no daemon of the namenode's kind"):
        async with open_filesystem(cluster.addresses["n1"], ADMIN, wait_s=3):
            pass
    with pytest.raises(errors.DfsError):
        await trio.to_thread.run_sync(lambda: dfs.connect(free_address(), key=cluster.client_key, wait_s=1))
    with pytest.raises(errors.InvalidArgument, match="'host:port' is no address: write host:port"):
        await trio.to_thread.run_sync(lambda: dfs.connect("host:port", key=cluster.client_key))
