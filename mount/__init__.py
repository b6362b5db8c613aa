"""The FUSE driver: a cluster, or a directory of it, as a local directory. `python -m mount` is what `dfs mount` starts.

It translates: inode numbers are the cluster's, attributes become `EntryAttributes`, `dfs.errors` become errno. What a
file or a directory is, `dfs.client` decides; what the kernel may show without asking, and how it is made to forget
that, is decided here (`kernel`).
"""

from __future__ import annotations

from dfs.leanlogs import load_structlog

load_structlog()
