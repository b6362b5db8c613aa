"""Clients' sessions: who is alive, and the channel on which the NameNode pushes events to them.

A client keeps one `events` call open; any call of its session shows that it lives. Silence for the session time-out
ends the session: its chunks are sealed, the inodes it held are let go, its later commands are refused. After a
restart of the NameNode every session in the database has a whole time-out to be heard again.

A session is of the key that opened it: a call of a connection with another key is refused.

Invariant: a session in `_heard` has a row in the database, or had until an `end_session` under way removed it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
import trio

from dfs import errors, limits
from dfs.keys import Holder
from dfs.types import SessionId
from nodes.namenode import arguments

log = structlog.get_logger(__name__)

_EVENTS_KEPT: Final = 256
"""Of one session, until it has fetched them; of more the oldest go."""


class _Listener:
    """One session. `events` are (number, kind, payload), numbers growing; `arrived` is set when one is added."""

    __slots__ = ("arrived", "events", "heard_at", "identity", "last")

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.heard_at = trio.current_time()
        self.events: deque[tuple[int, str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self.last = 0
        self.arrived = trio.Event()


class Sessions:
    """All sessions. `end` is called to end one; it returns whether there is more to do for it."""

    def __init__(self, timeout_s: float, end: Callable[[SessionId], Awaitable[bool]]) -> None:
        self._timeout_s = timeout_s
        self._end = end
        self._listeners: dict[SessionId, _Listener] = {}
        self._ending: set[SessionId] = set()
        """Silent or closed, and not ended yet: ended again by `reap`, should the first attempt fail."""

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

    def of(self, holder: Holder) -> list[SessionId]:
        """Those that were opened with keys of `holder`, whatever their claims."""
        return [session for session, listener in self._listeners.items() if holder.has(listener.identity)]

    def check_room(self) -> None:
        """Raises `Busy`."""
        if len(self._listeners) >= limits.SESSIONS_MAX:
            raise errors.Busy(f"the NameNode has {limits.SESSIONS_MAX} sessions, as many as it can: try again later")

    def touch(self, session: Any, identity: str) -> SessionId:
        """A call of this session came, by the key of `identity`. Raises `SessionExpired`, `NotPermitted`."""
        listener = self._listeners.get(SessionId(arguments.integer(session, "a session")))
        if listener is None:
            raise errors.SessionExpired(f"session {session} has ended")
        if listener.identity != identity:
            raise errors.NotPermitted(f"session {session} was opened with another key")
        listener.heard_at = trio.current_time()
        return SessionId(session)

    # --- events -----------------------------------------------------------------------------------------

    def push_all(self, kind: str, payload: Any = None) -> None:
        """Tell every session. One that has the same news waiting for it is not told twice."""
        for listener in self._listeners.values():
            if any(known == kind and what == payload for _, known, what in listener.events):
                continue
            listener.last += 1
            listener.events.append((listener.last, kind, payload))
            listener.arrived.set()

    async def events(self, session: Any, identity: str, after: int) -> list[tuple[int, str, Any]]:
        """Events with numbers above `after`; waits for one, for at most `EVENTS_WAIT_S`. Raises as `touch`."""
        listener = self._listeners[self.touch(session, identity)]
        while listener.events and listener.events[0][0] <= after:
            listener.events.popleft()
        if not listener.events:
            listener.arrived = trio.Event()
            with trio.move_on_after(min(limits.EVENTS_WAIT_S, self._timeout_s / 3)):
                await listener.arrived.wait()
        if self._listeners.get(session) is not listener:
            raise errors.SessionExpired(f"session {session} has ended")
        listener.heard_at = trio.current_time()
        return list(listener.events)

    # --- ending -----------------------------------------------------------------------------------------

    async def close(self, session: Any, identity: str) -> None:
        """The client says goodbye. A session that has ended already is no error. Raises `NotPermitted`."""
        if arguments.integer(session, "a session") in self._listeners:
            await self._finish(self.touch(session, identity))

    async def end(self, session: SessionId) -> None:
        """End it whoever's it is; one that has ended already is no error."""
        if session in self._listeners:
            await self._finish(session)

    async def _finish(self, session: SessionId) -> None:
        listener = self._listeners.pop(session, None)
        if listener is not None:
            listener.arrived.set()
        self._ending.add(session)
        while await self._end(session):
            pass
        self._ending.discard(session)

    async def reap(self) -> None:
        """End sessions that are silent. Runs until cancelled."""
        while True:
            due = trio.current_time() + self._timeout_s / 10
            await trio.sleep_until(due)
            self._forgive(trio.current_time() - due)
            deadline = trio.current_time() - self._timeout_s
            for session, listener in list(self._listeners.items()):
                if listener.heard_at < deadline:
                    log.warning("session ended: its client is silent", session=session, timeout_s=self._timeout_s)
                    await self._finish_or_log(session)
            for session in list(self._ending):
                await self._finish_or_log(session)

    def _forgive(self, late_s: float) -> None:
        """This process was itself away for so long: nobody could be heard."""
        for listener in self._listeners.values():
            listener.heard_at += late_s

    async def _finish_or_log(self, session: SessionId) -> None:
        try:
            await self._finish(session)
        except errors.DfsError as error:
            log.warning("session not ended yet: trying again", session=session, error=str(error))
