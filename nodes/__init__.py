"""The daemons: `nodes.namenode` keeps the namespace, `nodes.datanode` keeps the bytes."""

from __future__ import annotations

from dfs.leanlogs import load_structlog

load_structlog()
