"""What both ends have to know of commands, and of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple


class Verb(NamedTuple):
    """How the arguments and the result of a command are read. Arguments are meant by their places.

    `inodes` are all that are inode numbers, `names` those of them that are directories with a name right behind.
    `makes` is the one of `names` where the result is found afterwards, `takes` the one where nothing is.
    `changes`: the first argument is an inode that is changed itself, and not for the names in it.
    `creates`: the result is an inode, perhaps a new one, see `has_made`.
    `attr`: the result is an Attr; `attr_first`: a list that begins with one.
    """

    inodes: tuple[int, ...]
    names: tuple[int, ...] = ()
    makes: int | None = None
    takes: int | None = None
    changes: bool = False
    creates: bool = False
    attr: bool = False
    attr_first: bool = False

    def has_made(self, version: int, touched: Sequence[Any]) -> bool:
        """Whether the inode of the result, in this version, is new: of one that was there before nothing is touched."""
        return self.creates and version == 1 and (bool(touched) or not self.names)


VERBS: Final[Mapping[str, Verb]] = {
    "create": Verb((0,), (0,), makes=0, creates=True, attr=True),
    "create_unnamed": Verb((0,), creates=True, attr=True),
    "mkdir": Verb((0,), (0,), makes=0, creates=True, attr=True),
    "mknod": Verb((0,), (0,), makes=0, creates=True, attr=True),
    "symlink": Verb((0,), (0,), makes=0, creates=True, attr=True),
    "link": Verb((0, 1), (1,), makes=1, changes=True, attr=True),
    "unlink": Verb((0,), (0,), takes=0, attr=True),
    "rmdir": Verb((0,), (0,), takes=0, attr=True),
    "rename": Verb((0, 2), (0, 2), makes=2, takes=0, attr=True),
    "setattr": Verb((0,), changes=True, attr=True),
    "truncate": Verb((0,), changes=True, attr=True),
    "setxattr": Verb((0,), changes=True),
    "removexattr": Verb((0,), changes=True),
    "commit": Verb((0,), changes=True, attr_first=True),
    "hold": Verb((0,), attr=True),
    "release": Verb(()),
    "seal": Verb(()),
    "allocate_chunks": Verb(()),
    "reserve_inodes": Verb(()),
}
"""What clients do for programs, and for themselves. Other verbs are operators', or the NameNode's own."""
OTHER: Final = Verb(())
"""A verb that is not among them: nothing of this is known."""

MORE: Final = "more"
"""Instead of an event: there are more of them than one answer has."""
