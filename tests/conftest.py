"""What every test may rely on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import structlog

_TESTS: Final = Path(__file__).parent
_LOCAL: Final = (
    "fuse",
    "integration/test_bad_input.py",
    "integration/test_cli.py",
    "integration/test_local_cluster.py",
)
"""These make clusters with `dfs up`, which takes the first ports that are free: not two at once."""


@pytest.hookimpl(tryfirst=True)  # before the plugin that reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For several workers: those that cannot run side by side are one group, and what takes longest begins first."""
    local = [_TESTS / name for name in _LOCAL]
    for item in items:
        if any(item.path.is_relative_to(path) for path in local):
            item.add_marker(pytest.mark.xdist_group("local clusters"))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A command under test configures the logs of its process: the next test begins without."""
    yield
    structlog.reset_defaults()
