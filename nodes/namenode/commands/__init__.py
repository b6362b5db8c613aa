"""All commands by their verbs: sent by clients, filled in by the NameNode for them, or given by itself.

Each module has one function, `apply(tx, *args)`: it checks its arguments, changes the tables through `tx`, and
returns the result or raises a `DfsError`, after which nothing it did counts.

What clients change in directories that they own they answer before it is sent: `dfs.client.owned` says the same of
`create`, `mkdir`, `mknod`, `symlink`, `link`, `unlink`, `rmdir`, `rename` and `setattr` as these modules, and is to be
changed with them (tests/integration/test_owned_directories.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from nodes.namenode.commands import (
    accessed,
    add_replicas,
    allocate_chunks,
    begin_series,
    bring_forward,
    commit,
    configure,
    create,
    create_unnamed,
    delete_stray,
    drop_replicas,
    drop_surplus,
    end_session,
    finish_work,
    forget_replicas,
    free_doomed,
    hold,
    link,
    mend_chunk,
    mend_copy,
    mend_counter,
    mend_entry,
    mend_index,
    mend_inode,
    mend_rows,
    mend_stray,
    mkdir,
    mknod,
    open_session,
    plan_punches,
    postpone_work,
    redeem_token,
    register_node,
    release,
    remove_node,
    removexattr,
    rename,
    reserve_inodes,
    restore_key,
    revoke_key,
    rmdir,
    seal,
    set_draining,
    setattr,
    setxattr,
    skip_chunks,
    symlink,
    truncate,
    unlink,
    use_generation,
)

CLIENT: Final[Mapping[str, Callable[..., Any]]] = {
    "create": create.apply,
    "create_unnamed": create_unnamed.apply,
    "mkdir": mkdir.apply,
    "mknod": mknod.apply,
    "symlink": symlink.apply,
    "link": link.apply,
    "unlink": unlink.apply,
    "rmdir": rmdir.apply,
    "rename": rename.apply,
    "setattr": setattr.apply,
    "accessed": accessed.apply,
    "truncate": truncate.apply,
    "setxattr": setxattr.apply,
    "removexattr": removexattr.apply,
    "commit": commit.apply,
    "hold": hold.apply,
    "release": release.apply,
    "seal": seal.apply,
    "reserve_inodes": reserve_inodes.apply,
    "mend_chunk": mend_chunk.apply,
    "mend_copy": mend_copy.apply,
    "mend_counter": mend_counter.apply,
    "mend_entry": mend_entry.apply,
    "mend_index": mend_index.apply,
    "mend_inode": mend_inode.apply,
    "mend_rows": mend_rows.apply,
    "mend_stray": mend_stray.apply,
}

PLANNED: Final[Mapping[str, Callable[..., Any]]] = {"allocate_chunks": allocate_chunks.apply}
"""A client's, with its number and its stored reply, but with arguments that only the NameNode may choose."""

OWN: Final[Mapping[str, Callable[..., Any]]] = {
    "open_session": open_session.apply,
    "end_session": end_session.apply,
    "register_node": register_node.apply,
    "finish_work": finish_work.apply,
    "free_doomed": free_doomed.apply,
    "add_replicas": add_replicas.apply,
    "drop_replicas": drop_replicas.apply,
    "drop_surplus": drop_surplus.apply,
    "set_draining": set_draining.apply,
    "forget_replicas": forget_replicas.apply,
    "remove_node": remove_node.apply,
    "delete_stray": delete_stray.apply,
    "plan_punches": plan_punches.apply,
    "bring_forward": bring_forward.apply,
    "postpone_work": postpone_work.apply,
    "skip_chunks": skip_chunks.apply,
    "begin_series": begin_series.apply,
    "configure": configure.apply,
    "redeem_token": redeem_token.apply,
    "revoke_key": revoke_key.apply,
    "restore_key": restore_key.apply,
    "use_generation": use_generation.apply,
}

FREEING: Final = frozenset({"unlink", "rmdir", "truncate", "release", "seal", "removexattr", "hold"})
"""Client verbs that are accepted though the NameNode's disk is nearly full: they make room, or keep an open file."""
