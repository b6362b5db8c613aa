"""Which programs a local cluster consists of, as its configuration files say."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import dfs
from dfs import config
from dfs.cli.local.layout import Layout


class Program(NamedTuple):
    """A daemon to keep running."""

    name: str
    argv: tuple[str, ...]
    address: str = ""
    """Where it serves."""
    stage: int = 0
    """Daemons of a higher stage are stopped, and gone, before those of a lower one: they need them to the end."""


class Roster(NamedTuple):
    """What a supervisor runs."""

    programs: tuple[Program, ...]
    replicas: int = 0
    """Copies that files get by default: for people to see."""


def read_roster(layout: Layout) -> Roster:
    """The NameNode and every DataNode that has a configuration. Raises `ConfigError` for one that cannot be used."""
    namenode = config.load_namenode(layout.namenode)
    programs = [Program("namenode", _daemon("nodes.namenode", layout.namenode), namenode.listen)]
    for number in layout.datanode_numbers():
        path = layout.datanode(number)
        programs.append(Program(path.stem, _daemon("nodes.datanode", path), config.load_datanode(path).listen, stage=1))
    return Roster(tuple(programs), namenode.replicas)


def _daemon(module: str, path: Path) -> tuple[str, ...]:
    return (*python_module(module), "--config", str(path))


def python_module(module: str) -> tuple[str, ...]:
    """The command that runs a module of dfs. `-P`: nothing that lies in the working directory is imported."""
    return (sys.executable, "-P", "-m", module)


def environment() -> dict[str, str]:
    """This process's environment, in which other Python processes find the dfs that this one runs."""
    root = str(Path(dfs.__file__).parent.parent)
    found = dict(os.environ)
    if root not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        found["PYTHONPATH"] = os.pathsep.join(filter(None, (root, found.get("PYTHONPATH"))))
    return found
