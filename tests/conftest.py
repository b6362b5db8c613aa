"""What every test may rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers: what takes longest begins first."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A command under test configures the logs of its process: the next test begins without."""
    yield
    structlog.reset_defaults()
