"""Was there an order? Wing and Gong's search, with Lowe's memory of what was tried.

A history is linearizable if every operation can be given one moment between its call and its return so that,
done one after another at those moments, each gives the result that it gave. An operation whose result is not known
may have happened at any moment after its call, or never.

    state0 -- Operation.apply --> (result, state1)

States are immutable and hashable. The search is exponential in how many operations overlap, not in how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

UNKNOWN: Final = object()
"""The result of an operation that got no answer."""


class Operation:
    """`apply` is what it does to a state; `result` what it answered, from `called` to `returned`."""

    __slots__ = ("apply", "called", "name", "result", "returned")

    def __init__(self, name: str, called: float, apply: Callable[[Any], tuple[Any, Hashable]]) -> None:
        self.name = name
        self.called = called
        self.returned = math.inf
        self.apply = apply
        self.result: Any = UNKNOWN

    def __str__(self) -> str:
        answer = "no answer" if self.result is UNKNOWN else repr(self.result)
        return f"[{self.called:.6f} {self.returned:.6f}] {self.name} -> {answer}"


def explain(history: Sequence[Operation], initial: Hashable) -> list[Operation] | None:
    """An order of all operations that have a result, and some that have none; None if there is no such order."""
    left = sorted(history, key=lambda operation: operation.called)
    needed = sum(1 << number for number, operation in enumerate(left) if operation.result is not UNKNOWN)
    tried: set[tuple[int, Hashable]] = set()
    order: list[Operation] = []
    stack = [_choices(left, 0, initial)]
    done = 0
    masks = [0]
    while True:
        if done & needed == needed:
            return order
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            if not stack:
                return None
            masks.pop()
            order.pop()
            done = masks[-1]
            continue
        number, state = step
        if (done | 1 << number, state) in tried:
            continue
        done |= 1 << number
        tried.add((done, state))
        masks.append(done)
        order.append(left[number])
        stack.append(_choices(left, done, state))


def _choices(left: Sequence[Operation], done: int, state: Hashable) -> Any:
    """Operations that may be next, and the state after each. What has no result and changes nothing need not be."""
    first_return = min((each.returned for number, each in enumerate(left) if not done >> number & 1), default=0.0)
    for number, operation in enumerate(left):
        if operation.called > first_return:
            return
        if done >> number & 1:
            continue
        result, after = operation.apply(state)
        if after != state if operation.result is UNKNOWN else operation.result == result:
            yield number, after
