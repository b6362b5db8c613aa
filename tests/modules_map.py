"""A map of the code: every module with the first sentence of its docstring, as docs/modules.md.

    python -m tests.modules_map            writes it

A test holds it against the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
MAP: Final = ROOT / "docs" / "modules.md"
PACKAGES: Final = ("dfs", "mount", "nodes")

_HEAD: Final = """\
# Modules

Where what is: each module with the first sentence of its docstring, which says more. Written by
`python -m tests.modules_map`; [architecture.md](architecture.md) says how they work together. What is tested where
stands there under Tests.
"""


def render() -> str:
    """The map as it is to be."""
    return "\n".join([_HEAD, *(_section(package) for package in _packages())])


def _packages() -> Iterator[Path]:
    for name in PACKAGES:
        yield from sorted(path.parent for path in (ROOT / name).rglob("__init__.py"))


def _section(package: Path) -> str:
    """A heading, what the package is, and a table of its modules."""
    name = ".".join(package.relative_to(ROOT).parts)
    rows = [
        f"| `{module.stem}` | {_says(module)} |" for module in sorted(package.glob("*.py")) if module.stem != "__init__"
    ]
    table = ["", "| module | what it is |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"## `{name}`", "", _says(package / "__init__.py"), *table, ""])


def _says(module: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.?]) ", first, maxsplit=1)[0].replace("|", "\\|")


if __name__ == "__main__":
    MAP.write_text(render(), encoding="utf-8")
