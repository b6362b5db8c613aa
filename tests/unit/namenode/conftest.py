"""Fixtures of the NameNode's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.namenode.world import Namespace, namespace


@pytest.fixture
def space(tmp_path: Path) -> Iterator[Namespace]:
    """See `namespace`."""
    with namespace(tmp_path) as opened:
        yield opened
