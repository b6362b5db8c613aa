"""A Debian or Ubuntu of its own, with systemd as its first process, where a package of this checkout is installed.

Its root is made with debootstrap, once for a checkout: build/ keeps it. It has a network of its own with nothing in it
but loopback, and the machine's /dev/fuse.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_BUILD = CHECKOUT / "build"
PROGRAMS = ("debootstrap", "systemd-nspawn", "dpkg-deb", "nsenter")
PACKAGES = "systemd,systemd-sysv,procps,python3,fuse3"
PATIENCE_S = 240.0
_ENDED_FOR_REBOOT = 133


def missing() -> str | None:
    """Why there can be no container here, or None."""
    if os.geteuid():
        return "only root may start a container"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened"
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(lacking)} not installed" if lacking else None


class Container:
    """A booted root. `run` runs a shell script in it, as root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._init = 0

    def configure(self, script: str) -> None:
        """Run a shell script in the root, before the first boot."""
        command = ["chroot", str(self.root), "sh", "-euc", script]
        subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=True)

    def boot(self) -> None:
        """Returns when systemd has started everything, or has given up."""
        command = ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", "--register=no", "--keep-unit"]
        command += ["--bind=/dev/fuse", "--private-network", "--console=pipe"]
        command += [f"--machine=dfs-tests-{os.getpid()}"]  # else named after the directory, as that of another worker
        with (self.root.parent / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self._init = self._find_init()
        self.until("[ -S /run/systemd/private ]")
        self.run("systemctl is-system-running --wait || true")

    def reboot(self) -> None:
        assert self._nspawn is not None
        self.run("systemctl --no-block reboot")
        assert self._nspawn.wait(PATIENCE_S) == _ENDED_FOR_REBOOT
        self.boot()

    def end(self) -> None:
        """Kill all of it."""
        if self._nspawn is None or self._nspawn.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init, signal.SIGKILL)  # its kernel kills the rest
        self._nspawn.wait(PATIENCE_S)

    def run(self, script: str) -> str:
        """What it printed. Raises AssertionError with all of it when it fails."""
        command = ["nsenter", f"--target={self._init}", "--all", "--root", "--wd", "sh", "-euc", script]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{script}\n[{done.returncode}]\n{done.stdout}{done.stderr}"
        return done.stdout

    def until(self, script: str, *, within_s: float = PATIENCE_S) -> None:
        """Wait until the script succeeds."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                self.run(script)
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def main_pid(self, unit: str) -> int:
        return int(self.run(f"systemctl show --value --property=MainPID {unit}"))

    def _find_init(self) -> int:
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            assert self._nspawn.poll() is None, "systemd-nspawn ended"
            found = children.read_text().split()
            if found and Path(f"/proc/{found[0]}/comm").read_text().strip() == "systemd":
                return int(found[0])
            time.sleep(0.1)
        raise AssertionError("nothing booted")


@contextlib.contextmanager
def fresh(directory: Path) -> Iterator[Container]:
    """A container that is not booted yet, of a root in `directory`, with the package installed."""
    root = directory / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "-xf", _base()], check=True)
    shutil.copy(_package(), root / "root/dfs.deb")
    container = Container(root)
    container.configure("echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe")  # its disk is for this test only
    container.configure("apt-get install --yes --no-install-recommends /root/dfs.deb")
    try:
        yield container
    finally:
        container.end()


def _package() -> Path:
    """The package of this checkout. It is made once for a run of the tests."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    made = _BUILD / "package.made"
    with _alone("package"):
        if not made.exists() or made.read_text().split("\n")[0] != run:
            environment = os.environ | {"BUILDER": sys.executable}
            command = [CHECKOUT / "packaging/deb", _BUILD]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=300, check=True)
            made.write_text(f"{run}\n{done.stdout}")
        return Path(made.read_text().split("\n")[1])


def _base() -> Path:
    """A tar of the bare distribution. It is made once."""
    codename = platform.freedesktop_os_release()["VERSION_CODENAME"]
    base = _BUILD / f"systemd-{codename}.tar"
    with _alone("systemd"):
        if not base.exists():
            _make_base(base, codename)
    return base


@contextlib.contextmanager
def _alone(what: str) -> Iterator[None]:
    """Whoever else makes this in the checkout waits."""
    _BUILD.mkdir(exist_ok=True)
    with (_BUILD / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_base(base: Path, codename: str) -> None:
    bare, new = base.with_suffix(".root"), base.with_suffix(".new")
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE)", f"CODENAME: {codename}"],
        capture_output=True,
        text=True,
        check=True,
    )
    mirror = targets.stdout.split()[:1]
    shutil.rmtree(bare, ignore_errors=True)  # of a run that was killed
    try:
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", codename, str(bare), *mirror]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        subprocess.run(["tar", "-C", bare, "-cf", new, "."], check=True)
        new.rename(base)
    finally:
        shutil.rmtree(bare, ignore_errors=True)
        new.unlink(missing_ok=True)
