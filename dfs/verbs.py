"""What both ends have to know of commands, and of events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NAMES: Final[Mapping[str, tuple[int, ...]]] = {
    **dict.fromkeys(("create", "mkdir", "mknod", "symlink", "unlink", "rmdir"), (0,)),
    "link": (1,),
    "rename": (0, 2),
}
"""Where among a command's arguments there are a directory and a name in it."""
MORE: Final = "more"
"""Instead of an event: there are more of them than one answer has."""
CHANGES_INODE: Final = frozenset({"link", "setattr", "truncate", "setxattr", "removexattr", "commit"})
"""Commands whose first argument is an inode that they change."""
