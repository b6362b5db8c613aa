"""Who caches what, so that nobody is shown what has changed: read leases, their recall, and what is in doubt.

A client that caches (a mount) may answer from its memory, and let its kernel answer, what it has a lease on:

    (ino, None)        an inode's attributes, and all else that its `version` covers: extents, extended attributes
    (directory, name)  what a directory has under a name, or that it has nothing; one lease on the directory's entries
                       covers all its names

An `Item` is one of these. A lease is given with the answer to a query (`cover_*`), or with the result of a command.
Before a change happens, all others who hold leases on what it touches are asked to forget those items, by an event,
and the change waits until they have said so. The order of these is what coherence rests on:

    apply       the command is applied within the open transaction, which tells exactly what it touches
    conflicts   somebody else may know an item: the command is undone, everybody is asked, the command waits (`Change`);
                nobody gets a lease on its items meanwhile
    commit      nobody else knew, or all have forgotten: until the disk has it, nobody gets a lease on its items
    answer      who sent the command knows now

A command that waits is seldom alone: those after it in its batch are about the next names of the directory. So what
they will touch, as far as it can be seen, is asked for in the same moment (`begin`, with what is waited for), and one
answer of a client clears the way for all. That is a guess, and nothing more: each command still asks for itself, in its
turn, whether anybody knows what it touches.

Who sent it may show the old until the answer arrives, and others could have seen the new by then. So its items are in
**doubt** until the client acknowledges the answer: a query of somebody else for one of them has the client forget it
first, and then answers.

A session can also **own** an inode: then nobody else has a lease, and what it has written may be in its memory only. Of
a directory it owns all names as well: it makes, renames and removes what is in it by itself, and sends the commands
afterwards, in their order (`dfs.client.stream`). It owns what it has just made, and what it asked for (`own`); with a
directory all that is in it and nobody else knows (`own_unknown`). To everybody else all of an owned inode is in doubt:
a query has the owner send and commit what it has and give up the inode, and is then asked again; a command of somebody
else conflicts with the owner's lease, and waits for the same. So a command on what its session owns never waits for
anybody, and those that come in order cannot be kept up by one of them.

Others may change something all the time, and yet nobody waits for them for ever. Who asks waits for what they had been
asked by then: whoever owns the inode again has given it up since the question, and what he does now is after it, or at
the same time. And a session that changes what it is asked to forget, as it may have to before it can answer, learns
nothing of that from the replies (`drops_recalled`, which clients of an older release do not say), and so is not asked
for it once more.

A session that is **limited to a subtree** may know only what is beneath a directory, and when another one is moved that
changes for all beneath it, without a touch. So with any lease it holds one on `SHAPE`, which stands for which
directories are beneath which. What moves a directory out of a subtree changes that (`Transaction.moving`), and a
session that is asked to forget it forgets everything. While it is asked, or such a change is on its way, it is given
nothing with answers to queries; and once it has answered, nothing with the results of its commands either: it learns
nothing from these between such a recall and the next answer to a query that comes with a lease. With that it gets the
one on `SHAPE`, and for that those have been heard who own a directory on the way to the subtree: they rename by
themselves only what nobody else ever looked at.

A client that has not forgotten within the session time-out loses its session: `overdue` says which. By then it has
stopped trusting its leases by itself. They end when no command of it is applied any more (`nodes.namenode.sessions`).

**After a restart** nothing of this is known. Sessions that cache tell what they hold (`reclaim`), and no query or
command of a client is answered before all have, or have ended (`reclaimed`): their caches stay, and stay true.

Memory is bounded: of one session by LEASES_MAX, beyond which the oldest are recalled, in all by that and SESSIONS_MAX.
Leases on what was removed end by themselves (`removed`).
What a session tells after a restart is bounded by LEASES_CLAIMED_MAX: it may have been about to forget some of it.

Invariants: what a client may show is covered by a lease here, or in a `Change` that still waits for it, or has the
client's trust run out; while an item is in `_changes` or `_applying` no lease on it is given, but to who changes it.
What was asked for ahead is in `_changes` until its batch is done, so what others have forgotten they do not learn anew
before its command has its turn.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import trio

from dfs import errors, limits
from dfs.counts import take_away
from dfs.types import ALL_NAMES, SHAPE, Ino, Item, SessionId

RECALL: Final = "recall"
"""The kind of event whose payload are the items to forget."""
_RECALLED_AT_ONCE: Final = 4096
"""Of the oldest, when a session has too many."""


class _Recall(NamedTuple):
    """One event on its way to a session."""

    items: Sequence[Item]
    sent_at: float


class _Cacher:
    """A session that caches: what it holds (`attrs`, `entries`: in the order they were given), what it is asked.

    `owns_directories`: it can do so. `is_limited`: to a subtree. `drops_recalled`: of what it is asked to forget it
    learns nothing from replies before it has answered. `owned` are those of `attrs` that it owns, `gone` those that it
    has removed, and by which command. `asked` has the items of all `recalls`, and how often; `asked_in`
    the directories of those with names, likewise. `making_room`: the numbers of those that it got because it holds too
    much.
    """

    __slots__ = (
        "asked",
        "asked_in",
        "attrs",
        "drops_recalled",
        "entries",
        "gone",
        "is_limited",
        "making_room",
        "owned",
        "owns_directories",
        "recalls",
    )

    def __init__(self, owns_directories: bool, drops_recalled: bool, is_limited: bool) -> None:
        self.owns_directories = owns_directories
        self.drops_recalled = drops_recalled
        self.is_limited = is_limited
        self.attrs: dict[Ino, None] = {}
        self.entries: dict[Ino, None] = {}
        self.owned: set[Ino] = set()
        self.gone: dict[Ino, int] = {}
        self.recalls: dict[int, _Recall] = {}
        self.asked: Counter[Item] = Counter()
        self.asked_in: Counter[Ino] = Counter()
        self.making_room: set[int] = set()

    def ask(self, number: int, recall: _Recall) -> None:
        self.recalls[number] = recall
        for item in recall.items:
            self.asked[item] += 1
            if item[1] is not None:
                self.asked_in[item[0]] += 1

    def is_asked(self, items: Iterable[Item]) -> bool:
        """Whether it is asked to forget any of these; all names of a directory are meant by any of them."""
        return any(item in self.asked or (item[1] == ALL_NAMES and item[0] in self.asked_in) for item in items)

    def answer(self, number: int) -> Sequence[Item]:
        """The items of a recall that is answered; none if it was before."""
        recall = self.recalls.pop(number, None)
        self.making_room.discard(number)
        if recall is not None:
            take_away(self.asked, recall.items)
            take_away(self.asked_in, (ino for ino, name in recall.items if name is not None))
        return recall.items if recall else ()


class _Change:
    """A change of an item that waits for sessions to forget it.

    `users`: commands that wait, or are about to apply; all of `author`, or of several where that is None.
    """

    __slots__ = ("author", "users", "waiting")

    def __init__(self, author: SessionId, waiting: Iterable[SessionId]) -> None:
        self.author: SessionId | None = author
        self.users = 0
        self.waiting = set(waiting)


class Leases:
    """All leases. `push` sends an event to a session and returns its number; `forgotten` is called with items that a
    session has forgotten and some change waits for.

    Everything is synchronous but the waits, so each method happens at one moment.
    """

    def __init__(self) -> None:
        self.push: Callable[[SessionId, str, Any], int] = lambda *_: 0
        self._cachers: dict[SessionId, _Cacher] = {}
        self._attrs: dict[Ino, set[SessionId]] = {}
        self._entries: dict[Ino, set[SessionId]] = {}
        self._changes: dict[Item, _Change] = {}
        self._changing: dict[Ino, int] = {}
        """Directories with names in `_changes`, and how many."""
        self._applying: set[Item] = set()
        self._applying_in: set[Ino] = set()
        """Directories with names in `_applying`."""
        self._doubts: dict[Item, tuple[SessionId, int]] = {}
        """Who may show the old, until it acknowledges which command."""
        self._owners: dict[Ino, SessionId] = {}
        """Each has a lease on the inode, and has it in `owned`."""
        self._reclaiming: dict[SessionId, float] = {}
        """Since when each has been heard; infinity before that."""
        self._moved = trio.lowlevel.ParkingLot()
        """Who waits for others looks again whether he still has to."""
        self.forgotten: Callable[[Iterable[Item]], None] = lambda _: None
        self._recalls = 0
        self._conflicts = 0

    # --- sessions ---------------------------------------------------------------------------------------

    def join(
        self,
        session: SessionId,
        *,
        owns_directories: bool = False,
        drops_recalled: bool = False,
        is_limited: bool = False,
        again: bool = False,
    ) -> None:
        """A session that caches; `again`: it did so before a restart, and has to say what it holds."""
        cacher = self._cachers[session] = _Cacher(owns_directories, drops_recalled, is_limited)
        if again:
            self._reclaiming[session] = math.inf
            self._may_hold(session, cacher)

    def leave(self, session: SessionId) -> None:
        """The session has ended: it trusts nothing any more, and nothing that it has sent happens after this."""
        cacher = self._cachers.pop(session, None)
        if cacher is None:
            return
        moved = self._forget_all(session, cacher)
        self._reclaiming.pop(session, None)
        self._moved.unpark_all()
        self.forgotten(moved)

    def _forget_all(self, session: SessionId, cacher: _Cacher) -> list[Item]:
        """It knows nothing any more; those items of which others wait for that."""
        for ino in cacher.attrs:
            _strike(self._attrs, ino, session)
        for ino in cacher.entries:
            _strike(self._entries, ino, session)
        for ino in cacher.owned:
            del self._owners[ino]
        for known in (cacher.attrs, cacher.entries, cacher.owned, cacher.gone):
            known.clear()
        moved = [item for item, change in self._changes.items() if session in change.waiting]
        for item in moved:
            self._changes[item].waiting.discard(session)
        for item in [item for item, (who, _) in self._doubts.items() if who == session]:
            del self._doubts[item]
        return moved

    def is_asked_to_forget(self, session: SessionId) -> bool:
        """Whether it is asked to, and has not answered: others may wait for it."""
        cacher = self._cachers.get(session)
        return cacher is not None and bool(cacher.recalls)

    def of(self, session: SessionId) -> dict[str, Any]:
        """What it may hold, how much it was asked to forget and has not, and for how long it was: seconds."""
        cacher = self._cachers.get(session)
        if cacher is None:
            return {"caches": False, "leases": 0, "owned": 0, "asked": 0, "asked_s": 0.0}
        since = min((recall.sent_at for recall in cacher.recalls.values()), default=None)
        return {
            "caches": True,
            "leases": len(cacher.attrs) + len(cacher.entries),
            "owned": len(cacher.owned),
            "asked": len(cacher.recalls),
            "asked_s": 0.0 if since is None else round(trio.current_time() - since, 3),
        }

    def overdue(self, before: float) -> list[SessionId]:
        """Sessions that were asked before this moment, and have not forgotten, or not told what they hold."""
        return [
            session
            for session, cacher in self._cachers.items()
            if any(recall.sent_at < before for recall in cacher.recalls.values())
            or self._reclaiming.get(session, math.inf) < before
        ]

    def forgive(self, late_s: float) -> None:
        """This process was itself away for so long, but for what was just now."""
        now = trio.current_time()
        for cacher in self._cachers.values():
            for number, recall in cacher.recalls.items():
                cacher.recalls[number] = recall._replace(sent_at=min(now, recall.sent_at + late_s))
        for session, heard_at in self._reclaiming.items():
            if heard_at != math.inf:
                self._reclaiming[session] = min(now, heard_at + late_s)

    # --- giving -----------------------------------------------------------------------------------------

    def lacks_shape(self, session: SessionId) -> bool:
        """Whether it gets a lease on `SHAPE` with the next one."""
        cacher = self._cachers.get(session)
        return cacher is not None and cacher.is_limited and SHAPE[0] not in cacher.attrs

    def _may_hold(self, session: SessionId, cacher: _Cacher) -> bool:
        """Whether a session may be given leases with the answer to a query; then it holds what it needs with them."""
        if not cacher.is_limited:
            return True
        if SHAPE in cacher.asked or SHAPE in self._changes or SHAPE in self._applying:
            return False
        self._give(session, self._attrs, cacher.attrs, SHAPE[0])
        return True

    def cover_attr(self, session: SessionId, ino: Ino) -> bool:
        """Give a lease on an inode as it is committed; whether that may be now."""
        item = (ino, None)
        cacher = self._cachers.get(session)
        if cacher is None or item in cacher.asked or item in self._changes or item in self._applying:
            return False
        if self.is_owned_by_another(session, ino) or not self._may_hold(session, cacher):
            return False
        self._give(session, self._attrs, cacher.attrs, ino)
        return True

    def cover_name(self, session: SessionId, directory: Ino, name: bytes) -> bool:
        """Likewise on what the directory has under `name`."""
        item = (directory, name)
        cacher = self._cachers.get(session)
        if cacher is None or item in self._changes or item in self._applying:
            return False
        everything = (directory, ALL_NAMES)
        if item in cacher.asked or everything in cacher.asked or everything in self._changes:
            return False
        if self.is_owned_by_another(session, directory) or not self._may_hold(session, cacher):
            return False
        self._give(session, self._entries, cacher.entries, directory)
        return True

    def cover_entries(self, session: SessionId, directory: Ino) -> bool:
        """Likewise on all its names at once."""
        cacher = self._cachers.get(session)
        if cacher is None or directory in cacher.asked_in or self.is_owned_by_another(session, directory):
            return False
        if directory in self._changing or directory in self._applying_in or not self._may_hold(session, cacher):
            return False
        self._give(session, self._entries, cacher.entries, directory)
        return True

    def _give(self, session: SessionId, holders: dict[Ino, set[SessionId]], own: dict[Ino, None], ino: Ino) -> None:
        if ino in own:
            return
        own[ino] = None
        found = holders.get(ino)
        if found is None:
            holders[ino] = {session}
        else:
            found.add(session)
        if len(own) > limits.LEASES_MAX:
            self._recall_oldest(session)

    def _recall_oldest(self, session: SessionId) -> None:
        """Of attributes or of entries; no more while they are on their way."""
        cacher = self._cachers[session]
        if cacher.making_room:
            return
        is_attrs = len(cacher.attrs) > limits.LEASES_MAX
        name = None if is_attrs else ALL_NAMES
        inos = itertools.islice(cacher.attrs if is_attrs else cacher.entries, _RECALLED_AT_ONCE)
        oldest = [(ino, name) for ino in inos if ino != SHAPE[0]]
        cacher.making_room.update(self._ask(session, self._with_owned(session, oldest)))

    # --- changing ---------------------------------------------------------------------------------------

    def conflicts(self, author: SessionId, items: Iterable[Item]) -> bool:
        """Whether somebody other than `author` may know one of these."""
        return self.conflict(author, items) is not None

    def conflict(self, author: SessionId, items: Iterable[Item]) -> Item | None:
        """The first of these that somebody other than `author` may know."""
        for item in items:
            change = self._changes.get(item)
            if change is not None:
                if change.waiting and (len(change.waiting) > 1 or author not in change.waiting):
                    return item
                continue
            holders = (self._attrs if item[1] is None else self._entries).get(item[0])
            if holders and (len(holders) > 1 or author not in holders):
                return item
        return None

    def count_holders(self, items: Iterable[Item]) -> int:
        """How many sessions may know the one of these that most know."""
        return max(
            (len((self._attrs if name is None else self._entries).get(ino, ())) for ino, name in items), default=0
        )

    def begin(self, author: SessionId, items: Sequence[Item]) -> None:
        """A command that touches these has to wait, or will have its turn soon: have the others forget them, each by
        one event. An item may be there several times. Undone by `finish`."""
        self._conflicts += 1
        asking: dict[SessionId, dict[Item, None]] = {}
        for item in items:
            change = self._changes.get(item)
            if change is None:
                holders = (self._attrs if item[1] is None else self._entries).get(item[0], ())
                change = self._changes[item] = _Change(author, holders)
                if item[1] is not None:
                    self._changing[item[0]] = self._changing.get(item[0], 0) + 1
            change.users += 1
            change.author = author if change.author == author else None
            for session in change.waiting:
                if session != author and not self._is_asked(session, item):
                    asking.setdefault(session, {})[item] = None
        for session, forget in asking.items():
            self._ask(session, self._with_owned(session, list(forget)))

    def _with_owned(self, session: SessionId, items: Sequence[Item]) -> list[Item]:
        """What a session is asked to forget, and of an inode that it owns the rest as well."""
        found = dict.fromkeys(items)
        for ino in {ino for ino, _ in items}:
            if self._owners.get(ino) == session:
                found[ino, None] = None
                if ino in self._cachers[session].entries:
                    found[ino, ALL_NAMES] = None
        return list(found)

    def finish(self, items: Iterable[Item]) -> None:
        """What `begin` was told of has happened, or never will."""
        has_ended = False
        for item in items:
            change = self._changes[item]
            change.users -= 1
            if not change.users:
                del self._changes[item]
                has_ended = True
                if item[1] is not None:
                    self._changing[item[0]] -= 1
                    if not self._changing[item[0]]:
                        del self._changing[item[0]]
        if has_ended:
            self._moved.unpark_all()  # who wants a lease on one of them waits for that

    def applied(
        self,
        author: SessionId,
        seq: int,
        items: Sequence[Item],
        result: Ino | None,
        *,
        is_new: bool = False,
        is_directory: bool = False,
        is_awaited: bool = True,
    ) -> None:
        """A command is applied, and will be committed. `result`: the inode whose attributes its answer has.

        `is_awaited`: its author shows what was before it until he has the reply; else he has answered it by himself.
        `is_new`: the command has made it, and its author owns it, if he can.
        """
        self._applying.update(items)
        self._applying_in.update(item[0] for item in items if item[1] is not None)
        cacher = self._cachers.get(author)
        if cacher is None:
            return
        for item in items:
            if item[0] in (cacher.attrs if item[1] is None else cacher.entries):
                if is_awaited:
                    self._doubts[item] = (author, seq)
                self._join_change(author, item)
        if result is not None and not self.lacks_shape(author):
            self._give(author, self._attrs, cacher.attrs, result)
            self._join_change(author, (result, None))
            if is_new and (cacher.owns_directories or not is_directory):
                self._make_owner(author, cacher, result)
                if is_directory:
                    self._give(author, self._entries, cacher.entries, result)

    def _join_change(self, author: SessionId, item: Item) -> None:
        """Others wait to change what the author is about to learn: it is to forget that as well."""
        cacher = self._cachers[author]
        change = self._changes.get(item)
        if change is not None:
            change.waiting.add(author)  # for others who may come; what it changes next itself it need not forget
        if cacher.drops_recalled and item in cacher.asked:
            return  # else who changes something all the time would always be asked to forget it
        if (change is not None and change.author != author) or item in cacher.asked:
            self._ask(author, [item])  # an answer on its way must not undo what follows

    def committed(self) -> None:
        """What was applied is durable, or never will be."""
        if self._applying:
            self._applying.clear()
            self._applying_in.clear()
            self._moved.unpark_all()

    def removed(self, author: SessionId, seq: int, inos: Iterable[Ino]) -> None:
        """A command that is committed has removed inodes, and nobody changes what is gone: leases on it end.

        Its author may show it until he acknowledges the command.
        """
        for ino in inos:
            for session in [session for session in self._entries.get(ino, ()) if session != author]:
                self._take(session, self._cachers[session], [(ino, ALL_NAMES)])
            cacher = self._cachers.get(author)
            if cacher is not None and (ino in cacher.attrs or ino in cacher.entries):
                cacher.gone[ino] = seq

    # --- doubt ------------------------------------------------------------------------------------------

    def acknowledge(self, session: SessionId, acked: int) -> None:
        """The session knows the results of all its commands below `acked`."""
        cacher = self._cachers.get(session)
        if cacher is None:
            return
        for item in [item for item, (who, seq) in self._doubts.items() if who == session and seq < acked]:
            del self._doubts[item]
        for ino, _ in list(itertools.takewhile(lambda removal: removal[1] < acked, cacher.gone.items())):
            self._take(session, cacher, _whole(ino, ino in cacher.entries))

    def in_doubt(self, reader: SessionId, items: Iterable[Item]) -> list[Item]:
        """Those of which somebody other than the reader may show what they were before."""
        if not self._doubts and not self._owners:
            return []
        return [item for item in items if self._doubtful(item) not in (None, reader)]

    def _doubtful(self, item: Item) -> SessionId | None:
        """Who may know better of an item."""
        owner = self._owners.get(item[0])
        if owner is not None:
            return owner
        return self._doubts[item][0] if item in self._doubts else None

    def names_in_doubt(self, directory: Ino) -> list[Item]:
        """All names of a directory that somebody may show as they were."""
        if directory in self._owners:
            return [(directory, ALL_NAMES)]
        return [item for item in self._doubts if item[0] == directory and item[1] is not None]

    def unacknowledged(self, reader: SessionId, items: Iterable[Item]) -> list[Item]:
        """Those in doubt since a command has changed them, or may have: not those that somebody owns undisturbed."""
        return [
            item for item in self.in_doubt(reader, items) if item in self._doubts or not self._is_undisturbed(item[0])
        ]

    def _is_undisturbed(self, ino: Ino) -> bool:
        """Whether somebody owns an inode, and is not asked to give it up."""
        owner = self._owners.get(ino)
        return owner is not None and not self._cachers[owner].is_asked(_whole(ino, is_directory=True))

    def names_unacknowledged(self, reader: SessionId, directory: Ino) -> list[Item]:
        """As `unacknowledged`, of the names of a directory."""
        found = [item for item in self._doubts if item[0] == directory and item[1] is not None]
        return self.unacknowledged(reader, [*found, (directory, ALL_NAMES)])

    async def clear_doubt(self, items: Sequence[Item]) -> None:
        """Return when those who may know better of these have been heard. Bounded by the session time-out.

        They may know better again by then, or be asked for something else: that is another question.
        """
        doubtful = list(self._ask_who_knows_better(items).items())
        recalls = self._recalls_about(doubtful)
        while doubtful:
            item, who = doubtful[-1]
            if self._doubtful(item) == who and not recalls[who].isdisjoint(self._cachers[who].recalls):
                await self._moved.park()
            else:
                doubtful.pop()

    def _recalls_about(self, doubtful: Iterable[tuple[Item, SessionId]]) -> dict[SessionId, set[int]]:
        """The numbers of those that sessions have not answered, and that are about what each knows better."""
        wanted: dict[SessionId, set[Item]] = {}
        for item, who in doubtful:
            wanted.setdefault(who, set()).update([item, *_whole(item[0], is_directory=True)])
        return {
            who: {number for number, recall in self._cachers[who].recalls.items() if not about.isdisjoint(recall.items)}
            for who, about in wanted.items()
        }

    def _ask_who_knows_better(self, items: Sequence[Item]) -> dict[Item, SessionId]:
        """Have those forget these items who know better of them; who that is, for each that somebody does."""
        asking: dict[SessionId, list[Item]] = {}
        doubtful: dict[Item, SessionId] = {}
        for item in items:
            session = self._doubtful(item)
            if session is not None:
                doubtful[item] = session
                if not self._is_asked(session, item):
                    asking.setdefault(session, []).append(item)
        for session, forget in asking.items():
            self._ask(session, self._with_owned(session, forget))
        return doubtful

    # --- owning -----------------------------------------------------------------------------------------

    async def own(self, session: SessionId, ino: Ino, *, is_directory: bool = False) -> bool:
        """Have a session own an inode, when nobody else knows it; False if it cannot, or is asked to forget it.

        It need not wait for what it is asked itself: its answer may have to wait for who wants to own the inode there.
        Bounded by the session time-out.
        """
        items = _whole(ino, is_directory)
        while True:
            cacher = self._cachers.get(session)
            if cacher is None or (is_directory and not cacher.owns_directories) or cacher.is_asked(items):
                return False
            if self.conflicts(session, items):
                self.begin(session, items)
                try:
                    await self._until_free(session, cacher, items)
                finally:
                    self.finish(items)
            elif self._is_moving(cacher, ino, is_directory):
                await self._moved.park()
            else:
                return self.own_unknown(session, ino, is_directory=is_directory)

    async def own_all(self, session: SessionId, inos: Sequence[Ino]) -> list[Ino]:
        """Have a session own inodes of files, but those that others change; those that it owns then.

        Who knows some is asked for all of them at once. For the first one this waits as `own` does, and not much longer
        for the others.
        """
        cacher = self._cachers.get(session)
        items: list[Item] = [(ino, None) for ino in inos]
        if cacher is not None and self.conflicts(session, items):
            self.begin(session, items)
            try:
                await self._until_free(session, cacher, items[:1])
                with trio.move_on_after(limits.OWN_OTHERS_S):
                    await self._until_free(session, cacher, items)
            finally:
                self.finish(items)
        return [ino for ino in inos if self.own_unknown(session, ino)]

    async def _until_free(self, session: SessionId, cacher: _Cacher, items: Sequence[Item]) -> None:
        """Until nobody else knows these, or the session is asked to forget one itself."""
        while self.conflicts(session, items) and not cacher.is_asked(items):
            await self._moved.park()

    def _is_moving(self, cacher: _Cacher, ino: Ino, is_directory: bool) -> bool:
        """Whether an inode, or a directory's names, are being forgotten or changed."""
        item = (ino, None)
        if item in self._changes or item in self._applying or cacher.is_asked(_whole(ino, is_directory)):
            return True
        return is_directory and (ino in self._changing or ino in self._applying_in)

    def own_unknown(self, session: SessionId, ino: Ino, *, is_directory: bool = False) -> bool:
        """Have it own an inode if nobody else knows it at this moment; whether it does."""
        cacher = self._cachers.get(session)
        if cacher is None or (is_directory and not cacher.owns_directories):
            return False
        if self._is_moving(cacher, ino, is_directory) or self.conflicts(session, _whole(ino, is_directory)):
            return False
        if self.lacks_shape(session) or not self._may_hold(session, cacher):
            return False
        self._give(session, self._attrs, cacher.attrs, ino)
        if is_directory:
            self._give(session, self._entries, cacher.entries, ino)
        self._make_owner(session, cacher, ino)
        return True

    def _make_owner(self, session: SessionId, cacher: _Cacher, ino: Ino) -> None:
        self._disown(ino)  # what a transaction made that did not happen has a number that is given again
        self._owners[ino] = session
        cacher.owned.add(ino)

    def _disown(self, ino: Ino) -> None:
        owner = self._owners.pop(ino, None)
        if owner is not None:
            self._cachers[owner].owned.discard(ino)

    def give_up(self, session: SessionId, ino: Ino) -> None:
        """It was made the owner of an inode, and is not told so."""
        cacher = self._cachers.get(session)
        if cacher is not None:
            self._take(session, cacher, _whole(ino, is_directory=True))

    def is_owner(self, session: SessionId, ino: Ino) -> bool:
        return self._owners.get(ino) == session

    def is_owned_by_another(self, session: SessionId, ino: Ino) -> bool:
        return self._owners.get(ino, session) != session

    def owned(self) -> list[Item]:
        return [(ino, None) for ino in self._owners]

    def recall_owned(self) -> None:
        """Have all that is owned given up. Nobody waits for it."""
        self._ask_who_knows_better(self.owned())

    # --- recalls ----------------------------------------------------------------------------------------

    def _is_asked(self, session: SessionId, item: Item) -> bool:
        return item in self._cachers[session].asked

    def _ask(self, session: SessionId, items: Sequence[Item]) -> list[int]:
        """Have a session forget these; the numbers of the recalls that say so."""
        numbers = []
        for start in range(0, len(items), limits.RECALL_MAX_ITEMS):
            part = items[start : start + limits.RECALL_MAX_ITEMS]
            self._recalls += 1
            number = self.push(session, RECALL, part) or -self._recalls  # of a session that hears nothing any more
            self._cachers[session].ask(number, _Recall(part, trio.current_time()))
            numbers.append(number)
        self._moved.unpark_all()  # it may be about to own one of these
        return numbers

    def tell(self, author: SessionId, inos: Iterable[Ino]) -> None:
        """Inodes have changed in a way for which nobody waited: others who have leases on them hear of it."""
        asking: dict[SessionId, list[Item]] = {}
        for ino in inos:
            for session in self._attrs.get(ino, ()):
                if session != author and not self._is_asked(session, (ino, None)):
                    asking.setdefault(session, []).append((ino, None))
        for session, items in asking.items():
            self._ask(session, items)

    def forgot(self, session: SessionId, number: int, entries: Iterable[Ino]) -> None:
        """The session has forgotten what a recall asked it to; and, by itself, all entries of some directories."""
        cacher = self._cachers.get(session)
        if cacher is None:
            return
        moved: list[Item] = [(ino, ALL_NAMES) for ino in entries]
        for item in moved:
            self._forget(session, cacher, item)
        for item in cacher.answer(number):
            if item == SHAPE and item not in cacher.asked:
                moved += self._forget_all(session, cacher)
            elif item not in cacher.asked:
                self._forget(session, cacher, item)
                moved.append(item)
        self._moved.unpark_all()
        self.forgotten(moved)

    def _take(self, session: SessionId, cacher: _Cacher, items: Sequence[Item]) -> None:
        """A session's leases on these end without a word of it: what waits for that goes on."""
        for item in items:
            self._forget(session, cacher, item)
        self._moved.unpark_all()
        self.forgotten(items)

    def _forget(self, session: SessionId, cacher: _Cacher, item: Item) -> None:
        ino, name = item
        if name is None:
            cacher.attrs.pop(ino, None)
            cacher.gone.pop(ino, None)
            _strike(self._attrs, ino, session)
            if self._owners.get(ino) == session:
                self._disown(ino)
        elif name == ALL_NAMES:
            cacher.entries.pop(ino, None)
            _strike(self._entries, ino, session)
            for known in [known for known, (who, _) in self._doubts.items() if who == session and known[0] == ino]:
                if known[1] is not None:
                    del self._doubts[known]
        change = self._changes.get(item)
        if change is not None:
            change.waiting.discard(session)
        if self._doubts.get(item, (0, 0))[0] == session:
            del self._doubts[item]

    # --- after a restart --------------------------------------------------------------------------------

    def reclaim(
        self, session: SessionId, attrs: Sequence[Ino], entries: Sequence[Ino], owned: Sequence[Ino], *, last: bool
    ) -> None:
        """Some of what a session holds since before the restart; with the `last` of it, it has told all.

        `owned` are inodes of which it has something that is not committed; those that another one has said to own it
        holds as well, and does not own. Raises `InvalidArgument` if it is more than a session can have held.
        """
        if session not in self._reclaiming:
            return
        cacher = self._cachers[session]
        most = limits.LEASES_CLAIMED_MAX
        if len(cacher.attrs) + len(attrs) + len(owned) > most or len(cacher.entries) + len(entries) > most:
            raise errors.InvalidArgument(f"session {session} says that it has held more than {most} leases")
        for ino in attrs:
            self._give(session, self._attrs, cacher.attrs, ino)
        for ino in entries:
            self._give(session, self._entries, cacher.entries, ino)
        for ino in owned:
            self._give(session, self._attrs, cacher.attrs, ino)
            if ino not in self._owners:
                self._make_owner(session, cacher, ino)
        if last:
            self._reclaiming.pop(session)
            self._moved.unpark_all()

    def heard(self, session: SessionId) -> None:
        """It is there, and so can say what it holds."""
        if self._reclaiming.get(session) == math.inf:
            self._reclaiming[session] = trio.current_time()

    def owns_directories(self, session: SessionId) -> bool:
        """Whether it can."""
        cacher = self._cachers.get(session)
        return cacher is not None and cacher.owns_directories

    def is_claiming(self, session: SessionId) -> bool:
        """Whether it has not told yet all that it holds."""
        return session in self._reclaiming

    @property
    def is_reclaiming(self) -> bool:
        return bool(self._reclaiming)

    async def reclaimed(self) -> None:
        """Return when all that was held before the restart is known.

        Bounded by twice the session time-out: who is not heard, or has not told all so long after he was, is ended.
        """
        while self._reclaiming:
            await self._moved.park()

    def statistics(self) -> dict[str, int]:
        return {
            "caching_sessions": len(self._cachers),
            "leases": sum(len(cacher.attrs) + len(cacher.entries) for cacher in self._cachers.values()),
            "recalls": self._recalls,
            "conflicts": self._conflicts,
            "in_doubt": len(self._doubts),
            "owned": len(self._owners),
        }


def _whole(ino: Ino, is_directory: bool) -> list[Item]:
    """All that can be known of an inode."""
    return [(ino, None), *([(ino, ALL_NAMES)] if is_directory else [])]


def _strike(holders: dict[Ino, set[SessionId]], ino: Ino, session: SessionId) -> None:
    found = holders.get(ino)
    if found is not None:
        found.discard(session)
        if not found:
            del holders[ino]
