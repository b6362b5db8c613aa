"""All open files of one client: opening and holding them, writing back what is due, bounds of memory.

**Holding.** What is open must outlive its last name. Where the inode is leased that needs no word with the NameNode:
before anybody removes the name the lease is recalled, and before that is answered the inode is held (`_recall`); what
is not leased is held when it is opened. One hold serves all users of an inode.

**Writing back.** What has been dirty for WRITE_BACK_AFTER_S leaves (`write_back_when_due`); what small files have in
memory leaves together, in one append and one batch of commands. Where all together have more than can leave in time
(`throttle`) writers wait. A file that nobody has open any more lingers until its bytes have left.

**Given to the kernel** (`give`), which then has no need to ask for it, is what a file holds that nobody has open: small
ones that are fetched ahead, and of what was just written the pages that were not written whole, which the kernel does
not keep of itself. While a file is open the kernel may have a page of it locked that it has asked for; else nobody has
for long.

**A lost session** (`_lost`) takes with it what is in memory: by then others may have changed the files. While files are
open another one is opened at once, which holds them: until then whoever removes one takes it away.

Invariant: of each inode there is at most one `OpenInode`.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits, tasks
from dfs.checksum import Buffer
from dfs.client.cachedinodes import CachedInodes
from dfs.client.filesystem import FileSystem
from dfs.client.filewriter import Begun
from dfs.client.layouts import KeptLayouts
from dfs.client.openinode import OpenInode
from dfs.client.smallfiles import SmallFiles
from dfs.types import Attr, Ino, Item

log = structlog.get_logger(__name__)

_CREATE_ATTEMPTS: Final = 4
_UNTOLD_MAX: Final = 4096


class OpenInodes:
    """All open files of one client. Use `open_inodes`."""

    def __init__(self, fs: FileSystem, nursery: trio.Nursery) -> None:
        self.fs = fs
        self._nursery = nursery
        self._open: dict[Ino, OpenInode] = {}
        self._dirty_bytes = 0
        self._read_ahead_bytes = 0
        self._recent_bytes = 0
        self.layouts = KeptLayouts()
        """What is known of where the bytes of open files are."""
        self._room: trio.Event | None = None
        """Set, and gone, when more may be written; there while somebody waits for that."""
        self._hurry = trio.Event()
        self._lingering: dict[Ino, None] = {}
        """Files that nobody has open, and that are not committed yet."""
        self.flush_on_close = False
        self._cautious_until = self._full_until = -math.inf
        self.on_own_change: Callable[[Attr], None] = lambda _: None
        """Called with the attributes of a file after a change of ours, which its readers here have seen already."""
        self._untold: dict[Ino, tuple[str, errors.DfsError]] = {}
        """Files of which bytes were lost, by what name they were opened, and why; the oldest first.

        Those of which nobody has heard yet.
        """
        self.on_loss: Callable[[Ino], None] = lambda _: None
        """Called with a file of which written bytes are lost: the kernel has them still."""
        self.give: Callable[[Attr, int, Buffer], bool] = lambda *_: False
        """Called with the attributes of a file that is not open, and its bytes from some offset to its end.

        Whether the kernel has them now.
        """
        self.generation = 0
        """How many sessions have ended."""
        fs.session.dirty_inos = self._dirty_inos
        fs.session.on_lost = self._lost
        fs.session.held_besides.append(lambda: (list(self._unheld), ()))
        fs.when_session_is_new(self._hold_again)
        self._saving: dict[Ino, OpenInode] = {}
        """Files that took the place of others, whose bytes are to leave in a moment."""
        self._saves: Counter[Ino] = Counter()
        """Likewise, with those whose bytes are leaving: how often."""
        self._unheld: dict[Ino, OpenInode] = {}
        """Those of them that no hold keeps."""
        fs.recall_listeners.append(self._recall)
        if isinstance(fs.inodes, CachedInodes):
            fs.inodes.attach(self)
        cache = fs.session.cache
        self.small_files = None if cache is None else SmallFiles(cache, fs.inodes, fs.reader, self.start, self._give)

    def now_ns(self) -> int:
        return self.fs.session.runtime.now_ns()

    @property
    def is_coherent(self) -> bool:
        """Whether others see what is written here at once: there are leases to see to it."""
        return self.fs.session.caches

    @property
    def is_cautious(self) -> bool:
        """Whether closing a file has it committed, so that who wrote it hears if that fails."""
        is_in_doubt = self.fs.session.is_space_short or trio.current_time() < self._cautious_until
        return self.flush_on_close or is_in_doubt

    def be_cautious(self) -> None:
        """Something could not be written: the next may not be either, while the disks are full perhaps."""
        now = trio.current_time()
        if now >= self._cautious_until:
            log.info("closing a file waits until it is written, for a while", seconds=limits.CAUTIOUS_S)
        self._cautious_until = now + limits.CAUTIOUS_S

    @property
    def is_out_of_space(self) -> bool:
        """Whether there was no room lately: each write is to have its bytes committed, and to say if there is none.

        Closing would say so as well, but shells, and other programs that write little, do not look at that.
        """
        return trio.current_time() < self._full_until

    def note_loss(self, inode: OpenInode, error: errors.DfsError) -> None:
        """Bytes that were written to a file are lost. Who syncs it next is to hear of it, though he opens it later."""
        if isinstance(error, errors.NoSpace):
            self._full_until = trio.current_time() + limits.CAUTIOUS_S
        self._untold.pop(inode.ino, None)
        self._untold[inode.ino] = (inode.name, error)
        if len(self._untold) > _UNTOLD_MAX:
            del self._untold[next(iter(self._untold))]
        self.on_loss(inode.ino)

    def take_loss(self, ino: Ino) -> errors.DfsError | None:
        """Why bytes of a file were lost, if nobody has been told: who asks is, or the file was cut to nothing since."""
        _, error = self._untold.pop(ino, (None, None))
        return error

    def untold_losses(self) -> list[tuple[str, errors.DfsError]]:
        """Files of which bytes were lost that nobody has been told of, and why; the last one last."""
        return list(self._untold.values())

    def _lost(self, inos: Sequence[Ino]) -> None:
        """The session has ended, and what these were to become is lost."""
        if self.is_coherent:
            self.generation += 1
            lost = set(inos)
            for inode in list(self._open.values()):
                inode.forget_session(is_lost=inode.ino in lost)
        if any(inode.users for inode in self._open.values()):
            self.start(self._open_session)

    async def _open_session(self) -> None:
        """Have a session again: what is open is held by it then (`_hold_again`)."""
        try:
            await self.fs.session.insist(self.fs.session.ensure)
        except errors.DfsError as error:
            log.warning("open files are not held any more", error=str(error))

    def _dirty_inos(self) -> list[Ino]:
        return [ino for ino, inode in self._open.items() if not inode.is_clean]

    def start(self, work: Callable[..., Any], *args: Any) -> None:
        """Run a task, unless this has ended: recalls are answered until the session has ended as well."""
        if not self._nursery.cancel_scope.cancel_called:
            self._nursery.start_soon(work, *args)

    # --- opening ----------------------------------------------------------------------------------------

    async def acquire(self, ino: Ino, name: str) -> OpenInode:
        """One more user of a file. Raises `NotFound`."""
        return await self._acquire(await self.getattr(ino), name)

    async def getattr(self, ino: Ino) -> Attr:
        """As `Inodes.getattr`. Raises `NotFound` also of what has no name and no user here.

        It may be held for a moment still, but what was written to it is given up.
        """
        attr = await self.fs.inodes.getattr(ino)
        self._check_there(attr)
        return attr

    def _check_there(self, attr: Attr) -> None:
        inode = self._open.get(attr.ino)
        newest = attr if inode is None or inode.attr.nlink else inode.attr
        if not newest.nlink and not self.is_open(attr.ino):
            raise errors.NotFound(f"inode {attr.ino} is gone")

    async def _acquire(self, attr: Attr, name: str) -> OpenInode:
        self._check_there(attr)
        inode = self.open(attr, name, holds=0)  # counted before it is held: what it has is not given up meanwhile
        if inode.holds or (inode.attr.nlink and self.fs.inodes.cached_attr(inode.ino) is not None):
            return inode
        try:
            now = await self.fs.inodes.hold(inode.ino)
            if not now.nlink and not inode.holds:  # it was gone before it was counted, or else it were held since
                self.start(self._release, inode.ino)
                raise errors.NotFound(f"inode {inode.ino} is gone")
        except BaseException:
            self.close(inode)
            raise
        inode.note(now)
        self._count_hold(inode)
        return inode

    async def create(self, parent: Ino, name: bytes, mode: int, uid: int, gid: int, *, exclusive: bool) -> OpenInode:
        """A new file of that name; unless `exclusive`, the one that is there will do. One more user of it."""
        inodes = self.fs.inodes
        hold = not self.fs.session.is_trusted
        for left in reversed(range(_CREATE_ATTEMPTS)):
            attr = await inodes.create(parent, name, mode, uid, gid, exclusive=exclusive, hold=hold)
            if hold:
                return self.open(attr, os.fsdecode(name))
            try:
                return await self._acquire(attr, os.fsdecode(name))
            except errors.NotFound:  # somebody has removed it, so it can be made again
                if not left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def open(self, attr: Attr, name: str, holds: int = 1) -> OpenInode:
        """One more user of a file that this session holds for it so often; not at all if it is held or leased."""
        inode = self._open.get(attr.ino)
        if inode is None:
            inode = self._open[attr.ino] = OpenInode(self, attr, name)
        inode.note(attr)
        self._lingering.pop(attr.ino, None)
        inode.users += 1
        inode.holds += holds
        self._count_holds(inode)
        return inode

    def reads(self, inode: OpenInode) -> None:
        """Somebody has opened a file to read it."""
        if self.small_files is not None:
            self.small_files.opened(inode.ino)

    def _give(self, attr: Attr, data: Buffer) -> bool:
        """All that a file holds was fetched. If it is open, or written to, it is for who reads it."""
        return attr.ino not in self._open and len(data) == attr.size and self.give(attr, 0, data)

    def _count_holds(self, inode: OpenInode) -> None:
        if inode.holds or not inode.users:
            self._unheld.pop(inode.ino, None)
        else:
            self._unheld[inode.ino] = inode

    def close(self, inode: OpenInode) -> None:
        """One user less; its hold is released, after what is still dirty was committed."""
        inode.users -= 1
        if inode.users:
            return
        self._count_holds(inode)
        inode.closed()
        if not inode.attr.nlink:
            self._note_gone(inode, inode.attr, is_private=self.fs.inodes.is_private(inode.ino))
        elif (end := inode.take_end()) is not None:
            self.give(inode.attr, *end)
        must_leave, inode.was_cut = inode.was_cut or not inode.is_owned, False
        if inode.is_clean:
            self._drop(inode)
        elif must_leave:
            self.start(self._write_back, inode)
        else:
            self._lingering[inode.ino] = None
            if len(self._lingering) > limits.LINGERING_MAX:
                self._hurry.set()

    def _drop(self, inode: OpenInode) -> None:
        """Forget a file that nobody has open, if nothing of it is on its way; what holds it is released soon."""
        if inode.users or not inode.is_clean or self._open.get(inode.ino) is not inode:
            return
        inode.forget()
        del self._open[inode.ino]
        self._lingering.pop(inode.ino, None)
        self.count_dirty(0)
        for _ in range(inode.holds):
            self.start(self._release, inode.ino)

    async def _release(self, ino: Ino) -> None:
        try:
            await self.fs.session.insist(partial(self.fs.inodes.release, ino))
        except errors.DfsError as error:
            log.info("hold left to the session's end", ino=ino, error=str(error))

    async def _recall(self, items: Sequence[Item]) -> None:
        """The NameNode takes leases back: what is dirty is committed, what is open and not held is held."""
        async with tasks.open_nursery() as nursery:
            for ino, name in items:
                if name is None and ino in self._open:
                    nursery.start_soon(self._give_back, self._open[ino])

    async def _give_back(self, inode: OpenInode) -> None:
        """What was promised is committed. For what is under way besides nobody waits, as it may wait for others."""
        if inode.is_promised:
            await inode.write_back()
            self._drop(inode)
        await self.hold(inode.ino)

    # --- what the cache tells (dfs.client.owned.Users) --------------------------------------------------

    def is_open(self, ino: Ino) -> bool:
        inode = self._open.get(ino)
        return inode is not None and bool(inode.users)

    async def hold(self, ino: Ino) -> None:
        inode = self._unheld.get(ino)
        if inode is not None:
            await self._hold(inode)

    def take_hold(self, ino: Ino) -> bool:
        inode = self._unheld.get(ino)
        if inode is None:
            return False
        inode.holds += 1
        self._count_holds(inode)
        return True

    def may_save(self, ino: Ino) -> bool:
        inode = self._open.get(ino)
        if inode is None or inode.is_clean:
            return True
        return inode.is_small and inode.is_owned and not self._nursery.cancel_scope.cancel_called

    def save_soon(self, ino: Ino) -> bool:
        inode = self._open.get(ino)
        if inode is None or inode.is_clean:
            return False
        if not self._saving:
            self.start(self._save)
        if ino not in self._saving:
            self._saving[ino] = inode
            self._saves[ino] += 1
        return True

    async def _save(self) -> None:
        """Have leave together what is to be saved, with what comes until what was answered meanwhile is sent."""
        await trio.sleep(limits.STREAM_DELAY_S)
        saving, self._saving = self._saving, {}
        try:
            async with tasks.open_nursery() as nursery:
                self._have_leave(saving.values(), nursery)
            for inode in saving.values():
                await inode.settle()  # what was on its way already
        finally:
            for ino in saving:
                self._saves[ino] -= 1
                if not self._saves[ino]:
                    del self._saves[ino]
                    self.fs.session.stream.let_go(ino)

    async def settle(self, ino: Ino, *, soon: bool = False) -> None:
        inode = self._open.get(ino)
        if inode is not None and not (soon and self.may_save(ino)):
            await inode.settle()
        loss = self.take_loss(ino)
        if loss is not None:
            raise loss

    def gone(self, attr: Attr, *, is_private: bool) -> None:
        inode = self._open.get(attr.ino)
        if inode is not None:
            self._note_gone(inode, attr, is_private=is_private)
        elif not attr.nlink:
            self.take_loss(attr.ino)

    def _note_gone(self, inode: OpenInode, attr: Attr, *, is_private: bool) -> None:
        if not attr.nlink:
            self.take_loss(attr.ino)
            self.fs.session.stream.let_go(attr.ino)
        if inode.note_gone(attr, is_private=is_private):
            self.start(self._abandon, inode)

    async def _abandon(self, inode: OpenInode) -> None:
        await inode.abandon()
        self._drop(inode)

    def is_dirty(self, ino: Ino) -> bool:
        inode = self._open.get(ino)
        return inode is not None and not inode.is_clean

    def find(self, ino: Ino) -> OpenInode | None:
        return self._open.get(ino)

    async def seen(self, attr: Attr) -> Attr:
        """Attributes that the NameNode gave, as this client is to show them: after what it has written itself."""
        return self.seen_now(attr) or await self._open[attr.ino].settle()

    def seen_now(self, attr: Attr) -> Attr | None:
        """Likewise; None where something has to be waited for."""
        inode = self._open.get(attr.ino)
        if inode is None:
            return attr
        inode.see_surprises()
        inode.note(attr)
        return inode.shown() if inode.is_clean or (inode.is_owned and inode.is_foreseen) else None

    def unsettled(self, attrs: Iterable[Attr]) -> list[Attr]:
        """Those of which something has to be waited for."""
        return [attr for attr in attrs if self.seen_now(attr) is None] if self._open else []

    def _hold_again(self) -> None:
        """The session was lost and another one is open: it holds what is open here."""
        for inode in self._open.values():
            inode.holds = 0
            self._count_holds(inode)
            self.start(self._hold, inode)

    async def _hold(self, inode: OpenInode) -> None:
        try:
            attr = await self.fs.session.insist(partial(self.fs.inodes.hold, inode.ino))
        except errors.DfsError as error:
            log.warning("open file not held any more", file=inode.name, ino=inode.ino, error=str(error))
            return
        now = self._open.get(inode.ino)
        if now is None or not now.users:  # closed meanwhile
            await self._release(inode.ino)
            return
        now.note(attr)  # opened anew perhaps, and not held as it is leased: who is to change that waited for this
        self._count_hold(now)

    def _count_hold(self, inode: OpenInode) -> None:
        """The session holds it once more."""
        inode.holds += 1
        inode.held_by = self.fs.session.session
        self._count_holds(inode)

    # --- bounds -----------------------------------------------------------------------------------------

    @property
    def _dirty_max_bytes(self) -> int:
        """Recalls wait for what is dirty where there are leases; elsewhere memory is the only bound."""
        return self.fs.chunks.throttle.limit_bytes if self.is_coherent else limits.DIRTY_MAX_BYTES

    def count_dirty(self, change: int) -> None:
        self._dirty_bytes += change
        if self._room is not None and not (self.is_full and self._dirty_bytes):
            self._room.set()
            self._room = None

    @property
    def is_full(self) -> bool:
        """Whether whoever writes waits until something has left."""
        return self._dirty_bytes >= self._dirty_max_bytes or len(self._lingering) >= 2 * limits.LINGERING_MAX

    async def wait_for_room(self) -> None:
        """Return when one more write may be taken."""
        while self.is_full and self._dirty_bytes:
            if self._room is None:
                self._room = trio.Event()
                self.make_room()
            await self._room.wait()  # bounded: draining ends, with an error at worst

    def make_room(self) -> None:
        """Somebody may wait for room: have what is dirty leave."""
        if self._room is None:
            return
        draining: list[OpenInode] = []
        if self._dirty_bytes >= self._dirty_max_bytes:
            large = [inode for inode in self._open.values() if not inode.is_small]
            draining = [inode for inode in large if inode.begin_to_drain()]
        if not draining:
            self._hurry.set()

    def count_read_ahead(self, change: int) -> None:
        self._read_ahead_bytes += change

    def may_read_ahead(self) -> bool:
        return self._read_ahead_bytes < limits.READ_AHEAD_KEPT_MAX_BYTES

    def count_recent(self, change: int) -> None:
        self._recent_bytes += change

    def may_keep_recent(self) -> bool:
        return self._recent_bytes <= limits.RECENT_KEPT_MAX_BYTES

    # --- time -------------------------------------------------------------------------------------------

    async def write_back_when_due(self) -> None:
        """Commit what has been dirty for long, or everything that lingers when it is much. Runs until cancelled."""
        while True:
            with trio.move_on_after(limits.WRITE_BACK_AFTER_S / 4):
                await self._hurry.wait()
            now = trio.current_time()
            hurries = self._hurry.is_set()
            self._hurry = trio.Event()
            due = [
                inode
                for inode in self._open.values()
                if inode.is_due(now) or (hurries and (inode.is_small or inode.is_lingering))
            ]
            self._have_leave(due, self._nursery)
            self._sweep()

    def _have_leave(self, inodes: Iterable[OpenInode], nursery: trio.Nursery) -> None:
        """Begin to commit what these have in memory, what is small together."""
        small: dict[int, list[OpenInode]] = {}
        for inode in inodes:
            if inode.is_small:
                small.setdefault(inode.attr.replicas, []).append(inode)
            else:
                nursery.start_soon(self._write_back, inode)
        most = limits.APPEND_SURE_BYTES // limits.SMALL_WRITE_MAX_BYTES
        for replicas, together in small.items():
            for start in range(0, len(together), most):
                nursery.start_soon(self._write_back_together, together[start : start + most], replicas)

    def _sweep(self) -> None:
        """Forget files that nobody has open, and of which nothing is left to do."""
        for inode in [inode for inode in self._open.values() if not inode.users and inode.is_clean]:
            self._drop(inode)

    async def _write_back(self, inode: OpenInode) -> None:
        await inode.write_back()
        self._drop(inode)

    async def _write_back_together(self, inodes: Sequence[OpenInode], replicas: int) -> None:
        """Commit what small files have in memory: one append, one batch of commands."""
        leaving = [(inode, inode.begin_to_leave()) for inode in inodes if inode.is_small]  # as it was when it was due
        if not leaving:
            return
        async with AsyncExitStack() as last, tasks.open_nursery() as nursery, AsyncExitStack() as first:
            for inode, pieces in leaving:
                first.callback(self._has_left, inode, pieces)
            try:
                data = b"".join(piece for _, pieces in leaving for _, piece in pieces)
                written = await self.fs.chunks.append([data], replicas)
            except errors.DfsError as error:
                for inode, _ in leaving:
                    await inode.fail(error)
                return
            first.pop_all()

            def commit_rest(inode: OpenInode, pieces: Sequence[tuple[int, Buffer]]) -> None:
                """A commit takes more than a command. The others may wait for it."""
                last.callback(self._has_left, inode, pieces)
                nursery.start_soon(inode.commit_rest)

            async def end(inode: OpenInode, pieces: Sequence[tuple[int, Buffer]], begun: Begun) -> None:
                is_done = True
                try:
                    is_done = await inode.end_commit(begun)
                finally:
                    if is_done:
                        self._has_left(inode, pieces)
                    else:
                        commit_rest(inode, pieces)

            position = written.chunk_offset
            for inode, pieces in leaving:
                begun = inode.begin_commit(pieces, written.lane, position)
                if begun is None:
                    commit_rest(inode, pieces)
                else:
                    first.push_async_callback(end, inode, pieces, begun)
                position += sum(len(piece) for _, piece in pieces)

    def _has_left(self, inode: OpenInode, pieces: Sequence[tuple[int, Buffer]]) -> None:
        inode.has_left(pieces)
        self._drop(inode)

    async def settle_all(self) -> None:
        """Commit everything that is dirty."""
        async with tasks.open_nursery() as nursery:
            for inode in list(self._open.values()):
                nursery.start_soon(inode.settle)

    async def end(self) -> None:
        """Commit everything that is dirty, for the session's `wait_s` at most: what has not left by then is lost."""
        session = self.fs.session
        session.ends_by = trio.current_time() + session.wait_s
        async with tasks.open_nursery() as nursery:
            for inode in list(self._open.values()):
                nursery.start_soon(inode.end, session.ends_by)

    def uncommitted(self) -> tuple[int, int]:
        """How many files there are of which bytes are not committed, and how many bytes."""
        sizes = [inode.uncommitted_bytes for inode in self._open.values() if not inode.is_clean]
        return len(sizes), sum(sizes)

    def statistics(self) -> dict[str, int]:
        ahead = self.small_files.statistics() if self.small_files is not None else {}
        return {
            "open": len(self._open),
            "dirty_bytes": self._dirty_bytes,
            "dirty_max_bytes": self._dirty_max_bytes,
            "read_ahead_bytes": self._read_ahead_bytes,
            "recent_bytes": self._recent_bytes,
            "layout_extents": self.layouts.extents,
            **{f"small_files_{name}": value for name, value in ahead.items()},
        }


@asynccontextmanager
async def open_inodes(fs: FileSystem) -> AsyncIterator[OpenInodes]:
    """Open files over `fs`; on leaving, everything dirty is committed first, or lost (`untold_losses`)."""
    async with tasks.open_nursery() as nursery:
        inodes = OpenInodes(fs, nursery)
        nursery.start_soon(inodes.write_back_when_due)
        try:
            yield inodes
        finally:
            with trio.CancelScope(shield=True):  # bounded by the session's patience
                await inodes.end()
            nursery.cancel_scope.cancel()
