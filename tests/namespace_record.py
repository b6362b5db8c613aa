"""A namespace with something in every table, as SQL, and what its users see: one of each format that ever was.

    python -m tests.namespace_record        writes tests/data/namespace-N.sql and .json, N being the present format

Run it before a change of the schema raises FORMAT: tests/unit/namenode/test_migrations.py opens each with the present
code, and wants one of every format before the present. What a released version wrote is never written anew. Format 1,
from before this module was there, was written by the code of its time with it.
"""

from __future__ import annotations

import json
import stat
import tempfile
from pathlib import Path
from typing import Any, Final
from unittest import mock

from dfs.types import ROOT_INO
from nodes.namenode import transaction
from nodes.namenode.schema import FORMAT
from tests.unit.namenode.world import DAY_NS, MINUTE_NS, NODES, Namespace, namespace

DIRECTORY: Final = Path(__file__).parent / "data"
_NAMES_MAX: Final = 1000
_EVERYTHING: Final = 2**40


def dump_file(number: int) -> Path:
    return DIRECTORY / f"namespace-{number}.sql"


def view_file(number: int) -> Path:
    return DIRECTORY / f"namespace-{number}.json"


# --- what is in it --------------------------------------------------------------------------------------------


def furnish(space: Namespace) -> None:
    """Put something into every table of a namespace that has nodes."""
    alive, gone = space.open_session(), space.open_session()
    _make_tree(space, alive)
    _make_files(space, alive)
    _make_orphans(space, alive, gone)
    _make_work(space, alive)
    space.own("register_node", "n9", "n9:9401", "n9", "rack", ["d-n9"])
    if FORMAT > 1:
        space.own("set_draining", "n3", True)
        space.own("remove_node", "n9")
    if FORMAT > 2:
        space.own("use_generation", 2)
        space.own("redeem_token", "0" * 32, space.now_ns + DAY_NS, b"digest")
        space.own("revoke_key", "client", "lost laptop")
    if FORMAT > 3:
        space.do(alive, "reserve_inodes", 1000)


def _make_tree(space: Namespace, session: int) -> None:
    top = space.do(session, "mkdir", ROOT_INO, b"top", 0o2750, 1000, 100)
    below = space.do(session, "mkdir", top[0], b"a name with \xff and \n", 0o700, 0, 0)
    space.do(session, "symlink", below[0], b"link", b"../else\xfe", 1000, 100)
    space.do(session, "mknod", below[0], b"fifo", stat.S_IFIFO | 0o600, 0, 0, 0)
    space.do(session, "mknod", below[0], b"device", stat.S_IFBLK | 0o660, 0, 6, 2049)
    space.do(session, "setxattr", top[0], b"user.empty", b"")
    space.do(session, "setxattr", top[0], b"trusted.bytes", bytes(range(256)))


def _make_files(space: Namespace, session: int) -> None:
    plain = space.file(session, b"plain")
    space.written(session, plain[0], 5000)
    space.do(session, "setxattr", plain[0], b"user.of", b"a file")
    space.do(session, "link", plain[0], ROOT_INO, b"plain too")
    sparse = space.file(session, b"sparse")
    chunk = space.chunk(session, NODES[:2])
    space.do(session, "commit", sparse[0], [[0, 100, chunk, 0], [10**9, 50, chunk, 100]], [[chunk, 150, [*NODES[:2]]]])
    space.do(session, "truncate", sparse[0], 2 * 10**9)
    open_still = space.file(session, b"overwritten")
    chunk = space.written(session, open_still[0], 9000)
    space.do(session, "commit", open_still[0], [[1000, 70, chunk, 9000]], [[chunk, 9070, [*NODES]]])
    space.file(session, b"empty")


def _make_orphans(space: Namespace, alive: int, gone: int) -> None:
    held = space.file(alive, b"held")
    space.written(alive, held[0], 300)
    space.do(alive, "hold", held[0])
    space.do(alive, "unlink", ROOT_INO, b"held")
    doomed = space.file(alive, b"doomed")
    chunk = space.chunk(alive)
    extents = [[2 * number, 1, chunk, number] for number in range(20)]
    space.do(alive, "commit", doomed[0], extents, [[chunk, 20, [*NODES]]])
    with mock.patch.object(transaction, "FREED_AT_ONCE", 4):
        space.do(alive, "unlink", ROOT_INO, b"doomed")
    space.chunk(gone)
    space.end_session(gone)


def _make_work(space: Namespace, session: int) -> None:
    """Orders to delete, to cut and to punch."""
    removed = space.file(session, b"removed")
    chunk = space.written(session, removed[0], 4000)
    space.do(session, "seal", [chunk])
    space.do(session, "unlink", ROOT_INO, b"removed")
    punched = space.file(session, b"punched")
    chunk = space.written(session, punched[0], 200_000)
    space.do(session, "seal", [chunk])
    space.do(session, "truncate", punched[0], 1000)
    space.now_ns += 2 * MINUTE_NS
    space.own("plan_punches")
    trimmed = space.file(session, b"trimmed")
    chunk = space.written(session, trimmed[0], 200_000)
    space.do(session, "truncate", trimmed[0], 5)


# --- what is seen of it ---------------------------------------------------------------------------------------


def view(space: Namespace) -> dict[str, Any]:
    """All that users can see, by paths; names and bytes as latin-1."""
    files: dict[str, Any] = {}
    _look(space, ROOT_INO, b"", files)
    chunks = [list(chunk[:4]) for chunk in space.queries.chunks(0, _NAMES_MAX)]
    totals = {name: value for name, value in space.store.counters().items() if name != "log_index"}
    work = [list(row) for row in space.rows("SELECT id, node, kind, chunk, hex(argument), due_ns FROM work")]
    held = [list(row) for row in space.rows("SELECT ino, session, count FROM hold")]
    return {"files": files, "chunks": chunks, "totals": totals, "work": work, "held": held}


def _look(space: Namespace, ino: int, path: bytes, files: dict[str, Any]) -> None:
    attr = space.queries.getattr(ino)
    seen: dict[str, Any] = {"attr": attr._asdict()}
    xattrs = space.queries.listxattr(ino)
    seen["xattrs"] = {name.decode("latin-1"): space.queries.getxattr(ino, name).decode("latin-1") for name in xattrs}
    if stat.S_ISLNK(attr.mode):
        seen["target"] = space.queries.readlink(ino).decode("latin-1")
    if stat.S_ISREG(attr.mode):
        _, extents, places = space.queries.extents(ino, 0, _EVERYTHING)
        seen["extents"] = [list(extent) for extent in extents]
        seen["places"] = [[place[0], place[1], sorted(place[2])] for place in places]
    files[path.decode("latin-1") or "/"] = seen
    if stat.S_ISDIR(attr.mode):
        for _, name, below in space.queries.readdir(ino, 0, _NAMES_MAX):
            _look(space, below.ino, path + b"/" + name, files)


# --- as files -------------------------------------------------------------------------------------------------


def record(space: Namespace) -> tuple[str, dict[str, Any]]:
    """The SQL that makes the tables as they are, and what is seen of them."""
    return "\n".join(space.store.reads.iterdump()) + "\n", view(space)


def write() -> None:
    """Write the files of the present format."""
    DIRECTORY.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, namespace(Path(directory)) as space:
        furnish(space)
        tables = space.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        bare = [name for name in tables if not space.rows(f"SELECT 1 FROM {name} LIMIT 1")]
        assert not bare, f"there is nothing in {', '.join(bare)}: furnish it"
        assert not space.findings(), space.findings()
        dump, seen = record(space)
        dump_file(FORMAT).write_text(dump)
        view_file(FORMAT).write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write()
