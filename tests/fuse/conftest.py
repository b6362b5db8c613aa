"""Real mounts of a real cluster: three DataNodes with three copies, started once for all tests of this folder.

`here` and `there` are one directory through two mounts, new for each test. `mount` makes further mounts, with options.
Where there is no FUSE the folder is skipped, unless DFS_REQUIRE_FUSE=1 says that it must be there.

What a mount logs as unexpected fails the last test of its cluster, and a test that fails shows the end of the log.

No test can hang: every command has a timeout, and a mount that does not answer for PATIENCE_S in one test is killed,
which ends all calls that wait for it with an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.config import load_client
from dfs.mountpoint import is_mounted, unmount
from tests.forked import as_text, run_dfs

PATIENCE_S = 240
"""For one test, and for one command."""

Mount = Callable[..., Path]


def _missing() -> str | None:
    """Why nothing can be mounted here, or None."""
    if importlib.util.find_spec("pyfuse3") is None:
        return "pyfuse3 is not installed"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    if shutil.which("fusermount3") is None:
        return "fusermount3 is not installed"
    return "only root may mount for other users too" if os.geteuid() else None


@pytest.fixture(scope="session", autouse=True)
def _fuse() -> None:
    reason = _missing()
    if reason and os.environ.get("DFS_REQUIRE_FUSE") == "1":
        pytest.fail(f"DFS_REQUIRE_FUSE=1, but {reason}")
    if reason:
        pytest.skip(reason)


# --- a cluster ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster that `dfs up` started, with a home of its own for all that its user leaves behind."""

    base: Path
    environment: dict[str, str]

    @property
    def directory(self) -> Path:
        return self.base / "c"

    def dfs(self, *arguments: str | Path | int, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `dfs ARGUMENTS` as the cluster's user; its status must be `status`, unless that is None."""
        done = as_text(run_dfs(*arguments, environment=self.environment, timeout_s=PATIENCE_S))
        assert status is None or done.returncode == status, f"{arguments}: {done.returncode}\n{done.stderr}"
        return done

    def status(self) -> dict[str, Any]:
        """What the cluster's supervisor wrote down of its daemons."""
        found: dict[str, Any] = json.loads((self.directory / "cluster.json").read_text())
        return found

    def namenode(self) -> str:
        """HOST:PORT of its NameNode."""
        return load_client(Path(self.environment["DFS_CONFIG"])).namenode

    def mount_pids(self) -> dict[Path, int]:
        """The processes of its mounts, by mount point."""
        found = {}
        for file in (self.base / "state" / "dfs" / "mounts").glob("*.pid"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text())
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"mount" in argv:
                    found[Path(os.fsdecode(argv[argv.index(b"-o") + 2]))] = pid
        return found

    def mount_log(self) -> str:
        """What all its mounts have logged."""
        logs = (self.base / "state" / "dfs" / "mounts").glob("*.log")
        return "".join(log.read_text(errors="replace") for log in logs)

    def check_mount_log(self) -> None:
        """Nothing unexpected has happened to any of its mounts."""
        text = self.mount_log()
        found = re.search(r"^.*(Traceback|unexpectedly|the mount failed)", text, re.MULTILINE)
        assert found is None, text[max(0, found.start() - 1000) : found.start() + 5000]

    def kill_mounts(self) -> None:
        """Whoever waits for one of them gets an error now."""
        for pid in self.mount_pids().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def local_cluster(*, datanodes: int = 3, replicas: int = 3) -> Iterator[Cluster]:
    """A new cluster. On leaving, its mounts and daemons are gone, and its files too."""
    base = Path(tempfile.mkdtemp(prefix="dfs-"))  # short: it holds sockets
    base.chmod(0o755)  # tests look at it as another user
    environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment |= {"HOME": str(base), "XDG_STATE_HOME": str(base / "state")}
    environment |= {"DFS_CONFIG": str(base / "c" / "client.toml")}
    cluster = Cluster(base, environment)
    try:
        cluster.dfs("up", "--dir", cluster.directory, "--datanodes", datanodes, "--replicas", replicas)
        yield cluster
        cluster.check_mount_log()
    finally:
        for mountpoint in cluster.mount_pids():
            cluster.dfs("umount", "-l", mountpoint, status=None)
        cluster.kill_mounts()
        cluster.dfs("down", "--dir", cluster.directory, status=None)
        shutil.rmtree(base)


@contextlib.contextmanager
def mounted(cluster: Cluster, mountpoint: Path, subtree: str = "/", options: str = "allow_other") -> Iterator[Path]:
    """`dfs mount` on a new directory, for as long as the block lasts."""
    mountpoint.mkdir()
    cluster.dfs("mount", mountpoint, "--subtree", subtree, "-o", options)
    try:
        yield mountpoint
    finally:
        if is_mounted(mountpoint):
            cluster.dfs("umount", "-l", mountpoint, status=None)
        if is_mounted(mountpoint):
            unmount(mountpoint)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that failed shows what its mounts have logged."""
    report = yield
    running = item.funcargs.get("cluster") if isinstance(item, pytest.Function) else None
    if report.failed and isinstance(running, Cluster):
        report.sections.append(("logs of the mounts", running.mount_log()[-5000:]))
    return report


# --- fixtures -------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster of three DataNodes, with three copies of everything."""
    with local_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def _both(cluster: Cluster) -> Iterator[tuple[Path, Path]]:
    with mounted(cluster, cluster.base / "m1") as first, mounted(cluster, cluster.base / "m2") as second:
        yield first, second


@pytest.fixture(autouse=True)
def _no_hanging(cluster: Cluster) -> Iterator[None]:
    timer = threading.Timer(PATIENCE_S, cluster.kill_mounts)
    timer.start()
    yield
    timer.cancel()
    timer.join()


_numbers = itertools.count(1)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name in the cluster's root of the directory that this test has for itself."""
    plain = re.sub(r"[^a-z0-9_]", "_", request.node.name.removeprefix("test_"))
    return f"{next(_numbers)}-{plain[:60]}"


@pytest.fixture
def here(_both: tuple[Path, Path], name: str) -> Path:
    """A new directory, on a mount that lasts for the session."""
    directory = _both[0] / name
    directory.mkdir()
    return directory


@pytest.fixture
def there(_both: tuple[Path, Path], here: Path) -> Path:
    """The same directory as `here`, through another mount."""
    return _both[1] / here.name


@pytest.fixture
def mount(cluster: Cluster) -> Iterator[Mount]:
    """Mounts the directory `subtree` of the cluster on a new directory, which it returns."""
    with contextlib.ExitStack() as stack:

        def run(subtree: str = "/", options: str = "allow_other") -> Path:
            mountpoint = cluster.base / f"x{next(_numbers)}"
            return stack.enter_context(mounted(cluster, mountpoint, subtree, options))

        yield run
