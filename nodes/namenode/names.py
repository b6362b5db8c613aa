"""Where the daemons' names are listed: our own name server, somebody else's, or none."""

from __future__ import annotations

import structlog

from dfs import errors
from dfs.rpc import PyroError, uri
from dfs.rpc.naming import NameServerClient, NameServerObject

log = structlog.get_logger(__name__)


class NameServer:
    """Where the daemons' names are listed: a name server of ours, somebody else's, or none (both None)."""

    def __init__(self, own: NameServerObject | None = None, other: NameServerClient | None = None) -> None:
        self._own = own
        self._other = other

    async def register(self, name: str, address: str) -> None:
        """Enter a daemon. A name server that does not answer, or refuses it, costs a line in the log."""
        try:
            if self._own is not None:
                self._own.register_own(name, uri(name, address))
            elif self._other is not None:
                await self._other.register(name, name, address)
        except (errors.DfsError, PyroError) as error:
            log.warning("name not registered at the name server", name=name, error=str(error))

    async def remove(self, name: str) -> None:
        """Strike a daemon out, likewise."""
        try:
            if self._own is not None:
                self._own.remove_own(name)
            elif self._other is not None:
                await self._other.remove(name)
        except (errors.DfsError, PyroError) as error:
            log.warning("name not removed from the name server", name=name, error=str(error))
