"""All commands by their verbs: sent by clients, filled in by the NameNode for them, or given by itself.

Each module is named by its verb and has one function, `apply(tx, *args)`: it checks its arguments, changes the tables
through `tx`, and returns the result or raises a `DfsError`, after which nothing it did counts.

What clients change in directories that they own they answer before it is sent: `dfs.client.owned` says the same of
`create`, `mkdir`, `mknod`, `symlink`, `link`, `unlink`, `rmdir`, `rename` and `setattr` as these modules, and is to be
changed with them (tests/integration/test_owned_directories.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
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
    note_backup,
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

Apply = Callable[..., Any]


def _by_verb(*modules: ModuleType) -> Mapping[str, Apply]:
    return {module.__name__.rpartition(".")[2]: module.apply for module in modules}


MENDING: Final = _by_verb(
    *(mend_chunk, mend_copy, mend_counter, mend_entry, mend_index, mend_inode, mend_rows, mend_stray)
)
"""What `fsck --repair` has done."""

CLIENT: Final[Mapping[str, Apply]] = {
    **_by_verb(create, create_unnamed, mkdir, mknod, symlink, link, unlink, rmdir, rename),
    **_by_verb(setattr, accessed, truncate, setxattr, removexattr, commit),
    **_by_verb(hold, release, seal, reserve_inodes),
    **MENDING,
}

PLANNED: Final = _by_verb(allocate_chunks)
"""A client's, with its number and its stored reply, but with arguments that only the NameNode may choose."""

OWN: Final[Mapping[str, Apply]] = {
    **_by_verb(open_session, end_session, begin_series, configure),
    **_by_verb(register_node, set_draining, remove_node),
    **_by_verb(add_replicas, drop_replicas, drop_surplus, forget_replicas, delete_stray),
    **_by_verb(finish_work, postpone_work, bring_forward, plan_punches, free_doomed, skip_chunks),
    **_by_verb(redeem_token, revoke_key, restore_key, use_generation, note_backup),
}

IN_PARTS: Final[Mapping[str, Callable[..., Sequence[Any] | None]]] = {"truncate": truncate.first_part}
"""Of client verbs that may take long: the arguments with which a part of it is to be done first, if there is much."""

FREEING: Final = frozenset({"unlink", "rmdir", "truncate", "release", "seal", "removexattr", "hold"})
"""Client verbs that are accepted though the NameNode's disk is nearly full: they make room, or keep an open file."""
