"""What `dfs key` makes of what the NameNode knows of holders."""

from __future__ import annotations

import re
from typing import Any

from dfs.cli.keys import never_seen, what_else

KNOWN: dict[str, Any] = {
    "holders": [["client", "alice", 1, 5.0, True], ["reader", "bob", 1, 5.0, False], ["admin", "bob", 1, 5.0, False]],
    "nodes": [["n1", "up", [1]]],
}


def test_a_revoked_name_that_nobody_has_looks_like_a_slip() -> None:
    assert never_seen(KNOWN, "client", "alice") == never_seen(KNOWN, "node", "n1") == ""
    slip = never_seen(KNOWN, "client", "alcie")
    assert slip.startswith("nobody was seen with the key of client alcie since")
    assert "but" not in slip
    assert slip.endswith("`dfs key restore alcie --role client` takes this back")


def test_who_has_that_name_in_another_role_is_named() -> None:
    assert "but with that of admin bob, reader bob (--role)" in never_seen(KNOWN, "client", "bob")
    assert "but with that of node n1 (--role)" in never_seen(KNOWN, "client", "n1")


def test_revoking_a_datanodes_key_leaves_something_to_do() -> None:
    told = " ".join(what_else("node", "n1"))
    assert re.search("`dfs remove n1`, then `dfs key rotate`, then `dfs key retire`", told)
    assert what_else("client", "alice") == []
