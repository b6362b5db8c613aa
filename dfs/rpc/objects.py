"""What a server serves: objects with exposed methods, and what those methods may take and return.

class Counter:
    @expose
    def add(self, number): ...              # a plain method runs to its end in the connection's reader
    @expose
    async def wait(self): ...               # an async one gets a task
    @expose
    def look(self): ...                     # returns Later(work) where it has to wait: then that gets a task
    @expose
    @takes_call
    async def store(self, call, key):       # call.peer, call.data: bytes that came along
        return WithData(len(call.data), [b"bytes", b"that go back"])
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import Pyro5.server

from dfs import errors
from dfs.checksum import Buffer
from dfs.keys import Holder, KeyId
from dfs.rpc.address import host_of

_C = TypeVar("_C", bound=Callable[..., Any])

expose: Callable[[_C], _C] = Pyro5.server.expose
"""Pyro5's own decorator: the method may be called from other machines."""

_EXPOSED = "_pyroExposed"
_ONEWAY = "_pyroOneway"
_TAKES_CALL = "_dfs_takes_call"
_NAME_SHOWN: Final = 100
"""Characters of a method's name that is none."""


def takes_call(method: _C) -> _C:
    """Decorator: the method gets the `Call` as its first argument after self."""
    setattr(method, _TAKES_CALL, True)
    return method


class Party(NamedTuple):
    """Who shares a daemon with others: the holder of a key on one host (`dfs.turns`). Where one key is used on many
    hosts, each has a share; what a host has many of, processes, connections and addresses of its own, share one.
    """

    holder: Holder | None
    host: str


class Peer:
    """A client as its server sees it.

    `id` is unique among the connections of this process, `handshake` what the client sent with its first message;
    `is_dfs`: it is our own client, not a stock Pyro5 proxy, and speaks `version` of our protocol (0: it is stock).
    `key`: whose knowledge it has proved, None where the server asks for none; `party` follows from it. `remembered` is
    for what the objects that are served want to know of it again, as long as it stays; `has_parted`: its connection has
    ended, and only oneway calls of it may still be in work.
    """

    __slots__ = ("_key", "address", "handshake", "has_parted", "id", "is_dfs", "party", "remembered", "version")

    def __init__(self, address: str, connection_id: int) -> None:
        self.address = address
        self.id = connection_id
        self.handshake: object = None
        self.is_dfs = False
        self.version = 0
        self._key: KeyId | None = None
        self.party = Party(None, host_of(address))
        self.remembered: dict[Any, Any] = {}
        self.has_parted = False

    @property
    def key(self) -> KeyId | None:
        return self._key

    @key.setter
    def key(self, key: KeyId) -> None:
        self._key = key
        self.party = self.party._replace(holder=key.holder)

    def __repr__(self) -> str:
        return f"<peer {self.id} at {self.address}>"


class Call:
    """What came with a call besides its arguments.

    `data` lies in a buffer that serves another call as soon as the method returns: keep a copy, not a view.
    """

    __slots__ = ("data", "peer")

    def __init__(self, peer: Peer, data: memoryview | None) -> None:
        self.peer = peer
        self.data = data


class WithData(NamedTuple):
    """A result that goes with bytes: `buffers` are sent as they are, one after the other, never joined or copied.

    They must not change until `done` is called: once, when they were sent or the connection failed.
    """

    result: Any
    buffers: Sequence[Buffer]
    done: Callable[[], None] | None = None


class Later(NamedTuple):
    """What a plain method returns when it has to wait after all: `work` gets a task, and gives the answer."""

    work: Callable[[], Awaitable[Any]]


class Method(NamedTuple):
    """An exposed method, looked up once."""

    function: Callable[..., Any]  # bound
    name: str  # object.method, for messages
    is_async: bool
    takes_call: bool

    def bind_error(self, error: TypeError, args: Sequence[Any], kwargs: dict[str, Any]) -> str | None:
        """Why `args` do not fit, if `error` comes from the call itself and not from inside the method."""
        traceback = error.__traceback__
        if traceback is None or traceback.tb_next is None or traceback.tb_next.tb_next is not None:
            return None  # the two frames are ours: who called, and `call` below
        try:
            inspect.signature(self.function).bind(*((None,) if self.takes_call else ()), *args, **kwargs)
        except TypeError as mismatch:
            return f"wrong arguments for {self.name}: {mismatch}"
        return None

    def call(self, call: Call, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call it; for an async method, the coroutine. Raises what the method raises."""
        if self.takes_call:
            return self.function(call, *args, **kwargs)
        return self.function(*args, **kwargs)


class Registry:
    """The objects of a server by their ids, and their exposed methods."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Method]] = {}
        self._oneway: dict[str, list[str]] = {}

    def add(self, obj: object, object_id: str) -> None:
        """Serve `obj` as `object_id`. Raises ValueError if the id is taken or nothing is exposed."""
        if object_id in self._objects:
            raise ValueError(f"an object is registered as {object_id} already")
        methods = {name: _method(obj, object_id, name) for name in dir(type(obj)) if _is_exposed(obj, name)}
        if not methods:
            raise ValueError(f"{object_id} exposes no methods: mark them with @expose")
        self._objects[object_id] = methods
        self._oneway[object_id] = [name for name in methods if getattr(getattr(obj, name), _ONEWAY, False)]

    def ids(self) -> list[str]:
        return list(self._objects)

    def find(self, object_id: str, name: str) -> Method | None:
        """The method, or None for an unknown object. Raises NotSupported for an unknown method."""
        methods = self._objects.get(object_id)
        if methods is None:
            return None
        method = methods.get(name)
        if method is None:
            raise errors.NotSupported(f"{object_id} has no method {name[:_NAME_SHOWN]!r}: is it an older version?")
        return method

    def metadata(self, object_id: str) -> dict[str, list[str]] | None:
        """What a stock proxy wants to know of an object; None for an unknown one."""
        methods = self._objects.get(object_id)
        if methods is None:
            return None
        return {"methods": list(methods), "oneway": self._oneway[object_id], "attrs": []}


def _is_exposed(obj: object, name: str) -> bool:
    member = getattr(type(obj), name, None)
    return not name.startswith("_") and callable(member) and bool(getattr(member, _EXPOSED, False))


def _method(obj: object, object_id: str, name: str) -> Method:
    function = getattr(obj, name)
    return Method(
        function,
        f"{object_id}.{name}",
        inspect.iscoroutinefunction(function),
        bool(getattr(function, _TAKES_CALL, False)),
    )
