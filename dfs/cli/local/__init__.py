"""A supervised cluster on this machine: `dfs up`, `dfs restart` and `dfs down`."""

from __future__ import annotations

from dfs.leanlogs import load_structlog

load_structlog()  # also for the supervisor, a program of its own
