"""What `dfs init` and `dfs join` do to this machine: files that are written all or not at all, addresses, services."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from dfs import config, errors, keys, limits

ETC: Final = Path("/etc/dfs")
"""Where the systemd units look."""
_USER: Final = "dfs"
_LOST_AND_FOUND: Final = "lost+found"
_LOOPBACK: Final = ("127.", "localhost", "[::1]")
_ELSEWHERE: Final = "192.0.2.1"
"""An address that nobody has (RFC 5737): nothing is sent to it."""


class _File(NamedTuple):
    path: Path
    text: str
    mode: int
    is_daemons: bool


class Files:
    """Files and directories for a machine. What belongs to the daemons gets their user, where the units will run them.

    `directory` is where the configuration goes; all paths are absolute.
    """

    def __init__(self, directory: Path) -> None:
        self._files: list[_File] = []
        self._directories: list[tuple[Path, int, bool]] = [(directory, 0o755, False)]
        self._owner = _daemons_owner(directory)
        self._made: list[Path] = []

    def add(self, path: Path, text: str) -> None:
        """One that everybody may read."""
        self._files.append(_File(path, text, 0o644, False))

    def add_key(self, path: Path, content: keys.KeyFile, *, is_daemons: bool) -> None:
        self._files.append(_File(path, keys.render(content), 0o600, is_daemons))

    def add_directory(self, path: Path) -> None:
        """One for a daemon alone; it may be there already."""
        self._directories.append((path, 0o700, True))

    def refuse_existing(self) -> None:
        """Raises `Exists`, naming what is there."""
        there = [str(file.path) for file in self._files if os.path.lexists(file.path)]
        if there:
            raise errors.Exists(
                f"{', '.join(there)}: there already, and never overwritten: nothing was changed; move it away, or say"
                " --dir for another place"
            )

    def make_directories(self) -> None:
        """Have all directories. Raises OSError or InvalidArgument, after which those that were made are gone again."""
        with self._all_or_none():
            for path, mode, is_daemons in self._directories:
                self._make_directory(path, mode, is_daemons)

    def write(self) -> None:
        """Write all files, durably. Raises OSError, after which nothing that was made is there any more."""
        with self._all_or_none():
            for file in self._files:
                self._write(file)
            for parent in {file.path.parent for file in self._files}:
                keys.sync_directory(parent)

    def take_back(self) -> None:
        """Remove all that was made, as far as nobody has put anything into it."""
        for path in reversed(self._made):
            try:
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:
                pass  # somebody uses it meanwhile
        self._made.clear()

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.take_back()
            raise

    def _make_directory(self, path: Path, mode: int, is_daemons: bool) -> None:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700)
            self._made.append(each)
            each.chmod(mode if each == path else 0o755)  # whatever the umask is
            keys.sync_directory(each.parent)
        if is_daemons and self._owner is not None and (missing or _is_empty(path)):
            _give_directory(path, self._owner)

    def _write(self, file: _File) -> None:
        fd = os.open(file.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._made.append(file.path)
        with os.fdopen(fd, "w", encoding="utf-8") as stream:
            stream.write(file.text)
            stream.flush()
            os.fchmod(fd, file.mode)  # whatever the umask is
            if file.is_daemons and self._owner is not None:
                os.fchown(fd, *self._owner)  # not by its name: its directory is the daemons', who may put a link there
            os.fsync(fd)


def _is_empty(directory: Path) -> bool:
    """As a disk is that was formatted a moment ago."""
    return all(each.name == _LOST_AND_FOUND for each in directory.iterdir())


def _give_directory(path: Path, owner: tuple[int, int]) -> None:
    """Raises InvalidArgument for a link, which may lead anywhere by now."""
    if path.is_symlink():
        raise errors.InvalidArgument(f"{path} is a link: name the directory to which it leads")
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(fd, *owner)
    finally:
        os.close(fd)


def _daemons_owner(directory: Path) -> tuple[int, int] | None:
    """User and group of the daemons; None where whoever calls us runs them himself."""
    if directory != ETC or os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_USER)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


# --- names and addresses --------------------------------------------------------------------------------


def node_name() -> str:
    """This machine's name, as a DataNode may have it."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:64].strip("-") or "node"


def host_of(address: str) -> str:
    """Without the port."""
    return address.rpartition(":")[0]


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def is_loopback(address: str) -> bool:
    return address.startswith(_LOOPBACK)


def address_towards(address: str) -> str:
    """This machine's own host address on the way to `address`. Nothing is sent. Raises `Unreachable`."""
    try:
        found = socket.getaddrinfo(host_of(address).strip("[]"), port_of(address), type=socket.SOCK_DGRAM)
        family, kind, protocol, _, target = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            host = str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:  # the latter of what is no host's name
        why = getattr(error, "strerror", None) or error
        raise errors.Unreachable(f"{address}: there is no way there: {why}") from None
    return f"[{host}]" if ":" in host else host


def own_host(listen: str) -> str:
    """The host by which other machines reach what listens at `listen` here."""
    if not config.is_anywhere(listen):
        return host_of(listen)
    try:
        return address_towards(f"{_ELSEWHERE}:{limits.NAMENODE_PORT}")
    except errors.Unreachable:
        return socket.gethostname()  # no way out of this network: its name may be known within


def datanode_addresses(host: str, port: int) -> tuple[str, str]:
    """`listen` and `advertise` of a DataNode that others reach at `host`."""
    if is_loopback(host):
        return f"{host}:{port}", ""
    return f"{'[::]' if host.startswith('[') else '0.0.0.0'}:{port}", f"{host}:{port}"


# --- services -------------------------------------------------------------------------------------------


def has_units(directory: Path) -> bool:
    """Whether systemd runs here, and has our units for a configuration in `directory`."""
    if directory != ETC or not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return False
    return _systemctl(["cat", "dfs-datanode.service"]).returncode == 0


def start(units: Sequence[str]) -> str | None:
    """Have systemd start units now and at each boot: what is wrong with that, or None."""
    try:
        done = _systemctl(["enable", "--now", "dfs.target", *units])
    except subprocess.TimeoutExpired:
        return f"it has not registered yet: `systemctl status {' '.join(units)}` says why"
    return None if done.returncode == 0 else done.stderr.strip() or f"systemctl ended with {done.returncode}"


def _systemctl(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemctl", *arguments],
        capture_output=True,
        text=True,
        timeout=limits.SERVICE_START_TIMEOUT_S,
        check=False,
    )
