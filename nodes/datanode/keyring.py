"""The DataNode's own key, and the keys that it accepts, as they change while it runs.

What the NameNode says of keys, at the registration and with each heartbeat, is {generations, in_use} and, where ours is
another list, {revoked}. Where the generations or the one in use are not ours, `renew` gets a key file in their place,
sealed for us. It is kept in our own file before the heartbeats say that we accept its generations, so that a restart
does not know less than what was said. Of the order of things nodes/namenode/issuing.py has the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from dfs import errors, keys, sealing
from dfs.keys import Holder, Key, KeyFile
from dfs.rpc import Gate, Pool, Server
from dfs.runtime import Runtime

log = structlog.get_logger(__name__)

_RENEW = "renew"


class Keyring:
    """Belongs to the event loop. `keep` puts a key file in the place of ours: it raises `ConfigError` if it cannot."""

    def __init__(
        self,
        content: KeyFile,
        gate: Gate,
        pool: Pool,
        server: Server,
        runtime: Runtime,
        keep: Callable[[KeyFile], None] | None = None,
    ) -> None:
        self._content = content
        self._gate = gate
        self._pool = pool
        self._server = server
        self._runtime = runtime
        self._keep = keep
        gate.revoked = content.revoked

    def report(self) -> dict[str, Any]:
        """What heartbeats say of it."""
        return {
            "generations": list(self._gate.masters.generations),
            "revoked": keys.digest(self._gate.revoked),
        }

    async def follow(self, told: Mapping[str, Any], call: Callable[..., Awaitable[Any]]) -> None:
        """Do as the NameNode says; `call` calls it. Raises an error if the new key could not be had."""
        content = self._content
        if "revoked" in told:
            content = content._replace(revoked=frozenset(map(Holder.from_wire, told["revoked"])))
        if self._is_old(content, told):
            content = await self._renewed(content, call)
        if content == self._content:
            return
        await self._save(content)
        self._use(content)

    def _is_old(self, content: KeyFile, told: Mapping[str, Any]) -> bool:
        generation = None if content.key is None else content.key.id.generation
        return (list(content.masters.generations), generation) != (list(told["generations"]), told["in_use"])

    async def _renewed(self, content: KeyFile, call: Callable[..., Awaitable[Any]]) -> KeyFile:
        key = self._own_key()
        receiver = sealing.Receiver()
        sealed = await call(_RENEW, receiver.public)
        new = keys.parse(receiver.open(sealed, key.secrets[keys.NAMENODE], _RENEW))
        if new.key is None or new.key.id.holder != key.id.holder or not new.masters.generations:
            raise errors.ProtocolViolation("the NameNode renewed another key than ours: ours is kept")
        return content._replace(key=new.key, masters=new.masters, cluster=new.cluster)

    def _own_key(self) -> Key:
        assert self._content.key is not None, "a DataNode has a key of its own"
        return self._content.key

    async def _save(self, content: KeyFile) -> None:
        if self._keep is None:
            return
        try:
            await self._runtime.run_blocking(self._keep, content)
        except errors.ConfigError as error:
            log.warning("the new key is used, but not kept", error=error.message)

    def _use(self, content: KeyFile) -> None:
        is_same_key = content.key == self._content.key
        self._content = content
        self._gate.masters, self._gate.revoked = content.masters, content.revoked
        if not is_same_key:
            self._pool.change_key(self._own_key())
        closed = self._server.close_connections(lambda peer: peer.key is not None and not self._gate.admits(peer.key))
        log.info(
            "keys changed",
            generation=self._own_key().id.generation,
            accepted=list(content.masters.generations),
            revoked=len(content.revoked),
            connections_closed=closed,
        )
