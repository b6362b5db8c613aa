"""dfs, a distributed file system: `dfs.connect` is the way in for scripts, `dfs.client` for trio programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfs.release import RELEASE

if TYPE_CHECKING:
    from dfs.client import connect as connect
    from dfs.client import open_filesystem as open_filesystem

__version__ = RELEASE
__all__ = ["__version__", "connect", "open_filesystem"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load the client when it is first asked for: daemons import this package, too, and need none."""
    if name in ("connect", "open_filesystem"):
        from dfs import client

        return getattr(client, name)
    raise AttributeError(f"module 'dfs' has no attribute {name!r}")
