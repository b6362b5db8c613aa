"""Errors on the wire: stock Pyro5's form of an exception, with our code as an attribute of it.

    {"__class__": "builtins.OSError", "__exception__": True, "args": [errno, message],
     "attributes": {"dfs_code": code, "_pyroTraceback": [line]}}

A stock peer raises an OSError with errno and message. Our client finds the class again by the code. Errors of
stock Pyro5 (a name that a name server does not know) keep their class, so that stock tools know them.
"""

from __future__ import annotations

from typing import Any, Final

import Pyro5.errors

from dfs import errors

PyroError: type[Exception] = Pyro5.errors.PyroError
NamingError: type[Exception] = Pyro5.errors.NamingError
DaemonError: type[Exception] = Pyro5.errors.DaemonError

_TEXT_MAX: Final = 16_384
"""Characters of an error's message that travel: twice as many as two paths have."""


def to_wire(error: Exception) -> dict[str, Any]:
    """The map that stands for an error that was raised on purpose: a DfsError, or one of Pyro5's."""
    if isinstance(error, errors.DfsError):
        return _wire("builtins.OSError", [error.errno, error.message], {"dfs_code": error.code}, error.message)
    assert isinstance(error, PyroError), "unexpected errors are turned into RemoteFault first"
    name = f"Pyro5.errors.{type(error).__name__}"
    return _wire(name, [str(error)], {}, f"{name}: {error}")


def _wire(name: str, args: list[Any], attributes: dict[str, Any], line: str) -> dict[str, Any]:
    return {
        "__class__": name,
        "__exception__": True,
        "args": [sendable(arg) if isinstance(arg, str) else arg for arg in args],
        "attributes": attributes | {"_pyroTraceback": [sendable(line) + "\n"]},
    }


def sendable(text: str) -> str:
    """`text` with what UTF-8 cannot carry (halves of surrogate pairs, from file names or a peer) written out.

    Of one that is very long, as where it repeats what a peer has sent, the beginning.
    """
    if len(text) > _TEXT_MAX:
        text = text[:_TEXT_MAX] + " ..."
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def in_batch(fault: dict[str, Any]) -> dict[str, Any]:
    """How an error stands among the results of a batch."""
    return {"__class__": "Pyro5.core._ExceptionWrapper", "exception": fault}


def from_wire(fault: object) -> errors.DfsError:
    """The exception to raise for what came as an error. Never raises; never makes a class but ours."""
    if not isinstance(fault, dict):
        return errors.RemoteFault(f"the peer failed: {str(fault)[:1000]}")
    attributes = fault.get("attributes")
    args = fault.get("args")
    args = list(args) if isinstance(args, list | tuple) else []
    code = attributes.get("dfs_code") if isinstance(attributes, dict) else None
    if isinstance(code, str) and len(args) == 2:
        return errors.from_wire(code, str(args[1]))
    name = str(fault.get("__class__", "an error")).rpartition(".")[2]
    message = ", ".join(str(arg) for arg in args)
    if name == "NamingError" and message.startswith("unknown name"):
        return errors.NotFound(message)
    return errors.RemoteFault(f"{name}: {message}" if message else name)
