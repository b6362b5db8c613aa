"""What every test may rely on."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
import structlog

from dfs.daemon import collect_seldom


def pytest_configure() -> None:
    """What the shell has that starts the tests is not for the processes that they start.

    A job that it started with `&` ignores Ctrl-C; and its user may have said which cluster is his.
    """
    for name in ("DFS_CONFIG", "DFS_KEY"):
        os.environ.pop(name, None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What there is now stays, and need not be looked through for garbage time and again."""
    collect_seldom()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers: what takes longest begins first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _own_logs(request: pytest.FixtureRequest) -> Iterator[None]:
    """A command under test configures the logs of its process: the next test begins without.

    What a daemon or a client meets unexpectedly, and survives, no test survives that is not about it.
    """
    bugs: list[str] = []

    def note(_logger: Any, _level: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if event.get("exc_info"):
            bugs.append(f"{event['event']}: {traceback.format_exc()}")
        return event

    structlog.configure(processors=[note, *structlog.get_config()["processors"]])
    yield
    structlog.reset_defaults()
    assert bool(bugs) == bool(request.node.get_closest_marker("meets_bugs")), "\n".join(bugs) or "nothing was logged"
