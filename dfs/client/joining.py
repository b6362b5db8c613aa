"""A machine joins a cluster: with a token, which becomes a key of its own."""

from __future__ import annotations

import trio

from dfs import errors, keys, limits, sealing, tokens
from dfs.keys import Key, KeyFile, Role
from dfs.rpc import Network, Pool, SocketNetwork
from dfs.types import NAMENODE_OBJECT

_MAY_HAVE_HAPPENED = (errors.ConnectionLost, errors.DeadlineExceeded)


async def join(namenode: str, token: Key, name: str, network: Network | None = None) -> KeyFile:
    """The key file that a token becomes at the NameNode at `namenode`; `name` counts where the token names none.

    Only who knows the token's secret is believed. An answer that does not arrive is asked for again: the NameNode gives
    it to the same asker as often as he likes. Raises `Unreachable`, `Refused` (not of the token's cluster), what the
    NameNode says against it, or `DeadlineExceeded` after JOIN_TIMEOUT_S, when the token may be used up.
    """
    receiver = sealing.Receiver()
    request: dict[str, object] = {"name": name, "public": receiver.public}
    async with Pool(network or SocketNetwork(token.tls), key=token) as pool:
        with trio.move_on_after(limits.JOIN_TIMEOUT_S):
            sealed = await _ask(pool, namenode, request)
            text = receiver.open(sealed, token.secrets[keys.NAMENODE], tokens.CONTEXT)
            return _checked(keys.parse(text), tokens.grant(token.id), name)
    raise errors.DeadlineExceeded(
        f"the NameNode at {namenode} did not answer within {limits.JOIN_TIMEOUT_S:g} s; the token may be used up: make"
        " another with `dfs join token`"
    )


async def _ask(pool: Pool, namenode: str, request: dict[str, object]) -> object:
    """Ask until there is an answer, once it may have been heard. Raises `Unreachable` if it never was."""
    may_have_happened = False
    while True:
        try:
            return await pool.call(namenode, NAMENODE_OBJECT, "join", request)
        except _MAY_HAVE_HAPPENED:
            may_have_happened = True
        except errors.Unreachable:
            if not may_have_happened:
                raise
        await trio.sleep(limits.RETRY_DELAY_MAX_S / 4)


def _checked(found: KeyFile, grant: tokens.Grant, name: str) -> KeyFile:
    """Raises `ProtocolViolation` for another key than the token says."""
    key = found.key
    if key is None or (key.id.role, key.id.name) != (grant.role, grant.name or name):
        raise errors.ProtocolViolation("the NameNode gave another key than that of the token: nothing of it was used")
    if grant.role == Role.NODE and not found.masters.by_realm().get(keys.DATANODE):
        raise errors.ProtocolViolation("the NameNode gave no master secrets to a DataNode: nothing was used")
    return found
