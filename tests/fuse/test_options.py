"""Mounting and unmounting, as people, mount(8) and service managers do it: with options, and by mistake."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs import limits
from dfs.mountpoint import find, is_mounted, unmount
from tests.fuse.conftest import PATIENCE_S, Cluster, Mount, mounted
from tests.integration.real import wait_until

pytestmark = pytest.mark.fuse

NOBODY = 65534
HELPER = "from dfs.cli.mount_helper import main; main()"


def run_helper(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`mount.dfs ARGUMENTS`."""
    argv = [sys.executable, "-c", HELPER, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, env=cluster.environment)


def complaint(cluster: Cluster, *arguments: str | Path) -> str:
    """The sentence with which a command that must fail does."""
    said = cluster.dfs(*arguments, status=1).stderr.strip()
    assert said.startswith("dfs: ")
    assert len(said.splitlines()) == 1
    return said


def ending_of(cluster: Cluster, mountpoint: Path) -> dict[str, Any]:
    """What a mount that was taken away has written of its end (`dfs.ending`)."""
    files = (cluster.base / "state" / "dfs" / "mounts").glob(f"*-{mountpoint.name}.end")
    return next((json.loads(file.read_text()) for file in files), {})


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    """An empty directory."""
    made = tmp_path / "mnt"
    made.mkdir()
    return made


# --- options --------------------------------------------------------------------------------------------


def test_the_kernel_reads_as_far_ahead_as_the_mount_likes(here: Path) -> None:
    device = here.stat().st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    assert int(setting.read_text(encoding="ascii")) * limits.KIB == limits.KERNEL_READ_AHEAD_BYTES


def test_read_only_mount_shows_what_others_write(mount: Mount, here: Path) -> None:
    shown = mount(f"/{here.name}", "ro")
    (here / "file").write_bytes(b"new")
    assert (shown / "file").read_bytes() == b"new"
    for change in (
        lambda: (shown / "other").write_bytes(b""),
        lambda: (shown / "file").unlink(),
        lambda: (shown / "file").chmod(0o600),
        lambda: (shown / "directory").mkdir(),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_owner_options_show_and_make_files_of_one_user(mount: Mount, here: Path) -> None:
    (here / "roots").touch()
    shown = mount(f"/{here.name}", "uid=1234,gid=5678")
    (shown / "made").touch()
    for name in ("roots", "made"):
        status = (shown / name).stat()
        assert (status.st_uid, status.st_gid) == (1234, 5678)
    assert ((here / "roots").stat().st_uid, (here / "made").stat().st_uid) == (0, 1234)


def test_root_is_nobody_with_root_squash(mount: Mount, here: Path) -> None:
    here.chmod(0o777)
    shown = mount(f"/{here.name}", "root_squash")
    (shown / "file").write_bytes(b"x")
    (shown / "directory").mkdir()
    os.symlink("file", shown / "symlink")
    for name in ("file", "directory", "symlink"):
        status = (here / name).lstat()
        assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
    with pytest.raises(PermissionError):
        os.chown(shown / "file", 0, 0)


def test_subtree_is_all_there_is(mount: Mount, here: Path) -> None:
    (here / "inner" / "deeper").mkdir(parents=True)
    shown = mount(f"/{here.name}/inner")
    assert os.listdir(shown) == ["deeper"]
    (shown / "deeper" / "file").write_bytes(b"x")
    assert (here / "inner" / "deeper" / "file").read_bytes() == b"x"
    assert shown.stat().st_ino == 1
    assert os.listdir(shown / "deeper" / "..") == ["deeper"]


def test_options_for_others_are_passed_over(mount: Mount) -> None:
    assert is_mounted(mount("/", "rw,_netdev,nofail,x-systemd.automount,noatime,nosuid"))


@pytest.mark.parametrize("options", ["allow_other,noatime", "allow_other,ro"])
def test_reading_leaves_access_times_alone(mount: Mount, here: Path, options: str) -> None:
    (here / "file").write_bytes(b"x")
    shown = mount(f"/{here.name}", options)
    before = here.stat(), (here / "file").stat()
    assert (shown / "file").read_bytes() == b"x"
    assert os.listdir(shown) == ["file"]
    assert (shown.stat().st_atime_ns, (shown / "file").stat().st_atime_ns) == tuple(s.st_atime_ns for s in before)


def test_mount_tells_of_what_it_read_before_it_ends(cluster: Cluster, here: Path) -> None:
    (here / "file").write_bytes(b"x")
    with mounted(cluster, cluster.base / "reader", f"/{here.name}", "nodiratime") as shown:
        before = shown.stat()
        assert (shown / "file").read_bytes() == b"x"
        assert os.listdir(shown) == ["file"]
        read = (shown / "file").stat()
        assert shown.stat().st_atime_ns == before.st_atime_ns
        cluster.dfs("umount", shown)
    found = (here / "file").stat()
    assert found.st_atime_ns == read.st_atime_ns > found.st_mtime_ns


@pytest.mark.parametrize("role", ["client", "reader"])
def test_mount_with_a_key_for_a_subtree(cluster: Cluster, here: Path, role: str) -> None:
    """What it holds is all that there is, and is seen as it is; small files share chunks with those of others."""
    (here / "mine").mkdir()
    for number in range(30):
        (here / (f"beside {number}" if number % 2 else f"mine/{number}")).write_bytes(b"%d" % number * 1000)
    key = cluster.base / f"{role}.key"
    masters = cluster.directory / "cluster.keys"
    limited = ("--role", role, "--subtree", f"/{here.name}/mine")
    cluster.dfs("key", "add", f"guest-{role}", *limited, "--keys", masters, "--out", key)
    with mounted(cluster, cluster.base / f"for the {role}", options=f"allow_other,key={key}") as shown:
        assert sorted(os.listdir(shown)) == sorted(str(number) for number in range(0, 30, 2))
        for number in range(0, 30, 2):
            assert (shown / str(number)).read_bytes() == b"%d" % number * 1000
        (here / "mine" / "0").write_bytes(b"other")
        assert (shown / "0").read_bytes() == b"other"
        (here / "mine" / "2").unlink()
        assert not (shown / "2").exists()
        if role == "reader":
            with pytest.raises(OSError, match=r"Operation not permitted|Permission denied|Read-only"):
                (shown / "new").mkdir()
            return
        with (shown / "new").open("wb") as file:
            file.write(b"new")
            os.fsync(file.fileno())
        assert (here / "mine" / "new").read_bytes() == b"new"
        shutil.copytree(shown, shown / "copy", ignore=shutil.ignore_patterns("copy"))
        assert (here / "mine" / "copy" / "4").read_bytes() == b"4" * 1000
        (shown / "4").rename(shown / "five")
        assert (here / "mine" / "five").exists() and not (here / "mine" / "4").exists()


@pytest.mark.parametrize("role", ["client", "reader"])
def test_what_is_moved_out_of_the_subtree_of_a_key_is_gone_from_its_mount(
    cluster: Cluster, here: Path, role: str
) -> None:
    (here / "mine" / "d" / "e").mkdir(parents=True)
    (here / "mine" / "d" / "e" / "file").write_bytes(b"x" * 5000)
    key = cluster.base / f"mover-{role}.key"
    limited = ("--role", role, "--subtree", f"/{here.name}/mine")
    cluster.dfs("key", "add", f"mover-{role}", *limited, "--keys", cluster.directory / "cluster.keys", "--out", key)
    with mounted(cluster, cluster.base / f"mover {role}", options=f"allow_other,key={key}") as shown:
        file = shown / "d" / "e" / "file"
        for _ in range(3):
            assert os.listdir(shown / "d" / "e") == ["file"]
            assert file.read_bytes() == b"x" * 5000
            assert not (shown / "d" / "e" / "nothing").exists()
            with file.open("rb") as opened:
                assert opened.read(10) == b"x" * 10
                (here / "mine" / "d").rename(here / "out")
                assert not file.exists()
                assert os.listdir(shown) == []
                with pytest.raises(OSError, match="Stale file handle"):
                    os.pread(opened.fileno(), 10, 0)
            (here / "out").rename(here / "mine" / "d")
            assert file.stat().st_size == 5000
        assert json.loads(os.getxattr(shown, "dfs.statistics"))["cache"]["inodes"], "it remembers again"
        if role == "client":
            with file.open("r+b", buffering=0) as opened:
                opened.write(b"mine")
                assert (here / "mine" / "d" / "e" / "file").read_bytes()[:5] == b"minex"
            (here / "mine" / "d" / "e" / "file").write_bytes(b"theirs")
            assert file.read_bytes() == b"theirs"


def test_unknown_option_is_refused(cluster: Cluster, mountpoint: Path) -> None:
    for option, why in (("sideways", "not an option of a mount: 'sideways'"), ("uid=many", "the option uid takes a")):
        said = cluster.dfs("mount", mountpoint, "-o", option, status=2).stderr
        assert f"Error: Invalid value for -o: {why}" in said
    assert not is_mounted(mountpoint)


# --- mistakes -------------------------------------------------------------------------------------------


def test_missing_subtree(cluster: Cluster, mountpoint: Path) -> None:
    assert "/never/made" in complaint(cluster, "mount", mountpoint, "--subtree", "/never/made")
    assert not is_mounted(mountpoint)


def test_subtree_that_is_a_file(cluster: Cluster, mountpoint: Path, here: Path) -> None:
    (here / "file").touch()
    assert "not a directory" in complaint(cluster, "mount", mountpoint, "--subtree", f"/{here.name}/file")


def test_missing_mount_point(cluster: Cluster, tmp_path: Path) -> None:
    assert str(tmp_path / "missing") in complaint(cluster, "mount", tmp_path / "missing")


def test_mount_point_that_is_a_file(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a directory" in complaint(cluster, "mount", tmp_path / "file")


def test_mount_twice(cluster: Cluster, mount: Mount, name: str) -> None:
    mounted = mount()
    assert "already" in complaint(cluster, "mount", mounted)
    (mounted / name).touch()  # the first one is as it was


def test_umount_of_nothing(cluster: Cluster, mountpoint: Path) -> None:
    assert "nothing is mounted" in complaint(cluster, "umount", mountpoint)


def test_umount_of_a_busy_mount(cluster: Cluster, mount: Mount, here: Path) -> None:
    shown = mount(f"/{here.name}")
    with open(shown / "file", "wb") as file:
        said = complaint(cluster, "umount", shown)
        assert "files on it are open" in said
        assert "--lazy" in said
        file.write(b"still there")
    cluster.dfs("umount", shown)
    assert (here / "file").read_bytes() == b"still there"
    assert not is_mounted(shown)


@contextlib.contextmanager
def another_namespace() -> Iterator[None]:
    """A copy of all mounts, as containers have when they are made; what is unmounted here is not there."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def test_umount_of_what_another_namespace_has_too(cluster: Cluster, mount: Mount, here: Path) -> None:
    shown = mount(f"/{here.name}")
    pid = cluster.mount_pids()[shown]
    with another_namespace():
        (shown / "file").write_bytes(b"written")
        said = cluster.dfs("umount", shown).stderr
        assert "is committed" in said
        assert f"process {pid}" in said
        assert not is_mounted(shown)
        assert (here / "file").read_bytes() == b"written"
        cluster.dfs("mount", shown, "--subtree", f"/{here.name}")
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: f"mountpoint={shown} signal=SIGTERM" in cluster.mount_log())
        assert (shown / "file").read_bytes() == b"written"


def test_a_symbolic_link_leads_to_a_mount_point(cluster: Cluster, mountpoint: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(mountpoint.name)
    cluster.dfs("mount", link)
    assert is_mounted(link)
    assert is_mounted(mountpoint)
    assert "mounted on" in complaint(cluster, "mount", mountpoint)
    cluster.dfs("umount", link)
    assert not is_mounted(mountpoint)


def test_who_has_a_file_open_when_a_mount_is_taken_away_loses_nothing(
    cluster: Cluster, mount: Mount, here: Path
) -> None:
    """Also when he closes it while all is being committed, which a DataNode keeps waiting."""
    shown = mount(f"/{here.name}")
    nodes = [daemon["pid"] for name, daemon in cluster.status()["daemons"].items() if name != "namenode"]
    data = os.urandom(3_000_000)
    with open(shown / "file", "wb", buffering=0) as file:
        file.write(data)
        for pid in nodes:
            os.kill(pid, signal.SIGSTOP)
        try:
            unmount(shown)
            wait_until(lambda: ending_of(cluster, shown).get("files") == 1)
            file.close()
            wait_until(lambda: f"event=unmounted mountpoint={shown}" in cluster.mount_log())
        finally:
            for pid in nodes:
                os.kill(pid, signal.SIGCONT)
    wait_until(lambda: ending_of(cluster, shown).get("outcome") is not None)
    assert ending_of(cluster, shown)["outcome"] == ""
    assert (here / "file").read_bytes() == data


def test_a_signal_takes_away_nothing_that_is_not_ours(cluster: Cluster, mount: Mount) -> None:
    shown = mount()
    pid = cluster.mount_pids()[shown]
    subprocess.run(["mount", "-t", "tmpfs", "others", shown], check=True)
    try:
        (shown / "theirs").touch()
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: "something else is mounted on it" in cluster.mount_log())
        assert os.listdir(shown) == ["theirs"]
    finally:
        subprocess.run(["umount", shown], check=True)
    assert is_mounted(shown)


def test_a_mount_lives_on_whatever_others_mount(mount: Mount, here: Path) -> None:
    shown = mount(f"/{here.name}")
    odd = here.parent.parent / "a\rb \n - c"
    odd.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "others", odd], check=True)
    try:
        assert is_mounted(odd)
        (shown / "file").write_bytes(b"x")
    finally:
        subprocess.run(["umount", odd], check=True)
    assert (here / "file").read_bytes() == b"x"


# --- beginnings and ends --------------------------------------------------------------------------------


def test_lazy_umount_commits_and_leaves_open_files_usable(cluster: Cluster, mount: Mount, here: Path) -> None:
    shown = mount(f"/{here.name}")
    data = os.urandom(3_000_000)
    with open(shown / "file", "wb", buffering=0) as file:
        file.write(data)
        cluster.dfs("umount", "-l", shown)
        assert not is_mounted(shown)
        assert (here / "file").read_bytes() == data
        file.write(b"and more")
    assert (here / "file").read_bytes() == data + b"and more"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_unmounts_what_runs_in_the_foreground(
    cluster: Cluster, here: Path, mountpoint: Path, number: signal.Signals
) -> None:
    argv = [sys.executable, "-m", "dfs.cli", "mount", "--foreground", "--subtree", f"/{here.name}", str(mountpoint)]
    with subprocess.Popen(argv, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("mounted" in line for line in process.stderr)
            (mountpoint / "file").write_bytes(b"before")
            process.send_signal(number)
            process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
        finally:
            process.kill()
    assert not is_mounted(mountpoint)
    assert (here / "file").read_bytes() == b"before"


def test_umount_waits_for_what_runs_in_the_foreground(cluster: Cluster, here: Path, mountpoint: Path) -> None:
    argv = [sys.executable, "-m", "dfs.cli", "mount", "--foreground", "--subtree", f"/{here.name}", str(mountpoint)]
    with subprocess.Popen(argv, env=cluster.environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert any("mounted" in line for line in process.stderr)
            (mountpoint / "file").write_bytes(b"content" * 100_000)
            cluster.dfs("umount", mountpoint)
            assert process.poll() == 0
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert (here / "file").read_bytes() == b"content" * 100_000


def test_who_unmounts_what_another_has_mounted_is_told_that_nobody_has_waited(
    cluster: Cluster, mount: Mount, tmp_path: Path
) -> None:
    shown = mount()
    other = Cluster(cluster.base, {**cluster.environment, "XDG_STATE_HOME": str(tmp_path)})
    assert "not all of it may be committed yet" in complaint(other, "umount", shown)
    assert not is_mounted(shown)


def test_who_unmounts_what_was_killed_is_told_so(cluster: Cluster, mount: Mount) -> None:
    shown = mount()
    process = os.pidfd_open(cluster.mount_pids()[shown])
    try:
        os.kill(cluster.mount_pids()[shown], signal.SIGKILL)
        assert select.select([process], [], [], PATIENCE_S)[0]
    finally:
        os.close(process)
    assert "its process had ended before that" in cluster.dfs("umount", shown).stderr
    assert not is_mounted(shown)


def test_who_unmounts_what_was_aborted_hears_of_nothing_that_was_lost_where_all_is_committed(
    cluster: Cluster, mount: Mount, here: Path
) -> None:
    shown = mount(f"/{here.name}")
    ours = find(shown)
    assert ours is not None
    process = os.pidfd_open(cluster.mount_pids()[shown])
    try:
        (shown / "file").write_bytes(b"content")
        Path(f"/sys/fs/fuse/connections/{ours.connection}/abort").write_text("1")
        assert select.select([process], [], [], PATIENCE_S)[0]
    finally:
        os.close(process)
    assert cluster.dfs("umount", shown).stderr == ""
    assert not is_mounted(shown)
    assert (here / "file").read_bytes() == b"content"


def test_up_mounts_again_what_it_had_mounted_and_died(cluster: Cluster, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    up = ("up", "--dir", cluster.directory)
    cluster.dfs(*up, "--mount", shown)
    process = os.pidfd_open(cluster.mount_pids()[shown])
    try:
        os.kill(cluster.mount_pids()[shown], signal.SIGKILL)
        assert select.select([process], [], [], PATIENCE_S)[0]
    finally:
        os.close(process)
    assert f"Its mount on {shown} had ended, and is there again.\n" in cluster.dfs(*up).stdout
    assert os.statvfs(shown).f_blocks
    cluster.dfs("umount", shown)
    cluster.dfs(*up)
    assert not is_mounted(shown)


@pytest.mark.parametrize("command", ["mount", "umount"])
def test_no_name_is_no_mount_point(cluster: Cluster, command: str) -> None:
    """As of a variable in a script that nobody has set."""
    assert "cannot be empty" in cluster.dfs(command, "", status=2).stderr


def test_sigterm_unmounts_what_runs_in_the_background(cluster: Cluster, mount: Mount, here: Path) -> None:
    shown = mount(f"/{here.name}")
    (shown / "file").write_bytes(b"before")
    pid = cluster.mount_pids()[shown]
    process = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGTERM)
        assert select.select([process], [], [], PATIENCE_S)[0]
    finally:
        os.close(process)
    assert not is_mounted(shown)
    assert (here / "file").read_bytes() == b"before"


def test_a_log_that_is_full_is_put_aside_and_the_last_one_is_kept(cluster: Cluster, mountpoint: Path) -> None:
    logs = cluster.base / "state" / "dfs" / "mounts"
    name = str(mountpoint).strip("/").replace("-", "%2D").replace("/", "-")
    log, aside = logs / f"{name}.log", logs / f"{name}.log.1"
    logs.mkdir(parents=True, exist_ok=True)
    log.write_bytes(bytes(limits.LOG_FILE_MAX_BYTES + 1))
    cluster.dfs("mount", mountpoint)
    cluster.dfs("umount", mountpoint)
    assert b"mounted" in log.read_bytes() and log.stat().st_size < limits.LOG_FILE_MAX_BYTES
    assert aside.stat().st_size == limits.LOG_FILE_MAX_BYTES + 1


# --- mount(8) -------------------------------------------------------------------------------------------


def test_helper_mounts_by_configuration(cluster: Cluster, mountpoint: Path, name: str) -> None:
    done = run_helper(cluster, cluster.environment["DFS_CONFIG"], str(mountpoint), "-o", "rw,noatime")
    assert (done.returncode, done.stderr) == (0, "")
    try:
        (mountpoint / name).touch()
    finally:
        cluster.dfs("umount", mountpoint)
    assert not is_mounted(mountpoint)


def test_helper_mounts_a_directory_of_a_host(cluster: Cluster, mountpoint: Path, here: Path) -> None:
    address = cluster.namenode()
    assert run_helper(cluster, f"{address}:/{here.name}", str(mountpoint)).returncode == 0
    try:
        (mountpoint / "file").write_bytes(b"x")
    finally:
        cluster.dfs("umount", mountpoint)
    assert (here / "file").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["plain", "ä b", "a,b\\c%d"])
def test_what_is_mounted_is_listed_as_it_was_said(cluster: Cluster, mountpoint: Path, here: Path, name: str) -> None:
    """By that `mount -a` sees that a line of fstab needs nothing more."""
    (here / name).mkdir()
    source = f"{cluster.namenode()}:/{here.name}/{name}"
    assert run_helper(cluster, source, str(mountpoint)).returncode == 0
    try:
        (mountpoint / "file").touch()
        listed = find(mountpoint)
    finally:
        cluster.dfs("umount", mountpoint)
    assert listed is not None
    assert urllib.parse.unquote(listed.source) == source
    assert (name != "plain") or listed.source == source
    assert (here / name / "file").exists()


def flags_of(mountpoint: Path) -> set[str]:
    listed = next(
        line.split() for line in Path("/proc/self/mounts").read_text().splitlines() if str(mountpoint) in line
    )
    return set(listed[3].split(","))


def test_helper_changes_what_the_kernel_can_change_of_a_mount(cluster: Cluster, mount: Mount, here: Path) -> None:
    shown = mount(f"/{here.name}", "allow_other,cache=2048")
    assert {"rw", "nosuid", "nodev"} <= flags_of(shown)
    listed = ",".join(flags_of(shown) - {"rw"})
    assert run_helper(cluster, "as/listed", str(shown), "-o", f"remount,ro,{listed}").stderr == ""
    with pytest.raises(OSError, match="Read-only"):
        (shown / "file").touch()
    listed = ",".join(flags_of(shown) - {"ro"})
    assert run_helper(cluster, "as/listed", str(shown), "-o", f"rw,remount,{listed},allow_dev,cache=2048").stderr == ""
    assert {"rw", "nosuid"} <= flags_of(shown)
    assert "nodev" not in flags_of(shown)
    (shown / "file").touch()


@pytest.mark.parametrize("option", ["cache=4096", "noatime", "root_squash", "uid=7"])
def test_helper_does_not_say_that_it_changed_what_it_cannot(cluster: Cluster, mount: Mount, option: str) -> None:
    shown = mount(options="cache=2048")
    done = run_helper(cluster, "as/listed", str(shown), "-o", f"remount,ro,{option}")
    assert done.returncode == 32
    assert f"not to be changed while it is mounted: {option.partition('=')[0]};" in done.stderr
    assert "rw" in flags_of(shown)


def test_helper_changes_nothing_where_no_cluster_is_mounted(cluster: Cluster, mountpoint: Path) -> None:
    done = run_helper(cluster, "none", str(mountpoint), "-o", "remount,ro")
    assert (done.returncode, done.stderr) == (32, f"dfs: no cluster is mounted on {mountpoint}\n")


def test_programs_and_devices_have_their_powers_where_that_is_asked_for(mount: Mount, here: Path) -> None:
    null = here / "null"
    os.mknod(null, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        null.write_bytes(b"x")
    shown = mount(f"/{here.name}", "allow_dev,allow_suid")
    assert not {"nosuid", "nodev"} & flags_of(shown)
    (shown / "null").write_bytes(b"x")
    assert (shown / "null").read_bytes() == b""


def test_helper_says_why_not(cluster: Cluster, mountpoint: Path) -> None:
    done = run_helper(cluster, "no-separator", str(mountpoint))
    assert done.returncode == 32  # what mount(8) calls a mount failure
    assert "HOST:/PATH" in done.stderr
    assert run_helper(cluster, "dfs", str(mountpoint), "-o", "sideways").returncode == 32
    assert not is_mounted(mountpoint)
