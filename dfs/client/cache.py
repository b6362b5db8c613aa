"""What a client may answer by itself: attributes, names and their absence, under the NameNode's leases.

The NameNode's side, and why this is never stale, is in `nodes.namenode.leases`. What is changed here before the
NameNode hears of it, in directories that are owned, is in `dfs.client.owned`. Here it must hold that what is kept was
leased when it was answered and has not been recalled since, though answers and recalls overtake each other on their way
through this process. So every question takes a `Token` when it is sent, and every recall voids its items: an answer
counts only for items that were not voided since, and of what is recalled nothing is learnt at all until the NameNode
has the answer: it counts on that (`drops_recalled`). A command of our own voids what it touched when its reply arrives,
in the same moment in which its result is learnt; while it is under way, nothing is answered of what it may touch.

Everything is dropped at once (`forget_all`) when the session ends; nothing is answered (`is_trusted`) when the NameNode
has not been heard for so long that it may be about to end it.

Memory: at most so many attributes and names as are configured; those used longest ago go first, directories whole. The
NameNode goes on believing that we know what we dropped: that costs a recall at most, until it has given so many leases
that it recalls the oldest.

Not for several threads; between awaits all is of one moment.
"""

from __future__ import annotations

import bisect
import itertools
import math
import stat
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias

from dfs import codec
from dfs.counts import take_away
from dfs.posix import CAPABILITY, RENAME_EXCHANGE
from dfs.types import ALL_NAMES, Attr, DirEntry, Ino, Item
from dfs.verbs import OTHER, VERBS

Token: TypeAlias = int
"""The moment at which something was asked."""
NEVER: Final[Token] = -1
"""Before all of them: of what nobody waits for any more."""

FIRST_COOKIE: Final = 1
"""Of a directory that was just made: the first entry's is one more."""
_VOIDED_KEPT: Final = 4096
"""Voided items that are remembered before those that no question can be about any more are looked for."""


class Known:
    """What is known of an inode. `xattrs`, `target` and `parent` are None until somebody asked.

    `is_owned`: nobody else knows it, and what is written to it may stay here for a while. `is_private`: nor ever did.
    `at` is a directory in which it was listed, and its name there, which it may have lost since.
    """

    __slots__ = ("at", "attr", "is_owned", "is_private", "parent", "target", "xattrs")

    def __init__(self, attr: Attr) -> None:
        self.attr = attr
        self.xattrs: dict[bytes, bytes] | None = {} if attr.version == 1 else None  # just made: it has none
        self.is_owned = self.is_private = False
        self.target: bytes | None = None
        self.parent: Ino | None = None
        self.at: Item | None = None

    def drop_capability(self) -> None:
        """As the NameNode does when the inode's bytes or owner are changed."""
        if self.xattrs and not stat.S_ISDIR(self.attr.mode):
            self.xattrs = {name: value for name, value in self.xattrs.items() if name != CAPABILITY}

    def note_place(self, attr: Attr, directory: Ino, name: bytes) -> None:
        """With these attributes it has this name. What moves a directory makes another version of it."""
        self.at = (directory, name)
        if stat.S_ISDIR(attr.mode) and self.attr.version == attr.version:
            self.parent = directory


class Directory:
    """What is known of a directory's names since `since`: None means that there is nothing of that name.

    `is_complete`: a name that is not here does not exist. `cookies`: of all names that exist, growing; None where they
    are not known, though the first of them may be (`list_more`). `misses`: names that had to be asked for. `is_used`:
    since the last recall. `is_owned`: nobody else knows it, and names are changed here first; then `last_cookie` is the
    one that was given last.
    """

    __slots__ = ("_listing", "cookies", "is_complete", "is_owned", "is_used", "last_cookie", "misses", "names", "since")

    def __init__(self, since: Token) -> None:
        self.since = since
        self.names: dict[bytes, Ino | None] = {}
        self.is_complete = False
        self.is_owned = False
        self.last_cookie = 0
        self.cookies: dict[bytes, int] | None = None
        self._listing: list[tuple[int, bytes]] | None = None
        """What exists, as (cookie, name), in order: all, or as far as it is known from the beginning on."""
        self.misses = 0
        self.is_used = True

    @property
    def lists_first(self) -> bool:
        """Whether it is known which names come first, or all."""
        return self._listing is not None or self.cookies is not None

    def list_as(self, cookies: dict[bytes, int] | None) -> None:
        """These are all names that exist, in order; None if that is not known."""
        self.cookies = cookies
        self._listing = None

    def list_more(self, after: int, entries: Sequence[DirEntry], *, is_last: bool) -> None:
        """These are the names that follow that of a cookie: all, or at least the first."""
        if self.cookies is not None:
            return
        if after == 0:
            self._listing = []
        if self._listing is None or after != (self._listing[-1][0] if self._listing else 0):
            return
        self._listing += [(cookie, name) for cookie, name, _ in entries]
        if is_last:
            self.cookies = {name: cookie for cookie, name in self._listing}
            self.is_complete = True

    def after(self, cookie: int, limit: int) -> list[tuple[int, bytes]] | None:
        """At most `limit` of those with greater cookies, as (cookie, name); None if they are not known."""
        if self._listing is None and self.cookies is not None:
            self._listing = [(at, name) for name, at in self.cookies.items()]
        if self._listing is None:
            return None
        start = bisect.bisect_right(self._listing, cookie, key=lambda entry: entry[0])
        found = self._listing[start : start + limit]
        return found if self.cookies is not None or len(found) == limit else None

    def enter(self, name: bytes) -> None:
        """A new name, at the end of the listing."""
        self.last_cookie += 1
        if self.cookies is not None:
            self.cookies[name] = self.last_cookie
            if self._listing is not None:
                self._listing.append((self.last_cookie, name))

    def strike(self, name: bytes) -> None:
        self._listing = None
        if self.cookies is not None:
            del self.cookies[name]


class Absent(NamedTuple):
    """The answer that there is nothing of that name."""


ABSENT: Final = Absent()


class Listing(NamedTuple):
    """What the NameNode says of a directory as a whole, whose names are leased.

    `entries` are None where they are too many to be told; of all but `unleased` the attributes are leased too. With
    `is_owned` the session owns the directory, and in any case the inodes `owned` in it.
    """

    attr: Attr
    last_cookie: int
    is_owned: bool
    entries: Sequence[DirEntry] | None
    unleased: set[Ino]
    owned: Sequence[Ino]


class Cache:
    """Of one session."""

    def __init__(self, inodes_max: int, names_max: int) -> None:
        self._inodes_max = inodes_max
        self._names_max = names_max
        self._inodes: OrderedDict[Ino, Known] = OrderedDict()
        self._directories: OrderedDict[Ino, Directory] = OrderedDict()
        self._names = 0
        self._now: Token = 0
        self._asking: Counter[Token] = Counter()
        self._voided: dict[Item, Token] = {}
        self._voided_in: dict[Ino, Token] = {}
        """When some name of a directory was voided last."""
        self._clean_at = _VOIDED_KEPT
        """How many voided items there are when they are looked through again: twice as many as were left then."""
        self._all_voided: Token = 0
        self.is_limited = False
        """Whether the session is limited to a subtree: then results come with leases only while it has others."""
        self._leased_since: Token | None = None
        """Since when it has, if it has."""
        self._giving_up: Counter[Ino] = Counter()
        self._asked: Counter[Item] = Counter()
        """What we are asked to forget, and have not answered yet."""
        self._asked_in: Counter[Ino] = Counter()
        """Directories with names in `_asked`, likewise."""
        self._changing: Counter[Item] = Counter()
        """What commands of ours that are under way may touch."""
        self._hits = self._misses = self._recalled = 0
        self.on_disowned: Callable[[Ino], None] = lambda _: None
        """Called for a directory that somebody else wants."""

    # --- asking -----------------------------------------------------------------------------------------

    def ask(self) -> Token:
        """A question is being sent; `answered` ends it."""
        self._asking[self._now] += 1
        return self._now

    @contextmanager
    def asking(self) -> Iterator[Token]:
        """Around a question."""
        token = self.ask()
        try:
            yield token
        finally:
            self.answered(token)

    def answered(self, token: Token) -> None:
        take_away(self._asking, [token])
        if len(self._voided) > self._clean_at:
            oldest = min(self._asking, default=self._now)
            self._voided = {item: at for item, at in self._voided.items() if at > oldest}
            self._voided_in = {ino: at for ino, at in self._voided_in.items() if at > oldest}
            self._clean_at = max(_VOIDED_KEPT, 2 * len(self._voided))

    def is_valid(self, token: Token, item: Item) -> bool:
        """Whether an answer to what was asked then is true of this item still."""
        if token < self._all_voided or self._voided.get(item, 0) > token:
            return False
        ino, name = item
        if self._asked and (item in self._asked or (name is not None and (ino, ALL_NAMES) in self._asked)):
            return False
        return name is None or (ino not in self._giving_up and self._voided.get((ino, ALL_NAMES), 0) <= token)

    def _is_valid_whole(self, token: Token, directory: Ino) -> bool:
        """Whether no name of a directory was voided since."""
        if token < self._all_voided or directory in self._giving_up or directory in self._asked_in:
            return False
        return self._voided_in.get(directory, 0) <= token

    def begin_change(self, verb: str, args: Sequence[Any]) -> list[Item]:
        """A command of ours is being sent; `end_change` ends it. What it may touch, as far as it is known."""
        how = VERBS.get(verb, OTHER)
        items: list[Item] = [(args[0], None)] if how.changes else []
        for at in how.names:
            parent, name = args[at], args[at + 1]
            items += [(parent, None), (parent, name)]
            directory = self._directories.get(parent)
            ino = directory.names.get(name) if directory is not None else None
            if ino is not None:
                items.append((ino, None))
        self._changing.update(items)
        return items

    def end_change(self, items: Iterable[Item]) -> None:
        take_away(self._changing, items)

    # --- forgetting -------------------------------------------------------------------------------------

    def _void(self, item: Item) -> None:
        self._voided[item] = self._now
        ino, name = item
        if name is None:
            self._inodes.pop(ino, None)
            return
        self._voided_in[ino] = self._now
        directory = self._directories.get(ino)
        if directory is None:
            return
        if name == ALL_NAMES:
            self._drop(ino)
            return
        directory.is_complete = False
        directory.list_as(None)
        if name in directory.names:
            del directory.names[name]
            self._names -= 1

    def _drop(self, ino: Ino) -> None:
        directory = self._directories.pop(ino, None)
        if directory is not None:
            self._names -= len(directory.names)

    def recall(self, items: Iterable[Item]) -> None:
        """The NameNode wants these forgotten. What is owned of them is so no more, as a whole."""
        self._now += 1
        for item in items:
            self._recalled += 1
            self._disown(item[0])
            self._void(item)

    def begin_recall(self, items: Sequence[Item]) -> None:
        """Likewise; and until `end_recall` nothing is learnt of them, though the NameNode goes on to answer commands.

        So it need not ask again for what they change meanwhile.
        """
        self._asked.update(items)
        self._asked_in.update(ino for ino, name in items if name is not None)
        self.recall(items)

    def end_recall(self, items: Sequence[Item]) -> None:
        """The NameNode knows that they are forgotten, or will not be told. What was asked before this moment does not
        count: it may have been answered before that."""
        self._now += 1
        for item in items:
            self._void(item)
        take_away(self._asked, items)
        take_away(self._asked_in, (ino for ino, name in items if name is not None))

    def end_recalls(self) -> None:
        """Of all sessions that have ended."""
        self._asked.clear()
        self._asked_in.clear()

    def _disown(self, ino: Ino) -> None:
        known, directory = self._inodes.get(ino), self._directories.get(ino)
        if known is not None:
            known.is_owned = known.is_private = False
        if directory is not None and directory.is_owned:
            directory.is_owned = False
            self.on_disowned(ino)

    def give_up_unused(self, items: Iterable[Item]) -> list[Ino]:
        """Forget directories of recalled names that nobody looked into since their last recall; which these are.

        They are not worth the next one. Nothing is learnt of them until the NameNode knows (`gave_up`): what it
        answered before it heard of that is not leased any more.
        """
        found = []
        for ino in dict.fromkeys(ino for ino, name in items if name is not None):
            directory = self._directories.get(ino)
            if directory is not None and not directory.is_used:
                found.append(ino)
                self._giving_up[ino] += 1
            elif directory is not None:
                directory.is_used = False
        self.recall((ino, ALL_NAMES) for ino in found)
        return found

    def gave_up(self, directories: Sequence[Ino]) -> None:
        """The NameNode knows that these were given up, or has not been told."""
        take_away(self._giving_up, directories)
        self.recall((ino, ALL_NAMES) for ino in directories)

    def forget_all(self) -> None:
        self.void_questions()
        self._inodes.clear()
        self._directories.clear()
        self._names = 0

    def void_questions(self) -> None:
        """What is being asked was perhaps answered by a NameNode that has restarted since."""
        self._now += 1
        self._all_voided = self._now
        self._leased_since = None

    # --- learning ---------------------------------------------------------------------------------------

    def learn_attr(self, token: Token, attr: Attr) -> None:
        """An answer, under a lease."""
        if self.is_valid(token, (attr.ino, None)):
            self._keep_leased(attr)

    def _keep_leased(self, attr: Attr) -> Known:
        if self.is_limited and self._leased_since is None:
            self._now += 1
            self._leased_since = self._now
        return self._keep(attr)

    def note_owned(self, token: Token, ino: Ino) -> bool:
        """By an answer nobody else knows an inode, whose attributes were learnt from it; whether that is true still."""
        known = self._inodes.get(ino)
        if known is None or not self.is_valid(token, (ino, None)):
            return False
        known.is_owned = True
        return True

    def _keep(self, attr: Attr) -> Known:
        known = self._inodes.get(attr.ino)
        if known is None:
            known = self._inodes[attr.ino] = Known(attr)
            if len(self._inodes) > self._inodes_max:
                self._inodes.popitem(last=False)
        elif attr.version > known.attr.version:  # of one version, an older answer may lack a later access time
            known.attr = attr
        return known

    def learn_name(self, token: Token, directory: Ino, name: bytes, ino: Ino | None) -> None:
        """An answer, under a lease: what a name stands for, or that it stands for nothing."""
        if self.is_valid(token, (directory, name)):
            self._put(self._directory(directory, token), name, ino)
            self.note_miss(directory)
            self._make_room()

    def _directory(self, ino: Ino, token: Token) -> Directory:
        """What is known of a directory; of one that is not, nothing, from that moment on."""
        known = self._directories.get(ino)
        if known is None:
            known = self._directories[ino] = Directory(token)
            if len(self._directories) > self._names_max:
                self._drop(next(iter(self._directories)))
        return known

    def _put(self, directory: Directory, name: bytes, ino: Ino | None) -> None:
        if name not in directory.names:
            self._names += 1
        directory.names[name] = ino

    def _make_room(self) -> None:
        while self._names > self._names_max:
            self._drop(next(iter(self._directories)))

    def learn_page(
        self,
        token: Token,
        directory: Ino,
        after: int,
        entries: Sequence[DirEntry],
        unleased: set[Ino],
        *,
        is_last: bool,
    ) -> None:
        """The entries of a directory that follow a cookie, all if `is_last`. Their names are leased, and the attributes
        of all but `unleased`."""
        if not self._is_valid_whole(token, directory):
            return
        known = self._directory(directory, token)
        count = len(known.names)
        known.names.update([(name, attr.ino) for _, name, attr in entries])
        self._names += len(known.names) - count
        is_all_valid = token == self._now
        for _, name, attr in entries:
            ino = attr.ino
            is_leased = ino not in unleased and (is_all_valid or self.is_valid(token, (ino, None)))
            inode = self._keep_leased(attr) if is_leased else self._inodes.get(ino)
            if inode is not None:
                inode.note_place(attr, directory, name)
        known.list_more(after, entries, is_last=is_last)
        self._make_room()

    def learn_whole(self, token: Token, listing: Listing, *, is_used: bool = True) -> None:
        """A directory's listing; unless `is_used`, nobody has asked for it."""
        directory = listing.attr.ino
        if not self._is_valid_whole(token, directory) or not self.is_valid(token, (directory, None)):
            return
        is_new = directory not in self._directories
        self._keep(listing.attr)
        if listing.entries is not None:
            self.learn_page(token, directory, 0, listing.entries, listing.unleased, is_last=True)
        for ino in listing.owned:
            self.note_owned(token, ino)
        known_directory = self._directory(directory, token)
        if is_new:
            known_directory.is_used = is_used
        if listing.is_owned and not self.is_changing((directory, None)):
            known_directory.is_owned = True
            known_directory.last_cookie = listing.last_cookie

    def learn_reply(self, token: Token, verb: str, args: Sequence[Any], result: Any, touched: Sequence[Any]) -> None:
        """A command of ours that was asked at `token` has happened, and touched these items."""
        items: list[Item] = [(ino, name) for ino, name in touched]
        how = VERBS.get(verb, OTHER)
        attr = codec.attr(result) if how.attr else codec.attr(result[0]) if how.attr_first else None
        if attr is not None and (attr.ino, None) not in items:
            items.append((attr.ino, None))
        is_leased = not self.is_limited or (self._leased_since is not None and token >= self._leased_since)
        valid = {item for item in items if is_leased and self.is_valid(token, item)}
        before = self._inodes.get(attr.ino) if attr is not None else None
        complete = {ino for ino, name in items if name is not None and self._is_complete(ino)}
        if touched:  # or it made nothing: what it was to make was there
            self._count_cookies(verb, args)
        self._now += 1
        for item in items:
            self._void(item)
        if attr is not None and (attr.ino, None) in valid:
            known = self._keep(attr)
            is_new = how.has_made(attr.version, touched) and _is_file(attr)
            known.is_owned = before.is_owned if before is not None else is_new
            known.is_private = before.is_private if before is not None else is_new
            if before is not None:
                known.xattrs, known.target, known.at = before.xattrs, before.target, before.at
                known.parent = before.parent if verb != "rename" else None
                if verb in ("commit", "truncate") or (verb == "setattr" and not {"uid", "gid"}.isdisjoint(args[1])):
                    known.drop_capability()
        names = {(directory, name): ino for directory, name, ino in _names_after(verb, args, attr)}
        learnt = {at: ino for at, ino in names.items() if at in valid and self._since(at[0]) <= token}
        for (directory, name), ino in learnt.items():
            self._put(self._directories[directory], name, ino)
            inode = self._inodes.get(ino) if ino is not None else None
            if inode is not None and attr is not None and ino == attr.ino:
                inode.note_place(attr, directory, name)
        self._make_room()
        for directory in complete & self._directories.keys():
            if all(item in learnt for item in items if item[0] == directory and item[1] is not None):
                self._directories[directory].is_complete = True

    def _count_cookies(self, verb: str, args: Sequence[Any]) -> None:
        """A command has entered a name in a directory, with the next cookie there; two names, if it exchanged them."""
        makes = VERBS.get(verb, OTHER).makes
        entered = [args[makes]] if makes is not None else []
        if _is_exchange(verb, args):
            entered.append(args[0])
        for ino in entered:
            directory = self._directories.get(ino)
            if directory is not None:
                directory.last_cookie += 1

    def note_read(self, ino: Ino, atime_ns: int) -> None:
        """The NameNode knows that an inode was read, as `nodes.namenode.commands.accessed` does it."""
        known = self._inodes.get(ino)
        if known is not None and max(known.attr.atime_ns, known.attr.ctime_ns) < atime_ns:
            known.attr = known.attr._replace(atime_ns=atime_ns)

    def _since(self, directory: Ino) -> float:
        known = self._directories.get(directory)
        return math.inf if known is None else known.since

    def _is_complete(self, directory: Ino) -> bool:
        known = self._directories.get(directory)
        return known is not None and known.is_complete

    # --- answering --------------------------------------------------------------------------------------

    def inode(self, ino: Ino) -> Known | None:
        known = self._inodes.get(ino)
        if known is None or (ino, None) in self._changing:
            self._misses += 1
            return None
        self._inodes.move_to_end(ino)
        self._hits += 1
        return known

    def kept(self, ino: Ino) -> Known | None:
        """What is kept of an inode, though a command of ours may be changing it: not to be shown."""
        return self._inodes.get(ino)

    def covers(self, attr: Attr) -> bool:
        """Whether these are an inode's attributes until they are recalled."""
        known = self._inodes.get(attr.ino)
        return known is not None and known.attr.version == attr.version and (attr.ino, None) not in self._changing

    def covers_name(self, directory: Ino, name: bytes, ino: Ino | None) -> bool:
        """Whether a name stands for this, None is nothing, until it is recalled."""
        known = self._directories.get(directory)
        if known is None or (directory, name) in self._changing:
            return False
        return known.names.get(name) == ino and (name in known.names or known.is_complete)

    def covered(self, directory: Ino, entries: Iterable[DirEntry]) -> Iterator[tuple[DirEntry, bool, bool]]:
        """Entries of a directory with `covers_name` and `covers`, for who takes them all at one moment."""
        known, changing, inodes = self._directories.get(directory), self._changing, self._inodes
        names = known.names if known is not None else {}
        for entry in entries:
            _, name, attr = entry
            inode = inodes.get(attr.ino)
            covers_name = names.get(name) == attr.ino
            covers_attr = inode is not None and inode.attr.version == attr.version
            if changing:
                covers_name = covers_name and (directory, name) not in changing
                covers_attr = covers_attr and (attr.ino, None) not in changing
            yield entry, covers_name, covers_attr

    def name(self, directory: Ino, name: bytes) -> Ino | Absent | None:
        """What a name stands for; None if that is not known."""
        known = self._directories.get(directory)
        if known is None or (directory, name) in self._changing:
            self._misses += 1
            return None
        self._directories.move_to_end(directory)
        known.is_used = True
        if name not in known.names and not known.is_complete:
            self._misses += 1
            return None
        self._hits += 1
        ino = known.names.get(name)
        return ABSENT if ino is None else ino

    def wants_listing(self, directory: Ino, misses: int) -> bool:
        """Whether so many names of a directory had to be asked for that its listing is worth fetching; asks once."""
        known = self._directories.get(directory)
        if known is None or known.is_complete or known.misses < misses:
            return False
        known.misses = 0
        return True

    def note_miss(self, directory: Ino) -> None:
        """Something had to be asked for that its listing leads to."""
        known = self._directories.get(directory)
        if known is not None:
            known.misses += 1

    def note_large(self, directory: Ino, fetched: int) -> None:
        """Its listing is too large: before it is tried again so many names must have been asked for as were fetched."""
        known = self._directories.get(directory)
        if known is not None and not known.is_complete:
            known.misses = -fetched

    def entries(self, directory: Ino, after: int, limit: int) -> list[DirEntry] | None:
        """Entries with cookies above `after`; None if not all of them are known."""
        known = self._directories.get(directory)
        page = known.after(after, limit) if known is not None else None
        if known is None or page is None or (directory, None) in self._changing:
            return None
        known.is_used = True
        self._directories.move_to_end(directory)
        found = []
        for cookie, name in page:
            ino = known.names.get(name)
            inode = self._inodes.get(ino) if ino is not None else None
            if inode is None:
                return None
            found.append(DirEntry(cookie, name, inode.attr))
        self._hits += 1
        return found

    def place(self, ino: Ino) -> tuple[Ino, int] | None:
        """A directory in whose listing an inode is, and its cookie there; None where that is not known."""
        known = self._inodes.get(ino)
        if known is None or known.at is None:
            return None
        parent, name = known.at
        directory = self._directories.get(parent)
        if directory is None or directory.cookies is None or name is None or directory.names.get(name) != ino:
            return None
        return parent, directory.cookies[name]

    def following(self, directory: Ino, cookie: int, limit: int) -> Iterator[tuple[int, Attr]]:
        """Of the `limit` entries after `cookie` in a directory's listing, those that are known, with their cookies."""
        known = self._directories.get(directory)
        page = known.after(cookie, limit) if known is not None else None
        if known is None or page is None:
            return
        for at, name in page:
            inode = self._inodes.get(known.names[name] or Ino(0))
            if inode is not None:
                yield at, inode.attr

    def without_xattrs_after(self, ino: Ino, limit: int) -> Iterator[Ino]:
        """Of the `limit` entries after an inode in its directory, those known but for their extended attributes."""
        place = self.place(ino)
        if place is not None:
            for _, attr in self.following(*place, limit):
                if self._inodes[attr.ino].xattrs is None:
                    yield attr.ino

    def held(self) -> tuple[list[Ino], list[Ino]]:
        """Inodes whose attributes, and directories whose names are known."""
        return list(self._inodes), list(self._directories)

    def owned(self) -> list[Ino]:
        """What nobody else knows."""
        return [
            *(ino for ino, known in self._inodes.items() if known.is_owned),
            *(ino for ino, directory in self._directories.items() if directory.is_owned),
        ]

    # --- changing what is owned -------------------------------------------------------------------------

    def owned_directory(self, ino: Ino) -> tuple[Known, Directory] | None:
        """What is known of a directory whose names may be changed here; None if they may not."""
        directory, known = self._directories.get(ino), self._inodes.get(ino)
        if directory is None or known is None or not directory.is_owned or (ino, None) in self._changing:
            return None
        self._inodes.move_to_end(ino)
        self._directories.move_to_end(ino)
        directory.is_used = True
        return known, directory

    def shared_beside(self, directory: Ino, name: bytes, most: int) -> list[Ino]:
        """Files in a directory that others may know, as far as they are known here: from that name on, then others."""
        known = self._directories.get(directory)
        names = list(known.cookies or known.names) if known is not None and known.names.get(name) is not None else []
        if known is None or name not in names:
            return []
        start = names.index(name)
        found: list[Ino] = []
        for each in itertools.chain(names[start:], names[:start]):
            ino = known.names.get(each)
            inode = self._inodes.get(ino) if ino is not None else None
            if inode is None or inode.is_owned or stat.S_ISDIR(inode.attr.mode):
                continue
            found.append(inode.attr.ino)
            if len(found) == most:
                break
        return found

    def lists(self, ino: Ino) -> bool:
        """Whether all entries of a directory are known."""
        directory = self._directories.get(ino)
        return directory is not None and directory.is_complete and directory.cookies is not None

    def lists_first(self, ino: Ino) -> bool:
        """Whether the first entries of a directory are known, or all."""
        directory = self._directories.get(ino)
        return directory is not None and directory.lists_first

    def owns_names(self, ino: Ino) -> bool:
        """Whether nobody else knows a directory."""
        directory = self._directories.get(ino)
        return directory is not None and directory.is_owned

    def owned_inode(self, ino: Ino) -> Known | None:
        """What is known of an inode that is no directory and may be changed here; None if it may not."""
        known = self._inodes.get(ino)
        if known is None or not known.is_owned or (ino, None) in self._changing:
            return None
        return known

    def is_changing(self, item: Item) -> bool:
        """Whether a command of ours that is under way may touch it."""
        return item in self._changing

    def changed(self, *items: Item) -> None:
        """These are being changed here: answers to what was asked before do not count for them."""
        if self._asking:
            self._now += 1
            for item in items:
                self._voided[item] = self._now
                if item[1] is not None:
                    self._voided_in[item[0]] = self._now

    def put_inode(self, attr: Attr) -> Known:
        """An inode that was made here."""
        known = self._keep(attr)
        known.is_owned = known.is_private = True
        return known

    def put_directory(self, ino: Ino) -> None:
        """Likewise an empty directory's names."""
        directory = self._directory(ino, self._now)
        directory.is_owned = directory.is_complete = True
        directory.last_cookie = FIRST_COOKIE
        directory.list_as({})

    def put_name(self, directory: Directory, name: bytes, ino: Ino) -> None:
        directory.enter(name)
        self._put(directory, name, ino)
        self._make_room()

    def take_name(self, directory: Directory, name: bytes) -> None:
        directory.strike(name)
        if directory.is_complete:
            del directory.names[name]
            self._names -= 1
        else:
            directory.names[name] = None

    def drop(self, ino: Ino) -> None:
        """The inode is gone."""
        self._inodes.pop(ino, None)
        self._drop(ino)

    def statistics(self) -> dict[str, int]:
        return {
            "inodes": len(self._inodes),
            "names": self._names,
            "directories": len(self._directories),
            "hits": self._hits,
            "misses": self._misses,
            "recalled": self._recalled,
        }


def _names_after(verb: str, args: Sequence[Any], attr: Attr | None) -> list[tuple[Ino, bytes, Ino | None]]:
    """The names that a command made or took away, and what they stand for now, as far as its result tells."""
    if attr is None or _is_exchange(verb, args):  # which tells of one of the two only
        return []
    how = VERBS.get(verb, OTHER)
    changed: list[tuple[Ino, bytes, Ino | None]] = []
    if how.takes is not None:
        changed.append((args[how.takes], args[how.takes + 1], None))
    if how.makes is not None:
        changed.append((args[how.makes], args[how.makes + 1], attr.ino))
    return changed


def _is_file(attr: Attr) -> bool:
    """Whether a session owns it as soon as it makes it: directories it has to ask for, and links never change."""
    return not stat.S_ISDIR(attr.mode) and not stat.S_ISLNK(attr.mode)


def _is_exchange(verb: str, args: Sequence[Any]) -> bool:
    return verb == "rename" and len(args) > 4 and bool(args[4] & RENAME_EXCHANGE)
