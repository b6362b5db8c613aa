"""The names that clients share: what each operation does to a directory of symbolic links, for `linearizable`.

A state is a frozenset of (name, target); every target is given to one link only, so a link is known by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfs import errors

State = frozenset[tuple[bytes, bytes]]
Step = Callable[[Any], tuple[Any, Any]]

EMPTY: State = frozenset()


def _find(state: State, name: bytes) -> bytes | None:
    return next((target for known, target in sorted(state) if known == name), None)


def symlink(name: bytes, target: bytes) -> Step:
    def step(state: State) -> tuple[Any, State]:
        if _find(state, name) is not None:
            return errors.Exists.code, state
        return "done", state | {(name, target)}

    return step


def unlink(name: bytes) -> Step:
    def step(state: State) -> tuple[Any, State]:
        target = _find(state, name)
        return (errors.NotFound.code, state) if target is None else ("done", state - {(name, target)})

    return step


def rename(old: bytes, new: bytes) -> Step:
    def step(state: State) -> tuple[Any, State]:
        target, gone = _find(state, old), _find(state, new)
        if target is None:
            return errors.NotFound.code, state
        if old == new:
            return "done", state
        return "done", (state - {(old, target), (new, gone or b"")}) | {(new, target)}

    return step


def readlink(name: bytes) -> Step:
    def step(state: State) -> tuple[Any, State]:
        target = _find(state, name)
        return (errors.NotFound.code if target is None else target), state

    return step


def listdir() -> Step:
    return lambda state: (tuple(sorted(name for name, _ in state)), state)
