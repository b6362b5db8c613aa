"""A tour of the command line as somebody takes it who knows cp, ls and rm: one cluster, real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.cli.local.layout import Layout
from dfs.cli.main import cli
from tests.forked import run_dfs
from tests.integration.real import PATIENCE_S, wait_until

Shell = Callable[..., bytes]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    """A cluster that `dfs up` made, taken down with `dfs down`."""
    made = Layout(tmp_path_factory.mktemp("tour") / "cluster")
    argv = [sys.executable, "-m", "dfs.cli"]
    where = ["--dir", str(made.directory)]
    subprocess.run([*argv, "up", *where, "--datanodes", "3"], check=True, capture_output=True, timeout=60)
    yield made
    subprocess.run([*argv, "down", *where], check=True, capture_output=True, timeout=60)


@pytest.fixture
def dfs(layout: Layout, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs `dfs`; what it prints, or what it says if it is to fail. Asserts its exit status.

    In a process of its own where standard input is read; else in this one, as a shell would wait half a second for
    each process to start.
    """
    monkeypatch.setenv("DFS_CONFIG", str(layout.client))
    monkeypatch.setenv("TZ", "UTC")

    def run(*arguments: str | Path, status: int = 0, stdin: bytes | None = None) -> bytes:
        argv = [str(argument) for argument in arguments]
        if stdin is not None:
            program = [sys.executable, "-m", "dfs.cli", *argv]
            done = subprocess.run(program, input=stdin, capture_output=True, timeout=60, check=False)
            ended, out, err = done.returncode, done.stdout, done.stderr
        else:
            capfdbinary.readouterr()
            with pytest.raises(SystemExit) as ending:
                cli.main(argv, prog_name="dfs")
            out, err = capfdbinary.readouterr()
            ended = int(ending.value.code or 0)
        assert ended == status, err.decode()
        return err if status else out

    return run


@pytest.fixture
def there(dfs: Shell, request: pytest.FixtureRequest) -> str:
    """A directory in the cluster of this test's own."""
    path = f"/{request.node.name}"
    dfs("mkdir", path)
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small local tree with what trees have: an empty file, a large one, a directory in a directory, a link."""
    root = tmp_path / "tree"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / "empty").touch()
    (root / "script").write_bytes(b"#!/bin/sh\n")
    (root / "script").chmod(0o750)
    (root / "deep" / "large").write_bytes(os.urandom(3_000_001))
    (root / "deep" / "deeper" / "ünïcode").write_text("text")
    (root / "link").symlink_to("deep/large")
    os.utime(root / "script", ns=(1_000_000_000, 1_234_567_890_123_456_789))
    return root


def listing(dfs: Shell, *arguments: str) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in json.loads(dfs("ls", "--json", *arguments))}


def test_one_file_there_and_back(dfs: Shell, there: str, tmp_path: Path) -> None:
    data = os.urandom(2_500_000)
    (tmp_path / "file").write_bytes(data)
    dfs("upload", tmp_path / "file", f"{there}/")
    assert dfs("cat", f"{there}/file") == data
    dfs("download", f"{there}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    dfs("put", tmp_path / "file", f"{there}/again")
    dfs("get", f"{there}/again", tmp_path)
    assert (tmp_path / "again").read_bytes() == data


def test_a_single_file_goes_into_the_working_directory(
    dfs: Shell, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    dfs("upload", tmp_path / "file", there)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    dfs("download", f"{there.lstrip('/')}/file")
    assert Path("file").read_bytes() == b"content"


def test_a_download_is_on_the_disk_where_that_is_asked_for(
    dfs: Shell, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    dfs("put", tmp_path / "file", there)
    flushed: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda fd: flushed.append(Path(f"/proc/self/fd/{fd}").readlink()))
    dfs("get", f"{there}/file", tmp_path / "cached")
    assert not flushed
    dfs("get", "--sync", f"{there}/file", tmp_path / "kept")
    draft, directory = flushed
    assert draft.parent == directory == tmp_path and draft != tmp_path / "kept"
    flushed.clear()
    dfs("mkdir", "-p", f"{there}/tree/empty")
    dfs("ln", "-s", "anywhere", f"{there}/tree/link")
    dfs("get", "-r", "--sync", f"{there}/tree", tmp_path / "tree")
    assert set(flushed) == {tmp_path, tmp_path / "tree", tmp_path / "tree" / "empty"}


def test_nothing_is_overwritten_without_force(dfs: Shell, there: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"new")
    dfs("upload", "-", f"{there}/file", stdin=b"old")
    assert b"exists" in dfs("upload", tmp_path / "file", f"{there}/file", status=1)
    assert dfs("cat", f"{there}/file") == b"old"
    dfs("upload", "--force", tmp_path / "file", f"{there}/file")
    assert dfs("cat", f"{there}/file") == b"new"
    dfs("upload", "--force", "-", f"{there}/file", stdin=b"newest")
    assert b"exists" in dfs("download", f"{there}/file", tmp_path / "file", status=1)
    assert (tmp_path / "file").read_bytes() == b"new"
    dfs("download", "--force", f"{there}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"newest"


def test_a_tree_there_and_back_with_modes_and_times(dfs: Shell, there: str, tree: Path, tmp_path: Path) -> None:
    dfs("upload", "-r", "-p", tree, there)
    dfs("download", "-r", "-p", f"{there}/tree", tmp_path / "back")
    difference = subprocess.run(
        ["diff", "-r", "--no-dereference", tree, tmp_path / "back"], capture_output=True, check=False
    )
    assert difference.returncode == 0, difference.stdout
    for path in ("script", "deep/large", "deep", "."):
        before, after = (tree / path).stat(), (tmp_path / "back" / path).stat()
        assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns), path
    assert os.readlink(tmp_path / "back" / "link") == "deep/large"  # noqa: PTH115 - as it is written
    assert b"directory" in dfs("upload", tree, f"{there}/flat", status=1)


def test_links_lead_nobody_out_of_what_he_copies(dfs: Shell, there: str, tmp_path: Path) -> None:
    """A link that came from the cluster may be anybody's; so may one that is there already."""
    outside, here = tmp_path / "outside", tmp_path / "here"
    outside.mkdir()
    here.mkdir()
    (tmp_path / "up" / "link").mkdir(parents=True)
    (tmp_path / "up" / "link" / "file").write_text("written")
    dfs("mkdir", f"{there}/a", f"{there}/b", f"{there}/b/link", f"{there}/elsewhere")
    dfs("ln", "-s", str(outside), f"{there}/a/link")
    dfs("upload", tmp_path / "up" / "link" / "file", f"{there}/b/link/file")
    dfs("download", "-r", f"{there}/a/link", here)
    assert (here / "link").is_symlink()
    assert b"no directory" in dfs("download", "-r", f"{there}/b/link", here, status=1)
    assert list(outside.iterdir()) == []
    dfs("ln", "-s", f"{there}/elsewhere", f"{there}/link")
    dfs("upload", "-r", tmp_path / "up" / "link", there, status=1)
    assert dfs("ls", f"{there}/elsewhere") == b""


def test_what_came_from_the_cluster_leads_nobody_into_a_device(dfs: Shell, there: str, tmp_path: Path) -> None:
    """Nor into a pipe: who wants to write into one names it."""
    pipe, here = tmp_path / "pipe", tmp_path / "here"
    os.mkfifo(pipe)
    dfs("mkdir", f"{there}/tree")
    dfs("ln", "-s", str(pipe), f"{there}/tree/file")
    dfs("download", "-r", f"{there}/tree", here)
    assert os.readlink(here / "file") == str(pipe)  # noqa: PTH115 - as it is written
    dfs("rm", f"{there}/tree/file")
    dfs("upload", "-", f"{there}/tree/file", stdin=b"anybody's")
    assert b"exists" in dfs("download", "-r", f"{there}/tree/.", here, status=1)
    assert b"exists" in dfs("download", f"{there}/tree/file", here, status=1)
    dfs("download", "-r", "-f", f"{there}/tree/.", here)
    assert (here / "file").read_bytes() == b"anybody's" and not (here / "file").is_symlink()
    (tmp_path / "link").symlink_to(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        dfs("download", f"{there}/tree/file", tmp_path / "link")
        assert reader.communicate(timeout=PATIENCE_S)[0] == b"anybody's"


def test_of_two_names_of_a_file_a_move_leaves_one(dfs: Shell, there: str) -> None:
    dfs("upload", "-", f"{there}/one", stdin=b"content")
    assert b"same file" in dfs("mv", f"{there}/one", f"{there}/one", status=1)
    dfs("ln", f"{there}/one", f"{there}/two")
    assert b"same file" in dfs("mv", f"{there}/one", f"{there}//one", status=1)
    dfs("mv", f"{there}/one", f"{there}/two")
    assert list(listing(dfs, there)) == ["two"] and dfs("cat", f"{there}/two") == b"content"


def test_through_pipes(dfs: Shell, there: str) -> None:
    data = os.urandom(5_000_000)
    dfs("upload", "-", f"{there}/piped", stdin=data)
    assert dfs("download", f"{there}/piped", "-") == data
    dfs("upload", "-", f"{there}/more", stdin=b"and more")
    assert dfs("cat", f"{there}/piped", f"{there}/more") == data + b"and more"


def test_what_is_no_input_is_no_empty_file(dfs: Shell, there: str, layout: Layout) -> None:
    upload = f"{sys.executable} -m dfs.cli --config {layout.client} upload - {there}/file <&-"
    done = subprocess.run(["sh", "-c", upload], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"dfs: bad file descriptor: standard input\n")
    assert dfs("ls", there) == b""


def test_ls_in_all_its_forms(dfs: Shell, there: str, tree: Path) -> None:
    dfs("upload", "-r", tree, there)
    root = f"{there}/tree"
    assert dfs("ls", root).decode().split() == ["deep", "empty", "link", "script"]
    long = {line.split()[8]: line.split() for line in dfs("ls", "-l", root).decode().splitlines()}
    assert long["script"][0] == "-rwxr-x---"
    assert long["deep"][0].startswith("drwx")
    assert long["empty"][4] == "0"
    assert long["link"][8:] == ["link", "->", "deep/large"]
    everything = dfs("ls", "-R", root).decode()
    assert f"{root}/deep/deeper:\nünïcode\n" in everything
    found = listing(dfs, root)
    assert found["deep"]["type"] == "directory"
    assert found["script"] | {"size": 10, "mode": "0750", "type": "file"} == found["script"]
    assert dfs("ls", "-d", root).decode().strip() == root
    dfs("touch", f"{root}/.hidden")
    assert ".hidden" not in dfs("ls", root).decode()
    assert ".hidden" in dfs("ls", "-A", root).decode()
    assert dfs("ls", "-S", f"{root}/deep").decode().split()[0] in ("deeper", "large")


def test_stat_tree_du_and_df(dfs: Shell, there: str, tree: Path) -> None:
    dfs("upload", "-r", tree, there)
    shown = dfs("stat", f"{there}/tree/deep/large").decode()
    assert "Size: 3000001" in shown
    assert "regular file" in shown
    assert "Copies: 3" in shown
    (attributes,) = json.loads(dfs("stat", "--json", "--chunks", f"{there}/tree/deep/large"))
    assert attributes["size"] == 3_000_001
    assert {node for chunk in attributes["chunks"] for node in chunk["nodes"]} == {"n1", "n2", "n3"}
    drawn = dfs("tree", f"{there}/tree").decode()
    assert "ünïcode" in drawn
    assert "3 directories, 5 files" in drawn or "2 directories, 5 files" in drawn
    summed = dfs("du", "-s", "-b", there).decode().split()
    assert summed == [str(3_000_001 + len("#!/bin/sh\n") + len("text") + len("deep/large")), there], (
        "a link has a length, too"
    )
    assert len(dfs("du", there).splitlines()) == 4
    wait_until(lambda: json.loads(dfs("df", "--json"))["used_bytes"] > 0)  # DataNodes tell of it with their heartbeats
    space = json.loads(dfs("df", "--json"))
    assert space["capacity_bytes"] > space["free_bytes"] > 0
    assert b"Use%" in dfs("df", "-h")


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (1 << 40, {0: b"first", 1 << 39: b"middle", (1 << 40) - 4: b"last"}),
        (300_000_000, {100_000_000: b"x" * 9_000_000, 200_000_000: b"y"}),
        (50_000_000, {}),
    ],
)
def test_upload_leaves_holes_out_and_download_too(
    dfs: Shell, there: str, tmp_path: Path, size: int, pieces: dict[int, bytes]
) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
        file.truncate(size)
    dfs("upload", tmp_path / "sparse", there)
    (found,) = json.loads(dfs("stat", "--json", f"{there}/sparse"))
    assert found["size"] == size
    assert found["allocated"] <= sum(map(len, pieces.values())) + len(pieces) * 8192
    dfs("download", f"{there}/sparse", tmp_path / "back")
    assert (tmp_path / "back").stat().st_size == size
    assert (tmp_path / "back").stat().st_blocks * 512 <= found["allocated"] + len(pieces) * 8192
    with (tmp_path / "back").open("rb") as file:
        for offset, data in pieces.items():
            file.seek(max(0, offset - 10))
            assert file.read(len(data) + 10 + min(0, offset - 10)).endswith(data)


def test_a_file_with_every_second_page_missing_goes_up_and_down(dfs: Shell, there: str, tmp_path: Path) -> None:
    data = b"".join(bytes([number % 255 + 1]) * 4096 + bytes(4096) for number in range(500))
    with (tmp_path / "sparse").open("wb") as file:
        for start in range(0, len(data), 8192):
            file.seek(start)
            file.write(data[start : start + 4096])
        file.truncate(len(data))
    dfs("upload", tmp_path / "sparse", there)
    assert dfs("cat", f"{there}/sparse") == data
    dfs("download", f"{there}/sparse", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "back").stat().st_blocks * 512 < len(data) * 3 / 4


def test_status_names_every_daemon(dfs: Shell) -> None:
    status = json.loads(dfs("status", "--json"))
    assert {node["node"]: node["state"] for node in status["nodes"]} == {"n1": "up", "n2": "up", "n3": "up"}
    assert len(set(status["pids"])) == 4
    shown = dfs("status").decode()
    for node in status["nodes"]:
        assert node["address"] in shown
        assert str(node["pid"]) in shown


def test_a_check_of_a_sound_cluster(dfs: Shell) -> None:
    assert b"Clients" in dfs("status", "--check")
    assert json.loads(dfs("status", "--check", "--json"))["warnings"] == []


def test_mkdir_mv_and_rm(dfs: Shell, there: str) -> None:
    dfs("mkdir", "-p", f"{there}/a/b/c")
    dfs("mkdir", "-p", f"{there}/a/b/c")
    assert b"exists" in dfs("mkdir", f"{there}/a", status=1)
    dfs("upload", "-", f"{there}/a/file", stdin=b"data")
    dfs("mv", f"{there}/a/file", f"{there}/a/b")
    assert dfs("cat", f"{there}/a/b/file") == b"data"
    dfs("mv", f"{there}/a/b", f"{there}/moved")
    assert dfs("ls", f"{there}/moved").split() == [b"c", b"file"]
    assert b"itself" in dfs("mv", f"{there}/moved", f"{there}/moved/c", status=1)
    dfs("upload", "-", f"{there}/other", stdin=b"other")
    dfs("mv", "-n", f"{there}/other", f"{there}/moved/file", status=1)
    assert dfs("cat", f"{there}/moved/file") == b"data"
    assert b"-r" in dfs("rm", f"{there}/moved", status=1)
    dfs("rm", f"{there}/other")
    dfs("rm", "-r", f"{there}/moved", f"{there}/a")
    assert dfs("ls", there) == b""
    assert b"no such file" in dfs("rm", f"{there}/other", status=1)
    dfs("rm", "-f", f"{there}/other")


def test_touch_chmod_and_chown(dfs: Shell, there: str) -> None:
    began_ns = time.time_ns()
    dfs("touch", f"{there}/file")
    dfs("touch", "-c", f"{there}/none")
    found = listing(dfs, there)
    assert list(found) == ["file"]
    assert abs(found["file"]["mtime_ns"] - began_ns) < 60e9
    dfs("chmod", "640", f"{there}/file")
    assert listing(dfs, there)["file"]["mode"] == "0640"
    dfs("chmod", "u+x,g-r,o=r", f"{there}/file")
    assert listing(dfs, there)["file"]["mode"] == "0704"
    dfs("chown", "1234:2345", f"{there}/file")
    assert (listing(dfs, there)["file"]["uid"], listing(dfs, there)["file"]["gid"]) == (1234, 2345)
    dfs("chown", ":0", f"{there}/file")
    assert (listing(dfs, there)["file"]["uid"], listing(dfs, there)["file"]["gid"]) == (1234, 0)


def test_hard_and_symbolic_links(dfs: Shell, there: str) -> None:
    dfs("upload", "-", f"{there}/file", stdin=b"data")
    dfs("ln", f"{there}/file", f"{there}/hard")
    dfs("ln", "-s", "file", f"{there}/soft")
    found = listing(dfs, there)
    assert found["hard"]["ino"] == found["file"]["ino"]
    assert found["hard"]["nlink"] == 2
    assert found["soft"]["type"] == "symlink"
    dfs("rm", f"{there}/file")
    assert dfs("cat", f"{there}/hard") == b"data"
    assert b"no such file" in dfs("cat", f"{there}/soft", status=1)
    dfs("mv", f"{there}/hard", f"{there}/file")
    assert dfs("cat", f"{there}/soft") == b"data"


def test_a_directory_has_one_place_and_errors_say_which(dfs: Shell, there: str) -> None:
    dfs("mkdir", f"{there}/a")
    said = dfs("mv", f"{there}/a", f"{there}/a/sub", status=1)
    assert said == f"dfs: a directory cannot be moved below itself: {there}/a/sub\n".encode()
    said = dfs("ln", f"{there}/a", f"{there}/b", status=1)
    assert said == f"dfs: a directory has one name only: {there}/a\n".encode()


def test_who_asks_for_more_copies_than_there_are_datanodes_is_told(dfs: Shell, there: str) -> None:
    def told(copies: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "dfs.cli", "replicas", there, copies]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    warning = "there are only 3 DataNodes: 1 copy of 4 will be missing until more are added, or fewer are asked for"
    assert told("4") == (0, f"dfs: {warning}\n")
    assert told("3") == told("0") == (0, "")


def test_fsck_of_a_sound_cluster(dfs: Shell) -> None:
    assert dfs("fsck").strip() == b"nothing wrong"


def test_a_shell_is_offered_names_that_it_can_be_told(dfs: Shell, there: str, layout: Layout) -> None:
    def offered(words: str) -> list[str]:
        return _completed({"DFS_CONFIG": str(layout.client)}, words)

    dfs("mkdir", f"{there}/plain", os.fsdecode(there.encode() + b"/p\xff"), f"{there}/p\nn")
    assert offered(f"dfs ls {there}/p") == [f"plain,{there}/plain/"]
    assert offered("dfs drain ") == offered("dfs scrub n") == ["plain,n1", "plain,n2", "plain,n3"]
    assert offered("dfs restart na") == ["plain,namenode"]


def _completed(settings: dict[str, str], words: str) -> list[str]:
    env = {**os.environ, **settings, "_DFS_COMPLETE": "bash_complete"}
    env |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run([sys.executable, "-m", "dfs.cli"], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize("verb", ["ls", "stat", "du", "tree", "fsck", "why"])
def test_of_what_could_not_be_looked_at_nothing_is_printed(dfs: Shell, layout: Layout, verb: str) -> None:
    done = run_dfs(verb, "--json", "/none", environment={**os.environ, "DFS_CONFIG": str(layout.client)})
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"dfs: no such file or directory: /none\n"


def test_version_help_and_what_is_no_verb(dfs: Shell) -> None:
    assert dfs("--version").startswith(b"dfs")
    assert b"upload" in dfs("--help")
    assert b"uplaod" in dfs("uplaod", status=2)
