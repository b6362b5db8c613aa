"""structlog without rich, which it takes in where that is installed, for tracebacks that nothing here prints.

That is a sixth of the time in which a daemon is loaded, or the command line, and 4 MiB of memory.
"""

from __future__ import annotations

import sys


def load_structlog() -> None:
    """Import it: for the packages of programs, before any of their modules is. What is imported already stays."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # importing it fails: the import system's reference
    try:
        import structlog as structlog
    finally:
        del sys.modules["rich"]
