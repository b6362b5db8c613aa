"""Calls and results as bytes, in the serializers of Pyro5: msgpack is ours, serpent and json are for guests.

What comes in is data and stays data. A map with a `__class__` key, which stock Pyro5 turns into an object of
that class, stays a map; only URIs are revived, and bytes that serpent wrote as base64. Marshal is refused,
because reading it is not safe. A result goes back in the serializer of its call.

msgpack limits: lists and maps of at most `limits.CONTAINER_ITEMS_MAX` items. The memory of a list is taken before its
items are read: in calls and handshakes, which anybody may send, lists that claim much are there to their last item,
or none is made. In these, keys of maps are strings or bytes; they nest at most `limits.MESSAGE_DEPTH_MAX` deep, and
have at most `limits.MESSAGE_VALUES_MAX` values, which are counted before any is made. A handshake in serpent has at
most `limits.HANDSHAKE_VALUES_MAX`. Whatever the bytes, the only exception is ProtocolViolation.
"""

from __future__ import annotations

import base64
import binascii
import gc
import json
from collections.abc import Sequence, Set
from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]
import serpent
from Pyro5.core import URI

from dfs import errors, limits
from dfs.checksum import Buffer
from dfs.rpc import literal
from dfs.rpc.protocol import JSON, MARSHAL, MSGPACK, SERPENT

_EXT_LONG: Final = 0x31  # stock's extension type for integers over 64 bits
_LONG_DIGITS_MAX: Final = 4300
_URI_CLASS: Final = "Pyro5.core.URI"
_URI_FIELDS: Final = 5
_SIZES: Final = (
    *(1 for _ in range(0xA0)),  # small numbers, and heads of short maps and lists
    *(1 + length for length in range(0x20)),  # short strings
    *(1, 1, 1, 1, -1, -2, -4, -101, -102, -104, 5, 9, 2, 3, 5, 9),  # nil to uint64
    *(2, 3, 5, 9, 3, 4, 6, 10, 18, -1, -2, -4, 3, 5, 3, 5),  # int8 to map32
    *(1 for _ in range(0x20)),  # small negative numbers
)
"""Bytes of a msgpack value, by its first one. Negative: of its length, which follows; below -100, then its type."""
_NOT_CONTAINERS: Final = bytes(code for code in range(256) if not (0x80 <= code <= 0x9F or 0xDC <= code <= 0xDF))

_BAD_INPUT: Final = (
    ValueError,  # msgpack's, json's and unicode's errors derive from it
    TypeError,
    KeyError,
    OverflowError,
    RecursionError,
    MemoryError,
    msgpack.UnpackException,
)


class CallRequest(NamedTuple):
    """What a call names: `args` and `kwargs` as they came, checked for their type only."""

    object_id: str
    method: str
    args: Sequence[Any]
    kwargs: dict[str, Any]


def supported(serializer: int) -> bool:
    return serializer in (MSGPACK, SERPENT, JSON)


def dumps_call(object_id: str, method: str, args: Sequence[Any]) -> bytes:
    """A call in msgpack. Raises InvalidArgument for values that msgpack cannot carry."""
    try:
        return _packb((object_id, method, args, {}))
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.InvalidArgument(f"the arguments of {object_id}.{method} cannot be sent: {error}") from error


def loads_call(serializer: int, payload: Buffer) -> CallRequest:
    """A call in any serializer that we accept. Raises ProtocolViolation."""
    try:
        if serializer == MSGPACK:
            found = _unpack_distrusted(payload)
        elif serializer == JSON:
            tree = json.loads(str(payload, "utf-8"))
            found = [tree["object"], tree["method"], *(_revive(tree[key]) for key in ("params", "kwargs"))]
        elif serializer == SERPENT:
            found = _revive(literal.loads(str(payload, "utf-8")))
        else:
            raise _refused(serializer)
        object_id, method, args, kwargs = found
    except _BAD_INPUT as error:
        raise errors.ProtocolViolation(f"a call cannot be read: {error}") from error
    kwargs = {} if kwargs is None else kwargs
    if not isinstance(object_id, str) or not isinstance(method, str) or not isinstance(args, list | tuple):
        raise errors.ProtocolViolation("a call is not (object, method, arguments, named arguments)")
    if not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise errors.ProtocolViolation("the named arguments of a call are no map of names")
    return CallRequest(object_id, method, args, kwargs)


def dumps(serializer: int, value: Any) -> bytes:
    """A result. Raises TypeError, ValueError or OverflowError for what the serializer cannot carry."""
    if serializer == MSGPACK:
        return _packb(value)
    if serializer == SERPENT:
        return _dumps_serpent(value)
    return json.dumps(value, ensure_ascii=False, default=_to_plain).encode("utf-8")


def loads(serializer: int, payload: Buffer) -> Any:
    """A result, or what answers a handshake. Raises ProtocolViolation."""
    try:
        if serializer == MSGPACK:
            return _unpackb(payload, strict_keys=False)
        return _loads_foreign(serializer, payload, limits.FOREIGN_VALUES_MAX)
    except _BAD_INPUT as error:
        raise errors.ProtocolViolation(f"a message cannot be read: {error}") from error


def loads_handshake(serializer: int, payload: Buffer) -> Any:
    """What a client says who may be anybody. Raises ProtocolViolation."""
    try:
        if serializer == MSGPACK:
            return _unpack_distrusted(payload)
        return _loads_foreign(serializer, payload, limits.HANDSHAKE_VALUES_MAX)
    except _BAD_INPUT as error:
        raise errors.ProtocolViolation(f"a handshake cannot be read: {error}") from error


def _loads_foreign(serializer: int, payload: Buffer, values_max: int) -> Any:
    """`values_max` is for serpent, whose values take longest."""
    if serializer == JSON:
        return _revive(json.loads(str(payload, "utf-8")))
    if serializer == SERPENT:
        return _revive(literal.loads(str(payload, "utf-8"), values_max))
    raise _refused(serializer)


def _refused(serializer: int) -> errors.ProtocolViolation:
    name = "marshal" if serializer == MARSHAL else f"number {serializer}"
    return errors.ProtocolViolation(f"the serializer {name} is not accepted: use msgpack, serpent or json")


def _to_plain(value: Any) -> Any:
    """What msgpack and json write for a value that they do not know."""
    if isinstance(value, Set):
        return list(value)
    if isinstance(value, URI):
        return {"__class__": _URI_CLASS, "state": value.__getstate__()}
    if isinstance(value, bytes | bytearray | memoryview):  # json only: as serpent writes them
        return {"data": base64.b64encode(value).decode("ascii"), "encoding": "base64"}
    raise TypeError(f"a value of type {type(value).__name__} cannot be sent")


def _packb(value: Any) -> bytes:
    # A tuple, and so a NamedTuple, is an array; subclasses of str and int, and so their enums, what they hold.
    packed: bytes = msgpack.packb(value, use_bin_type=True, default=_to_plain)
    return packed


def _dumps_serpent(value: Any) -> bytes:
    collecting = gc.isenabled()
    try:
        written: bytes = serpent.dumps(value, module_in_classname=True)
        return written
    finally:
        if not collecting:  # serpent switches the collector on when it is done, whatever it was before
            gc.disable()


def _unpackb(payload: Buffer, *, strict_keys: bool) -> Any:
    items_max = min(len(payload), limits.CONTAINER_ITEMS_MAX)
    return msgpack.unpackb(
        payload,
        raw=False,
        strict_map_key=strict_keys,
        max_array_len=items_max,
        max_map_len=items_max,
        object_hook=_revive_map,
        ext_hook=_revive_extension,
    )


def _unpack_distrusted(payload: Buffer) -> Any:
    """What anybody may send: it costs what its bytes are worth, whatever they claim."""
    if len(payload) > limits.MESSAGE_VALUES_MAX:  # each value has a byte at least
        _check_values(payload)
    # Most calls are so short, with so few bytes that could open a container, that there is nothing to check.
    containers_max = len(bytes(payload).translate(None, _NOT_CONTAINERS))
    if containers_max * len(payload) > limits.CONTAINER_ITEMS_MAX:
        _check_complete(payload)
    found = _unpackb(payload, strict_keys=True)
    if containers_max > limits.MESSAGE_DEPTH_MAX:
        _check_depth(found)
    return found


def _check_complete(payload: Buffer) -> None:
    """Raise ValueError, or an UnpackException, if items are missing that containers claim to have. Makes none."""
    size = len(payload)
    unpacker = msgpack.Unpacker(read_size=size, max_buffer_size=size)
    unpacker.feed(payload)
    unpacker.skip()


def _check_values(payload: Buffer) -> None:
    """Raise ValueError if there are more than `limits.MESSAGE_VALUES_MAX` values."""
    sizes, end = _SIZES, len(payload)
    position = count = 0
    while position < end:
        size = sizes[payload[position]]
        if size > 0:
            position += size
        else:
            with_type = size < -100
            width = -size - 100 * with_type
            length = int.from_bytes(payload[position + 1 : position + 1 + width], "big")
            position += 1 + width + with_type + length
        count += 1
        if count > limits.MESSAGE_VALUES_MAX:
            raise ValueError(f"it has more than {limits.MESSAGE_VALUES_MAX} values")


def _check_depth(value: Any) -> None:
    """Raise ValueError if containers in `value` nest deeper than `limits.MESSAGE_DEPTH_MAX`."""
    level = [value]
    for _ in range(limits.MESSAGE_DEPTH_MAX + 1):
        lists = [item for item in level if type(item) is list]
        maps = [item for item in level if type(item) is dict]
        level = [item for items in lists for item in items if type(item) is list or type(item) is dict]
        level += [item for items in maps for item in items.values() if type(item) is list or type(item) is dict]
        if not level:
            return
    raise ValueError(f"it nests deeper than {limits.MESSAGE_DEPTH_MAX}")


def _revive_map(found: dict[Any, Any]) -> Any:
    if "__class__" in found and found["__class__"] == _URI_CLASS:
        return _revive_uri(found)
    return found


def _revive_extension(code: int, data: bytes) -> int:
    if code != _EXT_LONG or len(data) > _LONG_DIGITS_MAX:
        raise ValueError(f"a msgpack extension of type {code} is not accepted")
    return int(data)


def _revive_uri(found: dict[Any, Any]) -> URI:
    """The URI whose state is (protocol, object, socket name, host, port), checked by writing it out anew."""
    state = found.get("state")
    if not isinstance(state, list | tuple) or len(state) != _URI_FIELDS:
        raise ValueError("a URI without its five fields")
    protocol, object_id, sockname, host, port = state
    if protocol != "PYRO" or not isinstance(object_id, str):
        raise ValueError("a URI that is not PYRO:object@address")
    if sockname is None and isinstance(host, str) and isinstance(port, int):
        location = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    elif isinstance(sockname, str):
        location = f"./u:{sockname}"
    else:
        raise ValueError("a URI without a location")
    return _make_uri(f"PYRO:{object_id}@{location}")


def _make_uri(text: str) -> URI:
    try:
        return URI(text)
    except Exception as error:  # Pyro5's errors have no other base
        raise ValueError(f"{text!r} is no URI") from error


def _revive(value: Any, depth: int = 0) -> Any:
    """Turn what serpent and json write for URIs and bytes back, in place of the maps that they write."""
    if depth > limits.MESSAGE_DEPTH_MAX:
        raise ValueError(f"it nests deeper than {limits.MESSAGE_DEPTH_MAX}")
    kind = type(value)
    if kind is dict:
        if value.get("encoding") == "base64" and len(value) == 2 and isinstance(value.get("data"), str):
            return _revive_bytes(value["data"])
        if value.get("__class__") == "float":  # serpent's way to write nan
            return float(value["value"])
        return _revive_map({key: _revive(item, depth + 1) for key, item in value.items()})
    if kind is list:
        return [_revive(item, depth + 1) for item in value]
    if kind is tuple:
        return tuple(_revive(item, depth + 1) for item in value)
    return value


def _revive_bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("bytes that are not base64") from error
