"""Where a local cluster keeps what it has: one directory, which may be moved while nothing runs.

    up.lock             held by a `dfs up`, `dfs down` or `dfs restart` at work; the mark that the directory is ours
    client.toml, namenode.toml, n1.toml, ...    configurations: written once, then people's to edit
    cluster.keys, client.key, n1.key, ...       keys: see dfs/keys.py
    n1.toml.removed     the configuration of a DataNode that the cluster has removed: it is not run, its number is taken
    namenode/, n1/, ...                         what the daemons keep
    logs/NAME.log       what a daemon says, logs/NAME.log.1 what it said before
    supervisor.lock     held by the supervisor and every daemon it started: free when all are gone
    supervisor.sock     where the supervisor takes orders (`dfs.cli.local.control`)
    cluster.json        what the supervisor knows of its daemons, for people and programs
    mounts.json         where `dfs up --mount` mounted the cluster

namenode.toml is written last, so a directory without it is one whose making was cut short, and is made again.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any, Final

from dfs import config, errors

CLUSTER_FILE_VERSION: Final = 1
"""Of cluster.json. Keys may be added within a version; a reader takes another version for no cluster."""

_NODE_FILE: Final = re.compile(r"n([1-9][0-9]{0,3})\.toml")
_REMOVED_FILE: Final = re.compile(_NODE_FILE.pattern + r"\.removed")


class Layout:
    """The names in a local cluster's directory. Immutable; makes nothing by itself."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).resolve()
        self.command_lock = self.directory / "up.lock"
        self.client = self.directory / "client.toml"
        self.namenode = self.directory / "namenode.toml"
        self.keys = self.directory / "cluster.keys"
        self.client_key = self.directory / "client.key"
        self.logs = self.directory / "logs"
        self.supervisor_lock = self.directory / "supervisor.lock"
        self.socket = self.directory / "supervisor.sock"
        self.cluster_file = self.directory / "cluster.json"
        self.mounts_file = self.directory / "mounts.json"

    def command(self, verb: str) -> str:
        """What a person types to have `dfs VERB` act on this cluster. Its directory is named if it is not the usual."""
        usual = usual_layout().directory == self.directory
        return f"dfs {verb}" if usual else f"dfs {verb} --dir {shlex.quote(str(self.directory))}"

    def log(self, name: str) -> Path:
        """The log of the daemon `name`, or of the supervisor."""
        return self.logs / f"{name}.log"

    def datanode(self, number: int) -> Path:
        """The configuration of the DataNode `number`, 1 or more."""
        return self.directory / f"n{number}.toml"

    def datanode_numbers(self) -> list[int]:
        """The numbers of the DataNodes that have a configuration, in order."""
        return self._numbers(_NODE_FILE)

    def removed_numbers(self) -> list[int]:
        """The numbers of the DataNodes that were removed from the cluster (`set_aside`), in order."""
        return self._numbers(_REMOVED_FILE)

    def _numbers(self, name: re.Pattern[str]) -> list[int]:
        matches = (name.fullmatch(path.name) for path in self.directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def set_aside(self, name: str) -> None:
        """Have a DataNode's configuration count no more. What it keeps stays. Raises `OSError` as the disk does."""
        path = self.directory / f"{name}.toml"
        path.replace(path.with_name(path.name + ".removed"))

    def is_ours(self) -> bool:
        """Whether `dfs up` has been at work in this directory."""
        return self.command_lock.is_file()

    def is_made(self) -> bool:
        """Whether the directory holds a whole cluster."""
        return self.is_ours() and self.namenode.is_file()

    def claim(self) -> None:
        """Make the directory ours, and it and its parents where missing.

        Raises `NotEmpty` if it holds what is not ours, `NotADirectory` if it is a file; `OSError` as the disk does.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise errors.NotADirectory(
                f"no local cluster can be kept in {self.directory}: it is, or is below, something that is no"
                " directory; name another with --dir"
            ) from None
        if not self.is_ours() and any(self.directory.iterdir()) and not self.is_ours():
            raise errors.NotEmpty(
                f"no local cluster can be kept in {self.directory}: the directory holds other files;"
                " name an empty or a new one with --dir"
            )
        self.command_lock.touch(mode=0o600)

    def read_cluster(self) -> dict[str, Any]:
        """What cluster.json says; empty if there is none that this version understands."""
        try:
            found = json.loads(self.cluster_file.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and found.get("version") == CLUSTER_FILE_VERSION else {}

    def read_mounts(self) -> set[Path]:
        """Where `dfs up --mount` has mounted this cluster."""
        try:
            return {Path(path) for path in json.loads(self.mounts_file.read_text())}
        except (FileNotFoundError, ValueError):  # or cut short: then nothing is known of mounts
            return set()

    def write_mounts(self, mounts: set[Path]) -> None:
        if mounts or self.mounts_file.exists():
            write_file(self.mounts_file, json.dumps(sorted(map(str, mounts))) + "\n")

    def write_cluster(self, cluster: dict[str, Any]) -> None:
        """Replace cluster.json at once, so that readers see the old one or the new one."""
        write_file(self.cluster_file, json.dumps({"version": CLUSTER_FILE_VERSION, **cluster}, indent=1) + "\n")


def usual_layout(client: str | None = None) -> Layout:
    """The cluster that is meant where nobody names a directory.

    It is that to which the client.toml belongs that counts (`client`, where it is named), if that is a local one; else
    the one in `local_cluster_dir`.
    """
    path = config.client_config_path(client)
    beside = Layout(path.resolve().parent) if path else None
    return beside if beside and beside.is_ours() else Layout(config.local_cluster_dir())


def write_file(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all, also for readers at the same time."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, "utf-8")
    temporary.replace(path)
