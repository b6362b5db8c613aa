"""Programs that people run, on a mounted cluster: they find nothing that a local file system would not do as well."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from dfs import limits
from tests.fuse.conftest import Cluster, mounted

pytestmark = pytest.mark.fuse

KIB, MIB = limits.KIB, limits.MIB
PATIENCE_S = 60
"""For one command."""


def need(program: str) -> None:
    """Skip the test where the program is missing; fail it where everything must be there."""
    if shutil.which(program) is None:
        if os.environ.get("DFS_REQUIRE_FUSE") == "1":
            pytest.fail(f"DFS_REQUIRE_FUSE=1, but {program} is not installed")
        pytest.skip(f"{program} is not installed")


def run(*argv: str | Path, **how: Any) -> str:
    """Run a command that must succeed; what it prints."""
    done = subprocess.run([*map(str, argv)], **{"capture_output": True, "text": True, "timeout": PATIENCE_S, **how})
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


def make_tree(root: Path) -> Path:
    """A tree with something of everything; sizes are whole sectors, so that all count its space alike."""
    chance = random.Random(1)
    for number in range(4):
        directory = root / f"directory {number}" / "below"
        directory.mkdir(parents=True)
        for size in (0, 512, 64 * KIB, 300 * KIB):
            (directory / f"{size} bytes").write_bytes(chance.randbytes(size))
    (root / "large").write_bytes(chance.randbytes(5 * MIB))
    (root / "naïve ☃\n").write_bytes(bytes(1024))
    (root / "large's other name").hardlink_to(root / "large")
    (root / "dangling").symlink_to("nowhere")
    (root / "link").symlink_to("directory 1/below")
    os.mkfifo(root / "fifo")
    (root / "program").write_bytes(b"x" * 512)
    (root / "program").chmod(0o4751)
    (root / "directory 2").chmod(0o1700)
    os.chown(root / "directory 3", 1234, 4321)
    os.setxattr(root / "large", "user.colour", b"green\0")
    os.utime(root / "program", ns=(10**18 + 1, 10**18 + 987_654_321))
    os.utime(root / "directory 1", ns=(10**18 + 1, 10**18 + 123_456_789))
    return root


def describe(path: Path) -> list[Any]:
    """All of a file that a copy is to keep."""
    found = path.lstat()
    what: list[Any] = [found.st_mode, found.st_uid, found.st_gid]
    if stat.S_ISLNK(found.st_mode):
        return [*what, str(path.readlink())]
    what += [found.st_mtime_ns, {name: os.getxattr(path, name) for name in os.listxattr(path) if name[:5] == "user."}]
    if stat.S_ISREG(found.st_mode):
        what += [found.st_nlink, found.st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    return what


def snapshot(root: Path) -> dict[str, list[Any]]:
    """Everything below `root`, by its path from there."""
    return {str(path.relative_to(root)): describe(path) for path in sorted(root.rglob("*"))}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree on a local disk, none of it of this second: rsync takes times that differ by less for equal."""
    (tmp_path / "tree").mkdir()
    top = make_tree(tmp_path / "tree")
    for number, path in enumerate(sorted(top.rglob("*"), reverse=True)):
        if path.lstat().st_mtime > 1_700_000_000:
            os.utime(path, ns=(0, 1_600_000_000_123_456_789 + number * 1_000_000_007), follow_symlinks=False)
    return top


# --- copies ---------------------------------------------------------------------------------------------


def test_cp_copies_a_tree_there_and_back_and_nothing_is_lost(here: Path, tree: Path, tmp_path: Path) -> None:
    run("cp", "-a", tree, here / "copy")
    assert snapshot(here / "copy") == snapshot(tree)
    run("cp", "-a", here / "copy", here / "again")
    run("cp", "-a", here / "again", tmp_path / "back")
    assert snapshot(tmp_path / "back") == snapshot(tree)
    run("diff", "-r", "--no-dereference", "--exclude=fifo", tree, here / "copy")


def test_rsync_finds_nothing_to_do_the_second_time(here: Path, tree: Path) -> None:
    need("rsync")
    command = ["rsync", "-aHX", "--delete", "--itemize-changes", f"{tree}/", f"{here}/copy/"]
    assert run(*command)
    assert snapshot(here / "copy") == snapshot(tree)
    assert run(*command) == ""
    (tree / "large").write_bytes(b"new")
    shutil.rmtree(tree / "directory 0")
    run(*command)
    assert set(snapshot(here / "copy")) == set(snapshot(tree))
    assert (here / "copy" / "large").read_bytes() == b"new"
    assert run("rsync", "-aHXnc", "--delete", "--itemize-changes", f"{here}/copy/", f"{tree}/") == ""


def test_tar_packs_and_unpacks_on_the_mount(here: Path, tree: Path, tmp_path: Path) -> None:
    pax = ["--format=posix", "--xattrs"]
    run("tar", *pax, "-C", tree, "-cf", here / "packed.tar", ".")
    (here / "unpacked").mkdir()
    run("tar", "--xattrs", "-C", here / "unpacked", "-xpf", here / "packed.tar")
    assert snapshot(here / "unpacked") == snapshot(tree)
    run("tar", *pax, "-C", here / "unpacked", "-czf", tmp_path / "back.tar.gz", ".")
    (tmp_path / "back").mkdir()
    run("tar", "--xattrs", "-C", tmp_path / "back", "-xpf", tmp_path / "back.tar.gz")
    assert snapshot(tmp_path / "back") == snapshot(tree)


def test_archives_of_python_are_written_read_and_extended(here: Path) -> None:
    chance = random.Random(2)
    files = {f"{number}/file": chance.randbytes(50 * KIB) for number in range(20)}
    for name, data in files.items():
        (here / name).parent.mkdir()
        (here / name).write_bytes(data)
    with zipfile.ZipFile(here / "files.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            archive.write(here / name, name)
    with zipfile.ZipFile(here / "files.zip", "a") as archive:
        archive.writestr("one more", b"of it")
    with zipfile.ZipFile(here / "files.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in files} == files
        assert archive.read("one more") == b"of it"
    with tarfile.open(here / "files.tar.bz2", "w:bz2", compresslevel=1) as tar:
        for name in files:
            tar.add(here / name, name)
    with tarfile.open(here / "files.tar.bz2") as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)  # before 3.11.4 there is none
        tar.extractall(here / "out")
    assert {name: (here / "out" / name).read_bytes() for name in files} == files


# --- development ----------------------------------------------------------------------------------------


def test_git_clones_commits_collects_garbage_and_finds_its_repository_sound(here: Path, tmp_path: Path) -> None:
    need("git")
    identity = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **identity, "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}

    def git(where: Path, *arguments: str | Path) -> str:
        return run("git", "-C", where, *arguments, env=environment)

    origin = tmp_path / "origin"
    git(tmp_path, "init", "-q", "-b", "main", origin)
    for number in range(16):
        (origin / f"{number}.txt").write_text(f"{number}\n" * 300)
        if number % 8 == 7:
            git(origin, "add", ".")
            git(origin, "commit", "-qm", f"up to {number}")
    clone = here / "clone"
    git(here, "clone", "-q", origin, clone)
    git(clone, "checkout", "-qb", "work")
    for number in range(3):
        (clone / f"{number}.txt").write_text("changed\n")
        git(clone, "commit", "-qam", f"change {number}")
    git(clone, "gc", "-q", "--aggressive", "--prune=now")
    git(clone, "fsck", "--full", "--strict")
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "checkout", "-q", "main")
    git(clone, "merge", "-q", "--no-ff", "-m", "merge", "work")
    assert git(clone, "status", "--porcelain") == ""
    git(here, "clone", "-q", clone, tmp_path / "back")
    assert git(tmp_path / "back", "rev-parse", "HEAD^{tree}") == git(clone, "rev-parse", "work^{tree}")


_MAKEFILE = """\
objects := $(patsubst %.c,%.o,$(wildcard *.c))
program: libparts.a
\t$(CC) -o $@ -Wl,--whole-archive $< -Wl,--no-whole-archive
libparts.a: $(objects)
\t$(AR) rcs $@ $^
%.o: %.c parts.h
\t$(CC) -O1 -c -o $@ $<
"""


def test_a_small_project_is_built_in_parallel_and_only_once(here: Path) -> None:
    need("make")
    need("cc")
    parts = range(19)
    (here / "parts.h").write_text("".join(f"int part{number}(void);\n" for number in parts))
    for number in parts:
        text = f'#include "parts.h"\nint part{number}(void) {{ return {number}; }}\n'
        (here / f"part{number}.c").write_text(text)
    total = " + ".join(f"part{number}()" for number in parts)
    (here / "main.c").write_text(
        f'#include <stdio.h>\n#include "parts.h"\nint main(void) {{ printf("%d\\n", {total}); return 0; }}\n'
    )
    (here / "Makefile").write_text(_MAKEFILE)
    run("make", "-j4", "-C", here)
    assert run(here / "program") == f"{sum(parts)}\n"
    assert "up to date" in run("make", "-j4", "-C", here)
    (here / "part3.c").write_text('#include "parts.h"\nint part3(void) { return 1003; }\n')
    again = run("make", "-j4", "-C", here)
    assert "part3.c" in again
    assert "part4.c" not in again
    assert run(here / "program") == f"{sum(parts) + 1000}\n"


# --- databases ------------------------------------------------------------------------------------------

_WRITER = """
import sqlite3, sys, time
path, mode, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = sqlite3.connect(path, timeout=30, isolation_level=None)
assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0] == mode
database.execute("PRAGMA synchronous = FULL")
database.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY, text)")
for number in range(first, first + 100_000):
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO entry VALUES (?, ?)", (number, "text" * 200))
    database.execute("UPDATE entry SET text = text || 'x' WHERE number = ?", (number // 2,))
    database.execute("COMMIT")
    print(number, flush=True)
    time.sleep(0.02)  # whoever waits for the lock asks again every 0.1 s at most: without a pause it may starve
"""

_READER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30)
assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
print(*(number for (number,) in database.execute("SELECT number FROM entry")))
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_sqlite_keeps_what_it_committed_when_its_writers_are_killed(here: Path, there: Path, mode: str) -> None:
    writers: list[subprocess.Popen[str]] = []
    committed: set[int] = set()
    try:
        for first in (1_000_000, 2_000_000):  # one after the other: a database changes its mode for one user only
            argv = [sys.executable, "-c", _WRITER, str(here / "database"), mode, str(first)]
            writers.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
            committed |= {int(_line(writers[-1])) for _ in range(4)}
    finally:
        for writer in writers:
            writer.kill()
        for writer in writers:
            writer.communicate(timeout=PATIENCE_S)
    for where in (here, there):
        found = {int(number) for number in run(sys.executable, "-c", _READER, where / "database").split()}
        assert committed <= found


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{process.args} ended: {process.wait(PATIENCE_S)}"
    return line


def test_fio_reads_back_what_it_wrote_at_random(here: Path) -> None:
    need("fio")
    done = run(
        *("fio", "--name=mixed", f"--directory={here}", "--ioengine=psync", "--rw=randrw", "--bsrange=1k-128k"),
        *("--bs_unaligned", "--size=6m", "--numjobs=2", "--fsync=64", "--verify=crc32c", "--do_verify=1"),
        *("--verify_fatal=1", "--verify_state_save=0", "--randseed=7", "--output-format=json"),
    )
    jobs = json.loads(done[done.index("{") :])["jobs"]
    assert [job["error"] for job in jobs] == [0, 0]
    assert all(job["write"]["io_bytes"] for job in jobs)


# --- looking around -------------------------------------------------------------------------------------


STRESSORS = "access chmod chown dentry filename hdd rename utime xattr"
"""Of stress-ng: each checks what it did. (Its link and symlink make 8,192 links before they look at the clock.)"""


def test_stress_ng_finds_no_operation_that_does_something_else(here: Path) -> None:
    need("stress-ng")
    stressors = [word for name in STRESSORS.split() for word in (f"--{name}", "1")]
    run(
        *("stress-ng", "--temp-path", here, "--verify", "--timeout", "3s", "--hdd-bytes", "8m"),
        *("--dentries", "64", *stressors),
        cwd=here,
    )
    assert list(here.iterdir()) == []  # it removed all that it made


def test_find_sees_what_it_sees_on_a_local_disk(here: Path, tree: Path) -> None:
    run("cp", "-a", tree, here / "copy")
    for tests in (
        ["-printf", r"%y %m %s %n %U %G %T@ %l %P\0"],
        ["-type", "f", "-size", "+100k"],
        ["-type", "f", "-links", "2", "-newermt", "2001-09-10"],
        ["-empty", "-o", "-perm", "/4000"],
        ["-L", "-type", "l"],
    ):
        options, rest = (["-L"], tests[1:]) if tests[0] == "-L" else ([], tests)
        found = ["-mindepth", "1", "-not", "-type", "d"]
        seen, wanted = (
            sorted(run("find", *options, ".", *found, *rest, cwd=top).replace("\0", "\n").splitlines())
            for top in (here / "copy", tree)
        )
        assert seen == wanted


def test_du_agrees_with_dfs_du(here: Path, tree: Path, cluster: Cluster) -> None:
    run("cp", "-a", tree, here / "copy")
    with (here / "copy" / "sparse").open("wb") as file:
        file.truncate(10 * MIB)
        file.seek(3 * MIB)
        file.write(b"x" * 4096)
    (found,) = json.loads(cluster.dfs("du", "-s", "--json", f"/{here.name}/copy").stdout)
    assert int(run("du", "-s", "-B1", here / "copy").split()[0]) == found["allocated"]
    files = run("find", here / "copy", "-type", "f", "-printf", r"%i %s\n").splitlines()
    assert sum(int(line.split()[1]) for line in set(files)) == found["size"] - _of_links(here / "copy")


def _of_links(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_symlink())


def test_dfs_upload_refuses_a_directory_that_the_target_is_in(here: Path, cluster: Cluster) -> None:
    (here / "tree" / "inner").mkdir(parents=True)
    (here / "tree" / "file").write_bytes(b"data")
    for target in (f"/{here.name}", f"/{here.name}/tree", f"/{here.name}/tree/inner/copy"):
        done = cluster.dfs("upload", "-r", here / "tree", target, status=1)
        assert "cannot upload a directory into itself" in done.stderr
    assert sorted(path.name for path in here.rglob("*")) == ["file", "inner", "tree"]
    cluster.dfs("upload", "-r", here / "tree", f"/{here.name}/copy")
    assert (here / "copy" / "file").read_bytes() == b"data"


def test_dfs_upload_leaves_out_its_target_where_it_comes_to_it(here: Path, cluster: Cluster, tmp_path: Path) -> None:
    """The mount is somewhere beneath what is copied: that shows when the walk is there."""
    (tmp_path / "file").write_bytes(b"data")
    with mounted(cluster, tmp_path / "m", subtree=f"/{here.name}"):
        done = cluster.dfs("upload", "-r", tmp_path, f"/{here.name}/copy", status=1)
    assert f"cannot upload a directory into itself: {tmp_path}/m/copy" in done.stderr
    found = sorted(str(path.relative_to(here)) for path in here.rglob("*"))
    assert found == ["copy", "copy/file", "copy/m", "copy/m/copy"], "nothing is in the last"


def test_df_agrees_with_dfs_df(here: Path, cluster: Cluster) -> None:
    with (here / "file").open("wb") as file:
        file.write(bytes(3 * MIB))
        file.flush()
        os.fsync(file.fileno())
    found = json.loads(cluster.dfs("df", "--json").stdout)
    used, free = map(int, run("df", "-B1", "--output=used,avail", here).splitlines()[1].split())
    assert 0 <= used - found["data_bytes"] < 4 * KIB
    assert used >= 3 * MIB
    elsewhere = 256 * MIB  # others write to the same disks meanwhile
    assert abs(free - found["free_bytes"] // found["replicas"]) < elsewhere
