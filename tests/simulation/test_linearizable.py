"""The search for an order: histories of a register that have one, and histories that have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulation import naming
from tests.simulation.linearizable import UNKNOWN, Operation, explain


def write(value: int) -> Callable[[Any], tuple[Any, Any]]:
    return lambda _state: ("done", value)


def read(state: Any) -> tuple[Any, Any]:
    return state, state


def operation(called: float, returned: float, apply: Callable[[Any], tuple[Any, Any]], result: Any) -> Operation:
    made = Operation("operation", called, apply)
    if result is not UNKNOWN:
        made.returned, made.result = returned, result
    return made


def test_a_read_after_a_write_sees_it() -> None:
    first = operation(0, 1, write(1), "done")
    assert explain([first, operation(2, 3, read, 1)], 0) is not None
    assert explain([first, operation(2, 3, read, 0)], 0) is None


def test_a_read_beside_a_write_sees_either() -> None:
    first = operation(0, 3, write(1), "done")
    for value in (0, 1):
        assert explain([first, operation(1, 2, read, value)], 0) is not None


def test_what_was_seen_once_does_not_go_back() -> None:
    history = [operation(0, 9, write(1), "done"), operation(1, 2, read, 1), operation(3, 4, read, 0)]
    assert explain(history, 0) is None


def test_a_write_without_an_answer_may_happen_late_or_never() -> None:
    lost = operation(0, 0, write(1), UNKNOWN)
    assert explain([lost, operation(1, 2, read, 0), operation(3, 4, read, 1)], 0) is not None
    assert explain([lost, operation(1, 2, read, 0), operation(3, 4, read, 0)], 0) is not None
    assert explain([lost, operation(1, 2, read, 1), operation(3, 4, read, 0)], 0) is None


def test_reads_without_an_answer_do_not_matter() -> None:
    """Nor are they tried, each before and after each other: there would be no end of it."""
    lost = [operation(0, 0, read, UNKNOWN) for _ in range(60)]
    assert explain([*lost, operation(1, 2, write(1), "done"), operation(3, 4, read, 0)], 0) is None


def test_nothing_happens_before_it_was_asked_for() -> None:
    assert explain([operation(1, 2, read, 1), operation(3, 4, write(1), "done")], 0) is None


def test_a_name_that_two_clients_took_is_found() -> None:
    taken = [
        operation(0, 1, naming.symlink(b"x", b"one"), "done"),
        operation(2, 3, naming.symlink(b"x", b"two"), "done"),
    ]
    assert explain(taken, naming.EMPTY) is None
    between = operation(1, 2, naming.rename(b"x", b"y"), "done")
    assert explain([*taken, between], naming.EMPTY) is not None
