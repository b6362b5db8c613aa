"""What a version of our protocol is: methods, commands and values by their names and order, as a file for each version.

    python -m tests.protocol_record        writes tests/data/protocol-N.json, N being the newest version

A release is made with a new record. What is recorded and was released is never written anew: a test holds the code
against it.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

from dfs import types
from dfs.rpc import SPOKEN, Call
from nodes.datanode.service import DataNode
from nodes.namenode import commands
from nodes.namenode.service import NameNode

DIRECTORY: Final = Path(__file__).parent / "data"

Arguments: TypeAlias = list[str]
"""Names in order; those that may be left out end with `?`."""


def record() -> dict[str, dict[str, Arguments]]:
    """What this code is."""
    return {
        "namenode": {name: _arguments(method) for name, method in _exposed(NameNode)},
        "datanode": {name: _arguments(method) for name, method in _exposed(DataNode)},
        "commands": {verb: _arguments(apply) for verb, apply in (commands.CLIENT | commands.OWN).items()},
        "values": {name: _fields(value) for name, value in vars(types).items() if hasattr(value, "_fields")},
    }


def recorded(version: int) -> dict[str, dict[str, Arguments]]:
    """What that version is. Raises FileNotFoundError if nobody wrote it down."""
    found: dict[str, dict[str, Arguments]] = json.loads(path(version).read_text())
    return found


def path(version: int) -> Path:
    return DIRECTORY / f"protocol-{version}.json"


def broken(old: dict[str, dict[str, Arguments]], new: dict[str, dict[str, Arguments]]) -> list[str]:
    """What somebody who knows `old` cannot rely on any more, a sentence each."""
    return [
        f"{kind}: {name}({', '.join(arguments)}) {problem}"
        for kind, entries in old.items()
        for name, arguments in entries.items()
        if (problem := _problem(arguments, new[kind].get(name)))
    ]


def _problem(old: Arguments, new: Arguments | None) -> str | None:
    if new is None:
        return "is gone"
    if [name.rstrip("?") for name in new[: len(old)]] != [name.rstrip("?") for name in old]:
        return f"became ({', '.join(new)})"
    required = [after for before, after in zip(old, new, strict=False) if before.endswith("?") > after.endswith("?")]
    required += [name for name in new[len(old) :] if not name.endswith("?")]
    return f"needs {', '.join(required)} now" if required else None


def _exposed(service: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name in dir(service):
        method = getattr(service, name)
        if getattr(method, "_pyroExposed", False):
            yield name, method


def _arguments(function: Callable[..., Any]) -> Arguments:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    sent = [each for each in parameters if each.name not in ("self", "tx") and each.annotation is not Call]
    return [each.name + ("?" if each.default is not each.empty else "") for each in sent]


def _fields(value: Any) -> Arguments:
    return [name + ("?" if name in value._field_defaults else "") for name in value._fields]


if __name__ == "__main__":
    path(SPOKEN.newest).write_text(json.dumps(record(), indent=1, sort_keys=True) + "\n")
