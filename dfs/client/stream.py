"""The stream: commands that happen in the order in which they were given, some of them answered before they are sent.

A session that owns a directory (`nodes.namenode.leases`) knows what a command in it will do, since nobody else can look
at the directory or change it before the session has given it up. So it answers the command at once
(`dfs.client.owned`), puts it here with the moment at which it happened, and sends it soon: what gathers in
STREAM_DELAY_S goes out as one batch, or earlier when somebody waits. One batch is on its way at a time, and is repeated
until it is answered, so the NameNode applies all in order. What it answers is compared with what was foreseen.

A program that unpacks a file sets its owner, mode and times one after the other: what is set while the command before
waits to be sent, is set with it (`set_more`).

Commands on what the session owns that somebody waits for, such as the commit of a file's bytes, travel here too: the
file may have been made by a command before them.

Everything else that the session asks or changes waits for the stream first (`flush`), and so do fsync, and the answer
to a recall: nobody sees the NameNode without what was answered here. Only questions about inodes or names that no
command here changes are asked at once (`Session.leased_query`, `decides`).

What was put and is not answered when the session ends is lost, as what was not synced is on a local disk. It is said in
the log, and those who have it open hear of it when they sync.

A file that is renamed onto another is not to take its place before its own bytes are there, should this client end in
between. So that rename is held back (`hold_back`), with all that follows, until the commit of those bytes is given, and
the commit goes right behind the last command about the file, in one batch with it. Who commits waits for nothing here,
or both would wait for each other; one that is late, or was given up, keeps nothing up for longer than HELD_BACK_MAX_S.

Invariants: a command here touches nothing but what the session owns, until its answer is there; so it conflicts with
nobody, and never waits at the NameNode for others to forget, who may wait for us.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from dfs import codec, errors, limits
from dfs.client.cache import NEVER, Cache, Token
from dfs.counts import take_away
from dfs.types import Attr, Ino, SessionId
from dfs.verbs import OTHER, VERBS

if TYPE_CHECKING:
    from dfs.client.session import Session

log = structlog.get_logger(__name__)

_PASSES: Final = (
    errors.Unreachable,
    errors.ConnectionLost,
    errors.DeadlineExceeded,
    errors.Busy,
    errors.NoSpace,
    errors.DiskFailed,
)
"""Of a batch: nothing of it happened, or nobody knows; the same may be sent again."""


class Command:
    """One command on its way. `done` is set when `reply` or `error` is there.

    `items`: what it may touch that is not to be shown meanwhile. `given_at`: since when somebody waits for it.
    `now_ns`, `expected`, `inos`: of one that was answered already, when that was, the attributes it is to result in,
    and what it changes. `held_for`: it is not sent before the commit of that inode is given, or it is `held_until`.
    `follows`: it is such a commit, and goes in one batch with what is before it.
    """

    __slots__ = (
        *("args", "done", "error", "expected", "follows", "given_at", "held_for", "held_until", "inos", "items"),
        *("now_ns", "reply", "seq", "token", "verb"),
    )

    def __init__(self, seq: int, verb: str, args: Sequence[Any]) -> None:
        self.seq = seq
        self.verb = verb
        self.args = args
        self.token: Token = NEVER
        self.given_at = math.inf
        self.items: list[Any] = []
        self.now_ns: int | None = None
        self.expected: Attr | None = None
        self.inos: tuple[Ino, ...] = ()
        self.reply: Any = None
        self.error: Exception | None = None
        self.done: trio.Event | None = None
        self.held_for: Ino | None = None
        self.held_until = math.inf
        self.follows = False

    def begin(self, cache: Cache | None) -> None:
        """Somebody waits for it, and may learn from its reply."""
        self.done = trio.Event()
        self.given_at = trio.current_time()
        if cache is not None:
            self.token = cache.ask()
            self.items = cache.begin_change(self.verb, self.args)

    def is_about(self, ino: Ino) -> bool:
        """Whether it changes an inode."""
        return ino in self.inos or (self.done is not None and self.args[0] == ino)

    def wire(self) -> list[Any]:
        if self.now_ns is None:
            return [self.seq, self.verb, self.args]
        return [self.seq, self.verb, self.args, self.now_ns]


class CommandStream:
    """Of one `Session`; for one of its sessions after the other. Between awaits all is of one moment."""

    def __init__(self, session: Session, cache: Cache | None) -> None:
        self._session = session
        self._cache = cache
        self._queue: deque[Command] = deque()
        self._sent: Sequence[Command] = ()
        self._is_running = False
        self._hurry = trio.Event()
        self._moved = trio.lowlevel.ParkingLot()
        self.given = 0
        """How many commands were given."""
        self.settled = 0
        """How many of them, from the first on, are answered, or lost."""
        self._following = 0
        """How many are not settled of those that follow another one, which do not count in these."""
        self._held: set[Ino] = set()
        """Inodes for whose commit commands are held back."""
        self._freed = trio.lowlevel.ParkingLot()
        self._setting: dict[Ino, Command] = {}
        """The last command about an inode, where that is a `setattr` that was answered here and waits to be sent."""
        self._pending: Counter[Ino] = Counter()
        """Inodes that commands change which were answered here and not yet by the NameNode."""
        self.losses = 0
        """How many commands that were answered here never happened."""
        self._answered = 0
        self.surprises = 0
        """How often something did not come to be as it was foreseen."""
        self.on_loss: Callable[[], None] = lambda: None
        """Called when some are lost: a seam for who checks what the cluster has promised, as the simulation does."""

    # --- giving -----------------------------------------------------------------------------------------

    def __bool__(self) -> bool:
        """Whether anything was given that is not settled."""
        return self.unsettled > 0

    def put(self, verb: str, args: Sequence[Any], now_ns: int, expected: Attr | None, inos: tuple[Ino, ...]) -> None:
        """A command that was answered here: it happened at `now_ns`, results in `expected`, and changes `inos`."""
        command = Command(self._session.take_seq(), verb, args)
        command.now_ns, command.expected, command.inos = now_ns, expected, inos
        for ino in inos:
            self._pending[ino] += 1
            self._setting.pop(ino, None)
        if verb == "setattr":
            self._setting[inos[0]] = command
        self._answered += 1
        self._add(command)

    def sets(self, ino: Ino) -> bool:
        """Whether `set_more` has something to add to."""
        return ino in self._setting

    def set_more(self, ino: Ino, changes: Mapping[str, int], now_ns: int, expected: Attr) -> None:
        """Have the `setattr` that is the last command about an inode, and was not sent, set these as well.

        It happens at `now_ns` then, and results in `expected`.
        """
        command = self._setting[ino]
        command.args = (ino, {**command.args[1], **changes})
        command.now_ns, command.expected = now_ns, expected
        self._answered += 1

    def begin(self, verb: str, args: Sequence[Any]) -> Command:
        """Give a command on an inode that the session owns; `result` waits for it, as it must be waited for."""
        command = Command(self._session.take_seq(), verb, args)
        command.begin(self._cache)
        self._setting.pop(args[0], None)
        if self.holds_back_for(verb, args):
            self._insert(command, args[0])
        else:
            self._add(command)
        self._hurry.set()
        return command

    def hold_back(self, ino: Ino, gone: Ino) -> None:
        """Have the command that was put last, by which a file took the place of another, wait for its next commit.

        So does what waits for a commit of the other one, which may never come.
        """
        command = self._queue[-1]
        command.held_for, command.held_until = ino, trio.current_time() + limits.HELD_BACK_MAX_S
        self._held.add(ino)
        self._hand_over(gone, ino)

    @property
    def holds_back(self) -> bool:
        """Whether anything waits for a commit."""
        return bool(self._held)

    def holds_back_for(self, verb: str, args: Sequence[Any]) -> bool:
        """Whether something waits for this. Then the session owns the inode, even if that was recalled."""
        return verb == "commit" and args[0] in self._held

    def let_go(self, ino: Ino) -> None:
        """What is held back for the commit of an inode has it, or waits for it no longer."""
        if self._hand_over(ino, None):
            self._freed.unpark_all()

    def _hand_over(self, ino: Ino, to: Ino | None) -> bool:
        """What is held back for the commit of an inode waits for that of another instead; whether anything was."""
        if ino not in self._held:
            return False
        self._held.discard(ino)
        for command in self._queue:
            if command.held_for == ino:
                command.held_for = to
        return True

    async def result(self, command: Command) -> Any:
        """What came of a command that has begun, as long after that as it is worth. Raises as `Session.apply`."""
        assert command.done is not None, "it has begun"
        try:
            if not command.done.is_set():
                with self._patiently(command.given_at, self._session.patience_s(command.verb)):
                    await command.done.wait()
        finally:
            if self._cache is not None:
                self._cache.answered(command.token)
                command.token = NEVER
        if command.error is not None:
            raise command.error
        return command.reply

    def _insert(self, command: Command, ino: Ino) -> None:
        """The commit for which others are held back: right behind the last of what is about its inode."""
        at = max(number for number, other in enumerate(self._queue) if other.is_about(ino))
        command.follows = True
        command.now_ns = self._session.runtime.now_ns()  # as what it follows, it is to be had on a disk nearly full
        self._queue.insert(at + 1, command)
        self._following += 1
        self.let_go(ino)

    def _add(self, command: Command) -> None:
        self._queue.append(command)
        self.given += 1
        if not self._is_running:
            self._is_running = True
            self._session.spawn(self._run)
        elif len(self._queue) >= limits.BATCH_MAX_COMMANDS:
            self._hurry.set()

    @property
    def unsettled(self) -> int:
        """How many commands were given that are neither answered nor lost."""
        return self.given - self.settled + self._following

    def concerns(self, inos: Iterable[Ino]) -> bool:
        """Whether any of these is `pending`."""
        return bool(self._pending) and any(ino in self._pending for ino in inos)

    def decides(self, directory: Ino, name: bytes) -> bool:
        """Whether what a name stands for may be another thing when all that was answered here has happened."""
        if directory not in self._pending:
            return False
        return any(_decides(command, directory, name) for command in chain(self._sent, self._queue))

    def pending(self) -> list[Ino]:
        """What commands change of which the NameNode has not answered."""
        return list(self._pending)

    def owned(self) -> list[Ino]:
        """What the session has to own until all commands here are answered, those among them that are waited for."""
        waited_for = (command.args[0] for command in chain(self._sent, self._queue) if command.done is not None)
        return [*dict.fromkeys(chain(self._pending, waited_for))]

    # --- waiting ----------------------------------------------------------------------------------------

    async def flush(self, losses: int | None = None) -> None:
        """Return when all that was given before has happened, durably.

        Raises `SessionExpired` if some was lost meanwhile, or refused, or since `losses` was how many were;
        `Unreachable` after `wait_s`.
        """
        position = self.given
        losses = self.losses if losses is None else losses
        with self._patiently(trio.current_time(), self._session.wait_s):
            while self.settled < position:
                self._hurry.set()
                await self._moved.park()
        if self.losses != losses:
            lost = "changes are lost: the NameNode refused them, or the session ended before they reached it"
            raise errors.SessionExpired(lost)

    def hurry(self) -> None:
        """Somebody is about to wait."""
        self._hurry.set()

    async def wait_for_room(self) -> None:
        """Return when one more command may be put. Raises as `flush`."""
        while self.unsettled >= limits.STREAM_MAX_COMMANDS:
            self._hurry.set()
            with trio.move_on_after(self._session.wait_s) as limit:
                await self._moved.park()
            if limit.cancelled_caught:
                raise errors.Unreachable("the NameNode does not answer, and too many changes wait for it")

    @contextmanager
    def _patiently(self, since: float, patience_s: float) -> Iterator[None]:
        """Raises `Unreachable` when what is waited for has not come so long after `since`."""
        try:
            with trio.fail_at(min(since + patience_s, self._session.ends_by)):
                yield
        except trio.TooSlowError:
            raise errors.Unreachable(f"the NameNode has not answered for {patience_s:g} s") from None

    # --- sending ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Send what is there until there is nothing."""
        try:
            while self._queue:
                with trio.move_on_after(limits.STREAM_DELAY_S):
                    await self._hurry.wait()
                self._hurry = trio.Event()
                await self._until_one_may_go()
                self._sent = [self._queue.popleft() for _ in range(self._count_that_may_go())]
                for command in self._sent:
                    self._forget_setting(command)
                if self._sent:  # or the session has ended meanwhile
                    await self._send(self._sent)
        finally:
            self._is_running = False

    async def _until_one_may_go(self) -> None:
        while self._queue and (ino := self._queue[0].held_for) is not None:
            with trio.move_on_at(self._queue[0].held_until) as limit:
                await self._freed.park()
            if limit.cancelled_caught:
                log.info("a file takes the place of another before its bytes are written, which takes long", ino=ino)
                self.let_go(ino)

    def _count_that_may_go(self) -> int:
        """From the first on, in one batch."""
        count = 0
        for command in islice(self._queue, limits.BATCH_MAX_COMMANDS):
            if command.held_for is not None:
                break
            count += 1
        while 1 < count < len(self._queue) and self._queue[count].follows:
            count -= 1
        return count

    def _forget_setting(self, command: Command) -> None:
        if command.verb == "setattr" and self._setting.get(command.args[0]) is command:
            del self._setting[command.args[0]]

    async def _send(self, batch: Sequence[Command]) -> None:
        session = await self._session.ensure()
        wire = [command.wire() for command in batch]
        while self._sent is batch:
            try:
                replies = await self._session.send(session, wire, self._session.wait_s)
            except errors.SessionExpired:
                self._session.lose(session)
            except _PASSES as error:
                if self._sent is not batch:  # the session was lost meanwhile, and they with it
                    return
                log.warning("changes wait for the namenode", commands=len(batch), error=str(error))
                if isinstance(error, errors.NoSpace | errors.DiskFailed):
                    batch = self._keep_answered(batch, error)
                    wire = [command.wire() for command in batch]
                    if not batch:
                        return
                await trio.sleep(limits.RETRY_DELAY_MAX_S)
            except errors.DfsError as error:
                if self._sent is batch:
                    self._fail(batch, error)
            else:
                if self._sent is batch:
                    self._learn(session, batch, replies)

    def _keep_answered(self, batch: Sequence[Command], error: errors.DfsError) -> Sequence[Command]:
        """Nothing of a batch happened: who waits hears of it, and what was answered here is to be tried again."""
        self._sent = [command for command in batch if command.done is None or command.follows]
        for command in batch:
            if command.done is not None and not command.follows:
                command.error = errors.from_wire(error.code, error.message)
                self._settle(command)
        self._moved.unpark_all()
        return self._sent

    def _learn(self, session: SessionId, batch: Sequence[Command], replies: Sequence[Any]) -> None:
        for number, (command, (errno, *rest)) in enumerate(zip(batch, replies, strict=True)):
            error = errors.from_wire(*rest) if errno else None
            if isinstance(error, errors.SessionExpired):  # and so for all that follow
                self._sent = batch[number:]
                self._session.lose(session)
                return
            if command.done is None:
                self._compare(command, error, rest[0])
            elif error is not None:
                command.error = error
            else:
                self._session.learn(session, command, *rest)
            self._settle(command)
        self._sent = ()
        self._moved.unpark_all()

    def _compare(self, command: Command, error: errors.DfsError | None, result: Any) -> None:
        """Whether the NameNode's answer is what was answered here."""
        if error is not None:
            self.losses += 1
            self.surprises += 1
            self.on_loss()
            log.error("a change was refused that was taken for done", verb=command.verb, error=str(error))
            self._session.forget_all()
            return
        if command.expected is None:
            return
        found = codec.attr(result)
        if found._replace(atime_ns=0) != command.expected._replace(atime_ns=0):
            self.surprises += 1
            log.warning("a change was foreseen otherwise", verb=command.verb, found=found, expected=command.expected)
            if self._cache is not None:
                self._cache.recall([(ino, None) for ino in command.inos])

    def _settle(self, command: Command) -> None:
        self._session.end(command)
        if command.follows:
            self._following -= 1
        else:
            self.settled += 1
        take_away(self._pending, command.inos)

    # --- losing -----------------------------------------------------------------------------------------

    def _fail(self, commands: Sequence[Command], error: errors.DfsError) -> None:
        """These did not happen, or nobody will know."""
        lost = [command for command in commands if command.done is None]
        if lost:
            self.losses += len(lost)
            self.surprises += 1
            self.on_loss()
            log.error("changes of names are lost", commands=len(lost), first=lost[0].verb, error=str(error))
        for command in commands:
            command.error = errors.from_wire(error.code, error.message)
            self._settle(command)
        self._sent = ()
        self._moved.unpark_all()

    def lose(self, error: errors.DfsError) -> list[Ino]:
        """The session has ended: what is not settled is lost. The inodes that were to change."""
        lost = [*self._sent, *self._queue]
        inos = list(self._pending)
        self._queue.clear()
        self._setting.clear()
        self._held.clear()
        self._freed.unpark_all()
        if lost:
            self._fail(lost, error)
        return inos

    def statistics(self) -> dict[str, int]:
        return {
            "answered_here": self._answered,
            "to_send": self.unsettled,
            "lost": self.losses,
        }


def _decides(command: Command, directory: Ino, name: bytes) -> bool:
    """Whether a command changes what a name stands for, or whether there is the directory."""
    if command.expected is not None and command.expected.ino == directory:
        return True
    places = VERBS.get(command.verb, OTHER).names
    return any(command.args[at] == directory and command.args[at + 1] == name for at in places)
