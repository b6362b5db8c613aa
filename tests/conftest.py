"""What every test may rely on."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import structlog


def pytest_configure() -> None:
    """A job that a shell started with `&` ignores Ctrl-C, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers: what takes longest begins first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A command under test configures the logs of its process: the next test begins without."""
    yield
    structlog.reset_defaults()
