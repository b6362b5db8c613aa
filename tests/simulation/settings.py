"""The bounds of a simulated cluster: small, so that a run of a minute fills chunks, pages and queues many times over.

Importing this module changes `dfs.limits`, so it is imported before any other part of dfs, and only in processes that
do nothing but simulate. What is kept is the order of the bounds among each other: a client waits longer than a
NameNode needs to restart, a session lives longer than a call and than three DataNodes that do not answer one after the
other, a node is dead later than it is suspect.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from dfs import limits

KIB: Final = limits.KIB

LIMITS: Final = {
    "CHUNK_MAX_BYTES": 128 * KIB,
    "BLOCK_BYTES": 8 * KIB,
    "BLOCK_MAX_BYTES": 8 * KIB,
    "CHUNK_MAX_BLOCKS": 64,
    "APPEND_MAX_BYTES": 32 * KIB,
    "APPEND_SURE_BYTES": 8 * KIB,
    "APPENDS_AT_ONCE": 3,
    "SPREAD_FROM_BYTES": 8 * KIB,
    "CHAINED_FROM_BYTES": 4 * KIB,
    "CHAINED_MAX_BYTES": 16 * KIB,
    "CHAINED_AT_ONCE": 4,
    "TRIAL_BYTES": 32 * KIB,
    "TRIED_AGAIN_BYTES": 64 * KIB,
    "COMMIT_EVERY_BYTES": 64 * KIB,
    "DIRTY_RANGE_MAX_BYTES": 16 * KIB,
    "READ_MAX_BYTES": 32 * KIB,
    "READ_AHEAD_BYTES": 32 * KIB,
    "WRITE_BACK_AT_BYTES": 64 * KIB,
    "DIRTY_MAX_BYTES": 128 * KIB,
    "DIRTY_MIN_BYTES": 16 * KIB,
    "DIRTY_FIRST_BYTES": 32 * KIB,
    "DIRTY_MEASURED_BYTES": 4 * KIB,
    "DIRTY_REMEMBERED_BYTES": 64 * KIB,
    "DIRTY_BELIEVED_S": 15.0,
    "EXTENTS_MAX": 32,
    "READDIR_MAX_ENTRIES": 8,
    "BATCH_MAX_COMMANDS": 8,
    "FORESEEN_MAX_COMMANDS": 4,
    "REPORT_SLICE_CHUNKS": 16,
    "INLINE_IO_MAX_BYTES": 2 * KIB,
    "JOURNAL_BYTES": 32 * KIB,
    "JOURNAL_ENTRY_MAX_BYTES": 8 * KIB,
    "OPEN_CHUNKS_MAX": 8,
    "HEARTBEAT_PERIOD_S": 1.0,
    "NODE_DEAD_AFTER_S": 12.0,
    "NODE_SUSPECT_AFTER_S": 4.0,
    "SESSION_TIMEOUT_S": 8.0,
    "EVENTS_WAIT_S": 3.0,
    "SETTLED_AFTER_S": 12.0,
    "REPORT_PERIOD_S": 15.0,
    "LANE_IDLE_S": 3.0,
    "LANE_KEPT_S": 9.0,
    "LANE_KEPT_MAX_BYTES": 64 * KIB,
    "LANE_LOOK_PERIOD_S": 5.0,
    "LANE_AGE_MAX_S": 15.0,
    "GRANT_VALID_S": 45,  # more than two clocks are apart (faults.CLOCK_JUMP_MAX_S, either way), as in earnest
    "CALL_TIMEOUT_S": 6.0,
    "DATA_TIMEOUT_S": 2.5,
    "STRAGGLER_S": 0.8,
    "NAMENODE_WAIT_S": 40.0,
    "FREE_SPACE_CHECK_BYTES": 64 * KIB,
    "LEASES_MAX": 32,
    "SMALL_WRITE_MAX_BYTES": 8 * KIB,
    "HELD_BACK_MAX_S": 60.0,  # so that no file that took another's place may be without its bytes
    "LINGERING_MAX": 4,
    "PREFETCH_PAGE_ENTRIES": 4,
    "PREFETCH_MAX_ENTRIES": 12,
    "TREE_MAX_ENTRIES": 7,
    "TREE_MAX_DIRECTORIES": 3,
    "AHEAD_FIRST": 2,
    "AHEAD_PART": 4,
    "AHEAD_ENTRIES_SEEN": 6,
    "RECLAIM_MAX_INODES": 16,
    "SPACE_SHORT_BYTES": 2 * limits.MIB,
}

CACHE: Final = (24, 24)
"""Inodes and names that a mount remembers."""

REPLICAS: Final = 3
MIN_REPLICAS: Final = 2
DISK_BYTES: Final = 16 * limits.MIB
GARBAGE_GRACE_S: Final = 4.0

NAMENODE: Final[dict[str, Any]] = {
    "replicas": REPLICAS,
    "min_replicas": MIN_REPLICAS,
    "session_timeout_s": LIMITS["SESSION_TIMEOUT_S"],
    "node_suspect_after_s": LIMITS["NODE_SUSPECT_AFTER_S"],
    "node_dead_after_s": LIMITS["NODE_DEAD_AFTER_S"],
    "garbage_grace_s": GARBAGE_GRACE_S,
    "reserve_bytes": 0,
    "nameserver": "off",
}

assert "pytest" not in sys.modules, "the limits of all other tests of this process would change"
for _name, _value in LIMITS.items():
    assert hasattr(limits, _name), _name
    setattr(limits, _name, _value)
