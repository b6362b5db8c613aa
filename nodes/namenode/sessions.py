"""Clients' sessions: who is alive, and the channel on which the NameNode pushes events to them.

A client keeps one `events` call open; any call of its session shows that it lives. Silence for the session time-out
ends the session: its chunks are sealed, the inodes it held are let go, its later commands are refused. After a
restart of the NameNode every session in the database has a whole time-out to be heard again. So it has after a time in
which neither any session was heard nor any DataNode, as the NameNode's machine was cut off.

An end goes from step to step. At once the session's calls are refused, so that its client hears nothing that would let
it trust its cache any longer. Then the tables refuse its commands: those that are here already happen before that, or
never. Only now its leases end, and what waits for them goes on: nothing of the session happens after it, nor does a
restart find the session open. Last its chunks are sealed and its inodes let go, which may wait for other sessions.

A session is of the key that opened it: a call of a connection with another key is refused.

Events are numbered from 1 in each life of the NameNode, which `incarnation` names: after a restart a client sees that
it is another one, and that what it was told before is void.

Invariant: a session in `_listeners`, or with leases, has a row in the database, or had until an `end_session` under way
removed it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any

import structlog
import trio

from dfs import errors, limits, tasks, verbs
from dfs.keys import Holder
from dfs.types import SessionId
from nodes.namenode import arguments
from nodes.namenode.leases import RECALL, Leases

log = structlog.get_logger(__name__)


class _Listener:
    """One session. `events` are (number, kind, payload), numbers growing; `arrived` is set when one is added.

    They are few: news that waits already is not added again, leases are bounded, and who does not take note of them is
    ended when there are EVENTS_MAX.
    """

    __slots__ = ("arrived", "events", "heard_at", "identity", "last")

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.heard_at = trio.current_time()
        self.events: deque[tuple[int, str, Any]] = deque()
        self.last = 0
        self.arrived = trio.Event()


class Sessions:
    """All sessions. `end` is called to end one, for a party or None; it returns whether there is more to do for it.

    When it has returned for the first time, no command of the session is applied any more.
    """

    def __init__(
        self, timeout_s: float, end: Callable[[SessionId, Hashable], Awaitable[bool]], leases: Leases, incarnation: int
    ) -> None:
        self.incarnation = incarnation
        self._timeout_s = timeout_s
        self._end = end
        self._leases = leases
        leases.push = self._push
        self._listeners: dict[SessionId, _Listener] = {}
        self._heard_at = trio.current_time()
        """When any of them was."""
        self._ending: set[SessionId] = set()
        """Silent or closed, and not ended yet: ended again by `reap`, should the first attempt fail."""
        self._under_way: set[SessionId] = set()
        """Those that `reap` is ending."""

    def __len__(self) -> int:
        return len(self._listeners)

    def known(self) -> set[SessionId]:
        """All that are open, or whose end is under way."""
        return {*self._listeners, *self._ending}

    def add(self, session: SessionId, identity: str) -> None:
        """A session of the key of `identity`; without one nobody can use it, and it is ended by `reap`."""
        if identity:
            self._listeners[session] = _Listener(identity)
        else:
            self._ending.add(session)

    def silence_s(self, session: SessionId) -> float | None:
        """For how long it was not heard; None if it is being ended."""
        listener = self._listeners.get(session)
        return None if listener is None else trio.current_time() - listener.heard_at

    def of(self, holder: Holder) -> list[SessionId]:
        """Those that were opened with keys of `holder`, whatever their claims."""
        return [session for session, listener in self._listeners.items() if holder.has(listener.identity)]

    def check_room(self, identity: str) -> None:
        """Whether one more may be opened with the key of `identity`, which leaves as many as it has. Raises `Busy`."""
        left = limits.SESSIONS_MAX - len(self._listeners)
        if left <= 0:
            raise errors.Busy(f"the NameNode has {limits.SESSIONS_MAX} sessions, as many as it can: try again later")
        if left > limits.SESSIONS_MAX // 2:
            return
        own = sum(listener.identity == identity for listener in self._listeners.values())
        if own >= left:
            raise errors.Busy(
                f"the key of {identity} has {own} sessions at the NameNode, {left} are left for others:"
                " close some, or use another key"
            )

    def touch(self, session: Any, identity: str) -> SessionId:
        """A call of this session came, by the key of `identity`. Raises `SessionExpired`, `NotPermitted`."""
        listener = self._listeners.get(SessionId(arguments.integer(session, "a session")))
        if listener is None or not listener.identity:  # of one whose end was cut short nobody is the holder
            raise errors.SessionExpired(f"session {session} has ended")
        if listener.identity != identity:
            raise errors.NotPermitted(f"session {session} was opened with another key")
        self._hear(listener)
        self._leases.heard(SessionId(session))
        return SessionId(session)

    def _hear(self, listener: _Listener) -> None:
        self._heard_at = listener.heard_at = trio.current_time()

    # --- events -----------------------------------------------------------------------------------------

    def push_all(self, kind: str, payload: Any = None) -> None:
        """Tell every session. One for which the same is waiting, as the latest news of that kind, is not told twice."""
        for session, listener in self._listeners.items():
            waiting = [what for _, known, what in listener.events if known == kind]
            if not waiting or waiting[-1] != payload:
                self._push(session, kind, payload)

    def _push(self, session: SessionId, kind: str, payload: Any) -> int:
        """Tell one session; the event's number. It is 0 where the session is being ended: nobody is there to hear."""
        listener = self._listeners.get(session)
        if listener is None:
            return 0
        listener.last += 1
        listener.events.append((listener.last, kind, payload))
        listener.arrived.set()
        return listener.last

    def drop_event(self, session: SessionId, number: int) -> None:
        """The client has done what an event says."""
        events = self._listeners[session].events
        for event in events:
            if event[0] == number:
                events.remove(event)
                return

    async def events(
        self, session: Any, identity: str, after: int, incarnation: int
    ) -> tuple[int, list[tuple[int, str, Any]]]:
        """Our incarnation, and events with numbers above `after`; all of another incarnation are new.

        Waits for one, for at most `EVENTS_WAIT_S`. Where there are more than one answer has, the last one is
        `verbs.MORE`, with the number of the one before. Raises as `touch`.
        """
        listener = self._listeners[self.touch(session, identity)]
        if incarnation != self.incarnation:
            return self.incarnation, _first(listener.events)
        while listener.events and listener.events[0][0] <= after:
            listener.events.popleft()
        if not listener.events:
            listener.arrived = trio.Event()
            with trio.move_on_after(min(limits.EVENTS_WAIT_S, self._timeout_s / 6)):
                await listener.arrived.wait()
        if self._listeners.get(session) is not listener:
            raise errors.SessionExpired(f"session {session} has ended")
        self._hear(listener)
        return self.incarnation, _first(listener.events)

    # --- ending -----------------------------------------------------------------------------------------

    async def close(self, session: Any, identity: str, party: Hashable = None) -> None:
        """The client says goodbye, of `party`. A session that has ended already is no error.

        Raises `NotPermitted`; and as the writer does, then it is ended by `reap`.
        """
        if arguments.integer(session, "a session") in self._listeners:
            await self._finish(self.touch(session, identity), party)

    async def _finish(self, session: SessionId, party: Hashable = None) -> None:
        listener = self._listeners.pop(session, None)
        if listener is not None:
            listener.arrived.set()
        self._ending.add(session)
        has_more = await self._end(session, party)
        self._leases.leave(session)
        while has_more:
            has_more = await self._end(session, party)
        self._ending.discard(session)

    async def reap(self, hears_nobody: Callable[[], bool] = lambda: False) -> None:
        """End sessions that are silent, or keep others waiting. Runs until cancelled.

        `hears_nobody`: whether those who are not clients are silent, too.
        """
        async with tasks.open_nursery() as nursery:  # an end may wait for other sessions, and they for theirs
            while True:
                due = trio.current_time() + self._timeout_s / 10
                await trio.sleep_until(due)
                is_cut_off = trio.current_time() >= self._heard_at + self._timeout_s / 3 and hears_nobody()
                self._forgive(math.inf if is_cut_off else trio.current_time() - due)
                deadline = trio.current_time() - self._timeout_s
                for session in self._overdue(deadline):
                    nursery.start_soon(self._finish_or_log, session)
                for session in self._ending - self._under_way:
                    nursery.start_soon(self._finish_or_log, session)
                await trio.lowlevel.checkpoint()

    def _overdue(self, deadline: float) -> list[SessionId]:
        silent = [session for session, listener in self._listeners.items() if listener.heard_at < deadline]
        stubborn = [
            session
            for session in self._leases.overdue(deadline)
            if session in self._listeners and session not in silent  # or it is being ended already
        ]
        deaf = [session for session, listener in self._listeners.items() if len(listener.events) > limits.EVENTS_MAX]
        for sessions, why in (
            (silent, "its client is silent"),
            (stubborn, "its client does not give up what it caches, or say what that is"),
            (deaf, "its client takes no note of what it is told"),
        ):
            for session in sessions:
                log.warning(f"session ended: {why}", session=session, timeout_s=self._timeout_s)
        return list(dict.fromkeys([*silent, *stubborn, *deaf]))

    def _forgive(self, late_s: float) -> None:
        """This process, or its machine, was itself away for so long: nobody could be heard, but who was just now."""
        now = trio.current_time()
        for listener in self._listeners.values():
            listener.heard_at = min(now, listener.heard_at + late_s)
        self._leases.forgive(late_s)

    async def _finish_or_log(self, session: SessionId) -> None:
        self._under_way.add(session)
        try:
            await self._finish(session)
        except errors.DfsError as error:
            log.warning("session not ended yet: trying again", session=session, error=str(error))
        finally:
            self._under_way.discard(session)


def _first(events: Iterable[tuple[int, str, Any]]) -> list[tuple[int, str, Any]]:
    """As many as fit an answer, at least one if there is any: those that recall much are large."""
    found: list[tuple[int, str, Any]] = []
    room = limits.EVENTS_ANSWER_ITEMS
    for event in events:
        if room <= 0:
            found.append((found[-1][0], verbs.MORE, None))
            break
        found.append(event)
        room -= len(event[2]) if event[1] == RECALL else 1
    return found
