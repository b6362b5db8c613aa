"""Which release this is: beneath everything, so that the transport can say it to the other end."""

from __future__ import annotations

from typing import Final

RELEASE: Final = "0.1.0"
"""The version in pyproject.toml."""
