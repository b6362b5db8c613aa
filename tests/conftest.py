"""What every test may rely on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _own_logs() -> Iterator[None]:
    """A command under test configures the logs of its process: the next test begins without."""
    yield
    structlog.reset_defaults()
