"""Names for objects: Pyro5's name server, as one that we serve and as one that we ask.

Served by us it is stock's own, behind bounds: so many names of so many characters, and no regular expressions
from outside, since one hostile pattern would stop the loop. Names that begin with `dfs.` or `Pyro.` are set by
this process only; anyone may register others.
"""

from __future__ import annotations

from typing import Any, Final

from Pyro5.nameserver import NameServer

from dfs import limits
from dfs.rpc.address import uri
from dfs.rpc.faults import NamingError
from dfs.rpc.objects import expose
from dfs.rpc.pool import Pool

NAME_SERVER_OBJECT: Final = "Pyro.NameServer"
_OWN_PREFIXES: Final = ("dfs.", "Pyro.")


class NameServerObject(NameServer):  # type: ignore[misc]  # Pyro5 has no types
    """The name server to register as `NAME_SERVER_OBJECT`.

    The exposed methods are stock's, with its arguments; they raise NamingError. `register_own` and `remove_own` are
    for this process.
    """

    def register_own(self, name: str, object_uri: str) -> None:
        """Set a name, also one that others may not touch, and for which there always is room. Raises NamingError."""
        _check_registration(name, object_uri)
        super().register(name, object_uri)

    def remove_own(self, name: str) -> None:
        """Remove a name; one that is not there is no error."""
        self.storage.remove_items([name])

    @expose
    def register(self, name: Any, uri: Any, safe: bool = False, metadata: Any = None) -> None:
        """Set a name to a URI; `safe` refuses one that is taken."""
        _check_registration(name, str(uri))
        _check_metadata(metadata)
        _refuse_own(name)
        self._check_room(name)
        _answer_stock(super().register, name, uri, bool(safe), metadata)

    @expose
    def set_metadata(self, name: Any, metadata: Any) -> None:
        """Set the tags of a name."""
        _check_name(name)
        _check_metadata(metadata)
        _refuse_own(name)
        _answer_stock(super().set_metadata, name, metadata)

    @expose
    def remove(self, name: Any = None, prefix: Any = None, regex: Any = None) -> int:
        """Remove a name, or all that begin with `prefix`; returns how many."""
        _refuse_regex(regex)
        if name:
            _check_name(name)
            _refuse_own(name)
            found = [name] if name in self.storage else []
        elif prefix:
            _check_name(prefix)
            found = [each for each in self.storage if each.startswith(prefix) and not _is_own(each)]
        else:
            found = []
        self.storage.remove_items(found)
        return len(found)

    @expose
    def lookup(self, name: Any, return_metadata: bool = False) -> Any:
        """The URI of a name, or (URI, tags)."""
        _check_name(name)
        return _answer_stock(super().lookup, name, bool(return_metadata))

    @expose
    def list(self, prefix: Any = None, regex: Any = None, return_metadata: bool = False) -> Any:
        """A map of names, all or those that begin with `prefix`, to their URIs, or (URI, tags)."""
        _refuse_regex(regex)
        if prefix is not None:
            _check_text("prefix", prefix, limits.NAME_SERVER_NAME_MAX_CHARS)
        return _answer_stock(super().list, prefix, None, bool(return_metadata))

    @expose
    def yplookup(self, meta_all: Any = None, meta_any: Any = None, return_metadata: bool = True) -> Any:
        """As `list`, for the names that have all, or any, of some tags."""
        _check_metadata(meta_all)
        _check_metadata(meta_any)
        return _answer_stock(super().yplookup, meta_all, meta_any, bool(return_metadata))

    def _check_room(self, name: str) -> None:
        if name not in self.storage and len(self.storage) >= limits.NAMES_MAX:
            raise NamingError(f"the name server is full: it keeps {limits.NAMES_MAX} names")


def _answer_stock(method: Any, *args: Any) -> Any:
    """Call stock's method; what it raises for wrong arguments is the caller's mistake, not a bug of ours."""
    try:
        return method(*args)
    except (TypeError, ValueError) as error:
        raise NamingError(str(error)) from error
    except Exception as error:
        if isinstance(error, NamingError):
            raise
        raise NamingError(f"not accepted: {error}") from error


def _is_own(name: str) -> bool:
    return name.startswith(_OWN_PREFIXES)


def _refuse_own(name: str) -> None:
    if _is_own(name):
        raise NamingError(f"{name!r} is reserved: names that begin with 'dfs.' or 'Pyro.' are set by the cluster")


def _refuse_regex(regex: Any) -> None:
    if regex is not None:
        raise NamingError("regular expressions are not accepted by this name server: use a prefix")


def _check_registration(name: Any, object_uri: str) -> None:
    _check_name(name)
    _check_text("URI", object_uri, limits.NAME_SERVER_URI_MAX_CHARS)


def _check_name(name: Any) -> None:
    _check_text("name", name, limits.NAME_SERVER_NAME_MAX_CHARS)
    if not name:
        raise NamingError("a name is empty")


def _check_text(what: str, text: Any, max_chars: int) -> None:
    if not isinstance(text, str) or len(text) > max_chars:
        raise NamingError(f"a {what} is text of at most {max_chars} characters")


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, list | tuple | set | frozenset) or len(metadata) > limits.NAME_SERVER_TAGS_MAX:
        raise NamingError(f"metadata is a list of at most {limits.NAME_SERVER_TAGS_MAX} tags")
    for tag in metadata:
        _check_text("tag", tag, limits.NAME_SERVER_TAG_MAX_CHARS)


class NameServerClient:
    """A name server, ours or stock, at `address`. Every method raises what `Pool.call` raises."""

    def __init__(self, pool: Pool, address: str) -> None:
        self._pool = pool
        self._address = address

    async def register(self, name: str, object_id: str, address: str) -> None:
        """Set `name` to the object at `address`, whatever it was before."""
        await self._pool.call(self._address, NAME_SERVER_OBJECT, "register", name, uri(object_id, address))

    async def remove(self, name: str) -> None:
        """Remove `name`; one that is not there is no error."""
        await self._pool.call(self._address, NAME_SERVER_OBJECT, "remove", name)
