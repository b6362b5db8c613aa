"""A cluster's directory as `dfs up` leaves it, with nothing that runs."""

from __future__ import annotations

from dfs.cli.local import making
from dfs.cli.local.layout import Layout
from dfs.cli.local.ports import FreePorts


def make(layout: Layout, wish: making.Wish) -> making.Made:
    """`making.make`, with ports that are let go at once."""
    with FreePorts() as ports:
        return making.make(layout, wish, ports)
