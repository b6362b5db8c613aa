"""`python -m dfs.cli` is the `dfs` command."""

from __future__ import annotations

from dfs.cli.main import main

if __name__ == "__main__":
    main()
