"""`dfs.connect` and `dfs.client.open_filesystem` as scripts use them: with the standard library, on real daemons."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

import dfs
from dfs import errors
from dfs.client import BlockingFileSystem, open_filesystem
from tests.integration.real import (
    NAMENODE,
    PATIENCE_S,
    RealCluster,
    dead_at_last,
    lasting_cluster,
    make_as_new,
    real_cluster,
)
from tests.keys import ADMIN

Script = Callable[[BlockingFileSystem], None]


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    with lasting_cluster(tmp_path_factory.mktemp("cluster"), datanodes=2, replicas=2) as made:
        yield made


@pytest.fixture
async def cluster(daemons: RealCluster) -> RealCluster:
    """One cluster for all tests of this module, empty."""
    await make_as_new(daemons)
    return daemons


def connected(cluster: RealCluster) -> BlockingFileSystem:
    return dfs.connect(cluster.namenode_address, key=cluster.client_key)


async def run(cluster: RealCluster, *scripts: Script) -> None:
    """Run synchronous scripts one after the other, all on one connection, in a thread as scripts have one."""

    def work() -> None:
        with connected(cluster) as fs:
            for script in scripts:
                script(fs)

    await trio.to_thread.run_sync(work)


def text_files(fs: BlockingFileSystem) -> None:
    with fs.open("/notes.txt", "w") as file:
        file.write("first\nsecond ☃\n")
        print("third", file=file)
    with fs.open("/notes.txt", "a", newline="\n") as file:
        file.write("fourth\n")
    with fs.open("/notes.txt") as file:
        assert list(file) == ["first\n", "second ☃\n", "third\n", "fourth\n"]
    with pytest.raises(FileExistsError):
        fs.open("/notes.txt", "x")
    with pytest.raises(FileNotFoundError):
        fs.open("/none")
    with pytest.raises(IsADirectoryError):
        fs.open("/")
    with fs.open("/notes.txt") as file, pytest.raises(io.UnsupportedOperation):
        file.write("no")


def binary_files(fs: BlockingFileSystem) -> None:
    data = os.urandom(3_000_000)
    with fs.open("/data", "wb") as file:
        assert file.write(data) == len(data)
    with fs.open("/data", "r+b") as file:
        file.seek(1_000_000)
        assert file.read(10) == data[1_000_000:1_000_010]
        file.seek(-5, os.SEEK_END)
        file.write(b"12345678")
        assert file.tell() == len(data) + 3
        file.seek(0)
        file.write(b"start")
        fs.fsync(file)
        assert file.read(5) == data[5:10]
    expected = b"start" + data[5:-5] + b"12345678"
    assert fs.read_bytes("/data") == expected
    with fs.open("/data", "rb", buffering=0) as file:
        assert file.read(7) == expected[:7]
        buffer = bytearray(4)
        raw: Any = file
        assert raw.readinto(buffer) == 4
        assert buffer == expected[7:11]
    with fs.open("/data", "r+b") as file:
        file.truncate(100)
        file.seek(200)
        file.write(b"x")
    assert fs.read_bytes("/data") == expected[:100] + bytes(100) + b"x"


def the_standard_library(fs: BlockingFileSystem) -> None:
    rows = [["name", "size"], ["ä", "1"], ["with, comma", "2"]]
    with fs.open("/table.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    with fs.open("/table.csv", newline="") as file:
        assert list(csv.reader(file)) == rows
    with fs.open("/table.json", "w") as file:
        json.dump({"rows": rows}, file)
    with fs.open("/table.json") as file:
        assert json.load(file) == {"rows": rows}
    member = os.urandom(1_500_000)
    with fs.open("/archive.zip", "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside", member)
    with fs.open("/archive.zip", "rb") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.read("inside") == member
    with fs.open("/archive.tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        info = tarfile.TarInfo("inside")
        info.size = len(member)
        tar.addfile(info, io.BytesIO(member))
    with fs.open("/archive.tar.gz", "rb") as file, tarfile.open(fileobj=file) as tar:
        inside = tar.extractfile("inside")
        assert inside is not None
        assert inside.read() == member
    with fs.open("/archive.zip", "rb") as source, fs.open("/copy.zip", "wb") as target:
        shutil.copyfileobj(source, target)
    assert fs.read_bytes("/copy.zip") == fs.read_bytes("/archive.zip")


def the_namespace(fs: BlockingFileSystem) -> None:
    fs.mkdir("/tree/a/b", parents=True)
    fs.write_bytes("/tree/a/file", b"data")
    fs.write_bytes("/tree/a/file", b"other data")
    assert fs.listdir("/tree/a") == ["b", "file"]
    assert fs.stat("/tree/a/file").size == 10
    fs.rename("/tree/a/file", "/tree/file")
    assert not fs.exists("/tree/a/file")
    fs.symlink("file", "/tree/soft")
    assert fs.readlink("/tree/soft") == "file"
    assert fs.read_bytes("/tree/soft") == b"other data"
    fs.link("/tree/file", "/tree/hard")
    assert fs.stat("/tree/hard").nlink == 2
    walked = {directory: [entry.name for entry in entries] for directory, entries in fs.walk("/tree")}
    assert walked == {"/tree": [b"a", b"file", b"hard", b"soft"], "/tree/a": [b"b"], "/tree/a/b": []}
    assert fs.chmod("/tree/file", 0o600).mode & 0o7777 == 0o600
    assert fs.utime("/tree/file", 1, 2).mtime_ns == 2
    fs.truncate("/tree/file", 5)
    assert fs.summarize("/tree")["bytes"] == 5 + len("file"), "one file of two names, and a link's target"
    fs.remove("/tree/file")
    with pytest.raises(FileNotFoundError):
        fs.remove("/tree/file")
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir("/tree")
    fs.remove_tree("/tree")
    assert not fs.exists("/tree")


def paths_as_posix_has_them(fs: BlockingFileSystem) -> None:
    """Links to what is not there yet lead to what is made, and who ends a path in a slash means a directory."""
    fs.mkdir("/tree/deep", parents=True)
    for link, target in (("/tree/far", "/made far"), ("/tree/deep/near", "../made near"), ("/tree/on", "deep/near")):
        fs.symlink(target, link)
    with fs.open("/tree/far", "wb") as file:
        file.write(b"far")
    assert fs.read_bytes("/made far") == b"far"
    fs.touch("/tree/on")
    assert fs.stat("/tree/made near").size == 0
    with pytest.raises(FileExistsError):
        fs.open("/tree/deep/near", "x")
    fs.symlink("loop", "/tree/loop")
    with pytest.raises(OSError, match="too many levels"):
        fs.touch("/tree/loop")
    fs.symlink("deep", "/tree/link")
    for wrong in (fs.stat, fs.remove, fs.touch, fs.read_bytes):
        with pytest.raises(NotADirectoryError):
            wrong("/made far/")
    with pytest.raises(NotADirectoryError):
        fs.remove("/tree/link/")
    with pytest.raises(NotADirectoryError):
        fs.open("/tree/new/", "w")
    assert fs.listdir("/tree/link/") == ["near"] and fs.exists("/made far")
    for none in (fs.stat, fs.listdir, fs.mkdir, fs.read_bytes, fs.touch):
        with pytest.raises(FileNotFoundError, match="an empty path"):
            none("")
    assert not fs.exists("")


class Raw(io.RawIOBase):
    """Takes and gives a little at a time, or nothing for now."""

    def __init__(self, content: bytes = b"", *, is_ready: bool = True) -> None:
        self.content = bytearray(content)
        self.is_ready = is_ready

    def write(self, data: Any) -> int | None:
        self.content += bytes(data[:1000])
        return min(1000, len(data)) if self.is_ready else None

    def readinto(self, view: Any) -> int | None:
        if not self.is_ready:
            return None
        some = bytes(self.content[: min(1000, len(view))])
        del self.content[: len(some)]
        view[: len(some)] = some
        return len(some)


def raw_files(fs: BlockingFileSystem) -> None:
    data = os.urandom(2_500_000)
    fs.upload(Raw(data), "/raw")
    assert fs.read_bytes("/raw") == data
    with fs.open("/raw", "r+b") as file:
        file.seek(4_000_000)
        file.write(b"behind a hole")
    sink = Raw()
    assert fs.download("/raw", sink).size == len(sink.content) == 4_000_013
    assert sink.content == fs.read_bytes("/raw")
    alike: Any = SimpleNamespace(taken=bytearray())
    alike.write = lambda data: alike.taken.extend(data)
    fs.download("/raw", alike)
    assert alike.taken == sink.content
    with pytest.raises(BlockingIOError, match="non-blocking"):
        fs.upload(Raw(b"some", is_ready=False), "/half")
    with pytest.raises(BlockingIOError, match="non-blocking"):
        fs.download("/raw", Raw(is_ready=False))
    assert not fs.exists("/half")


def what_is_meant_for_files(fs: BlockingFileSystem) -> None:
    path: Any = "/a path, and no file"
    for wrong in (lambda: fs.upload(path, "/x"), lambda: fs.download("/", path)):
        with pytest.raises(TypeError, match="not a file object"):
            wrong()
    with io.BytesIO() as file, pytest.raises(TypeError, match="not a file of the cluster"):
        fs.fsync(file)
    fs.touch("/file")
    with pytest.raises(OSError, match="cannot be larger"):
        fs.truncate("/file", 2**70)


def kinds_of_names(fs: BlockingFileSystem) -> None:
    fs.touch("/file")
    fs.mkdir("/directory")
    fs.symlink("directory", "/link")
    fs.symlink("gone", "/dangling")
    names = ("/file", "/directory", "/link", "/dangling", "/none", "/file/none")
    assert [fs.is_dir(name) for name in names] == [False, True, True, False, False, False]
    assert [fs.is_file(name) for name in names] == [True, False, False, False, False, False]


def lines_at_once(fs: BlockingFileSystem) -> None:
    with fs.open("/lines", "w", buffering=1) as file:
        file.write("a line\n")
        assert fs.read_bytes("/lines") == b"a line\n"


def rights_that_writing_takes_away(fs: BlockingFileSystem) -> None:
    for mode in (0o4755, 0o2755, 0o6777, 0o1644):
        assert fs.upload(io.BytesIO(b"program"), "/program", mode=mode, replace=True).mode & 0o7777 == mode


def the_cluster(fs: BlockingFileSystem) -> None:
    fs.write_bytes("/kept", b"data")
    assert [view.node for view in fs.nodes()] == ["n1", "n2"]
    assert [sorted(place.nodes) for place in fs.replicas("/kept")] == [["n1", "n2"]]
    assert fs.statfs().replicas == 2
    assert fs.status()["lost"] == 0


@pytest.mark.parametrize(
    "script",
    [
        *(text_files, binary_files, the_standard_library, the_namespace, paths_as_posix_has_them, raw_files),
        *(what_is_meant_for_files, kinds_of_names, lines_at_once, rights_that_writing_takes_away, the_cluster),
    ],
    ids=lambda each: each.__name__,
)
async def test_scripts(cluster: RealCluster, script: Script) -> None:
    await run(cluster, script)


def test_the_package_shows_what_is_in_it() -> None:
    assert {"connect", "open_filesystem", "__version__"} <= set(dir(dfs))


async def test_two_connections_see_each_other(cluster: RealCluster) -> None:
    def script() -> None:
        with (
            dfs.connect(cluster.namenode_address, key=cluster.client_key) as one,
            dfs.connect(cluster.namenode_address, key=cluster.client_key) as other,
        ):
            with one.open("/log", "w") as file:
                file.write("a line\n")
                file.flush()
                assert other.read_bytes("/log") == b"a line\n"
                file.write("and another\n")
            assert other.read_bytes("/log") == b"a line\nand another\n"
            with other.open("/log", "rb") as reading:
                one.remove("/log")
                assert not other.exists("/log")
                assert reading.read() == b"a line\nand another\n", "a file that is open stays until it is closed"

    await trio.to_thread.run_sync(script)


async def test_many_threads_share_a_connection(cluster: RealCluster) -> None:
    datas = {f"/{number}": os.urandom(50_000 * number) for number in range(8)}

    def script(fs: BlockingFileSystem) -> None:
        import threading

        failures: list[BaseException] = []

        def one(path: str, data: bytes) -> None:
            try:
                fs.write_bytes(path, data)
                assert fs.read_bytes(path) == data
            except BaseException as error:  # noqa: BLE001 - told below
                failures.append(error)

        threads = [threading.Thread(target=one, args=each) for each in datas.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    await run(cluster, script)


async def test_a_closed_connection_says_so(cluster: RealCluster) -> None:
    def script() -> None:
        fs = dfs.connect(cluster.namenode_address, key=cluster.client_key)
        fs.close()
        fs.close()
        with pytest.raises(ValueError, match="closed"):
            fs.listdir("/")

    await trio.to_thread.run_sync(script)


_FORKS = """
import multiprocessing, os, signal, sys
import dfs

def in_child(path):
    signal.alarm(30)  # a child that hangs outlives no test
    try:
        fs.listdir(path)
    except ValueError as error:
        refusal = str(error)
    with fs:
        pass
    with dfs.connect() as own:
        return refusal, own.read_bytes("/file")

if __name__ == "__main__":
    fs = dfs.connect()
    fs.write_bytes("/file", b"data")
    file = fs.open("/written", "w")
    file.write("once")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        refusal, data = pool.map(in_child, ["/"])[0]
    assert "opened in another process: call dfs.connect() in this one" in refusal, refusal
    assert data == b"data", data
    if not (child := os.fork()):
        signal.alarm(30)
        try:
            file.close()
        except ValueError:
            del file, fs
            sys.exit(7)  # as a program ends: what it holds is finalized
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    file.close()
    assert fs.read_bytes("/written") == b"once"
    fs.close()
"""


async def test_a_connection_in_a_forked_process_says_so_and_keeps_nobody(cluster: RealCluster) -> None:
    """The thread that does its work is not there: whoever waits for it waits for ever."""
    done = await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKS],  # Python's own of forks beside threads
            env={**os.environ, "DFS_CONFIG": str(cluster.client_config)},
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
    )
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_connection_is_not_sent_to_another_process(cluster: RealCluster) -> None:
    def script(fs: BlockingFileSystem) -> None:
        for each in (fs, fs.listdir):
            with pytest.raises(TypeError, match=r"cannot be pickled: call dfs\.connect\(\) in the other process"):
                pickle.dumps(each)

    await run(cluster, script)


async def test_connect_finds_the_cluster_that_the_environment_names(
    cluster: RealCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def script() -> None:
        with dfs.connect() as fs:
            fs.touch("/found")

    monkeypatch.setenv("DFS_CONFIG", str(cluster.client_config))
    await trio.to_thread.run_sync(script)
    monkeypatch.setenv("DFS_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(errors.ConfigError, match=r"none\.toml"):
        await trio.to_thread.run_sync(script)


_LOGS = """
import logging, sys
import dfs, structlog

def fails():
    try:
        dfs.connect("127.0.0.1:1", key=sys.argv[1], wait_s=1)
    except dfs.errors.Unreachable as error:
        print("no cluster")

fails()
structlog.get_logger("dfs.client").warning("something is wrong", node="n1")
structlog.get_logger().info("of the program's own")
logging.basicConfig(level="INFO", format="%(levelname)s %(name)s: %(message)s")
fails()
"""


async def test_what_is_logged_goes_where_the_program_logs_and_never_to_its_output(cluster: RealCluster) -> None:
    done = await trio.to_thread.run_sync(
        lambda: subprocess.run(
            [sys.executable, "-c", _LOGS, cluster.client_key], capture_output=True, text=True, check=False
        )
    )
    first, own, second = done.stdout.splitlines()
    assert first == second == "no cluster", done.stderr
    assert "of the program's own" in own
    warning, *infos = done.stderr.splitlines()
    assert warning == "something is wrong node=n1"
    assert infos
    told = "INFO dfs.client.session: namenode does not answer, trying again address=127.0.0.1:1 error="
    assert all(info.startswith(told) for info in infos)


async def test_on_trio_many_files_at_once(cluster: RealCluster) -> None:
    async with open_filesystem(cluster.namenode_address, ADMIN) as fs:

        async def one(number: int) -> None:
            data = os.urandom(40_000)
            async with await fs.open(f"/{number}", "w+") as file:
                await file.pwrite(data, number)
                await file.fsync()
                buffer = bytearray(len(data))
                assert await file.pread_into(memoryview(buffer), number) == len(data)
                assert buffer == data

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
        assert len(await fs.listdir("/")) == 20


async def test_a_datanode_of_another_cluster_at_the_known_address_is_never_read(tmp_path: Path) -> None:
    """Ports are reused: chunk 1 of another cluster is not our chunk 1."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    one_copy: dict[str, Any] = {"datanodes": 1, "replicas": 1, "min_replicas": 1}
    async with real_cluster(tmp_path / "ours", **one_copy) as ours, ours.client(wait_s=5) as fs:
        await trio.to_thread.run_sync(_write, ours, b"ours" * 1000)
        ours.kill("n1")
        with dead_at_last(RealCluster(tmp_path / "theirs")) as theirs:
            theirs.configure_namenode(replicas=1, min_replicas=1)
            theirs.configure_datanode("n1", listen=ours.addresses["n1"])
            await theirs.start(NAMENODE)
            await theirs.start("n1")
            await trio.to_thread.run_sync(_write, theirs, b"them" * 1000)
            with pytest.raises(errors.DfsError, match="cluster"):
                await fs.download("/file", _Sink())
            assert (await fs.stat("/file")).size == 4000
        await ours.start("n1")
        sink = _Sink()
        await fs.download("/file", sink)
        assert sink.data == b"ours" * 1000


def _write(cluster: RealCluster, data: bytes) -> None:
    with dfs.connect(cluster.namenode_address, key=cluster.client_key) as fs:
        fs.write_bytes("/file", data)


class _Sink:
    """Collects what it is given."""

    leaves_holes = False

    def __init__(self) -> None:
        self.data = b""

    async def write(self, view: memoryview) -> None:
        self.data += bytes(view)

    async def skip(self, length: int) -> None:
        self.data += bytes(length)
