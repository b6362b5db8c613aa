"""What goes in and out of the three serializers, and what hostile input gets."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
import serpent
from hypothesis import given
from hypothesis import strategies as st
from Pyro5.core import URI

from dfs import errors, limits
from dfs.keys import CLAIMS, KeyId, Role
from dfs.rpc import literal, serialize
from dfs.rpc.protocol import JSON, MARSHAL, MSGPACK, SERPENT
from dfs.types import Attr, Ino, NodeState

ATTR = Attr(Ino(1), 0o40755, 2, 0, 0, 0, 5, 0, 1, 2, 3, 4, 9, 3)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def as_lists(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return value


@given(TREES, st.sampled_from([MSGPACK, SERPENT, JSON]))
def test_values_come_back_as_they_went(tree: Any, serializer: int) -> None:
    assert as_lists(serialize.loads(serializer, serialize.dumps(serializer, tree))) == as_lists(tree)


@given(TREES | st.sets(st.integers()) | st.binary() | st.complex_numbers(allow_nan=False, allow_infinity=False))
def test_the_reader_of_serpent_reads_what_serpent_writes(tree: Any) -> None:
    for as_repr in (False, True):
        text = serpent.dumps(tree, bytes_repr=as_repr).decode()
        assert literal.loads(text) == serpent.loads(text.encode())


def test_special_values_of_serpent() -> None:
    text = serpent.dumps([math.inf, -math.inf, math.nan, -5, -5.5e-7, set(), {1, 2}, (), (1,), {}, b"x"]).decode()
    found = serialize.loads(SERPENT, text.encode())
    assert found[:2] == [math.inf, -math.inf]
    assert math.isnan(found[2])
    assert found[3:] == [-5, -5.5e-7, (), {1, 2}, (), (1,), {}, b"x"]
    assert literal.loads("'it\\'s' ") == "it's"
    assert literal.loads("(1.5-2j)") == 1.5 - 2j


@pytest.mark.parametrize("serializer", [MSGPACK, SERPENT, JSON])
def test_named_tuples_enums_and_bytes_arrive_plain(serializer: int) -> None:
    found = serialize.loads(serializer, serialize.dumps(serializer, [ATTR, NodeState.UP, b"\0name", {"a", "b"}]))
    assert list(found[0]) == list(ATTR)
    assert type(found[0]) in (list, tuple)
    assert found[1] == "up"
    assert type(found[1]) is str
    assert found[2] == b"\0name"
    assert sorted(found[3]) == ["a", "b"]


@pytest.mark.parametrize("serializer", [MSGPACK, SERPENT, JSON])
def test_only_uris_become_objects(serializer: int) -> None:
    uri = URI("PYRO:thing@127.0.0.1:9090")
    proxy = {"__class__": "Pyro5.client.Proxy", "state": ["PYRO:x@y:1"]}
    error = {"__class__": "builtins.SystemExit", "__exception__": True, "args": [], "attributes": {}}
    found = serialize.loads(serializer, serialize.dumps(serializer, [uri, proxy, error]))
    assert isinstance(found[0], URI)
    assert found[0] == uri
    assert [type(item) for item in found[1:]] == [dict, dict]


@pytest.mark.parametrize(
    "state", [[], None, [1, 2, 3, 4, 5], ["PYRO", "o", None, None, None], ["PYRO", "a b", None, "h", 1]]
)
def test_a_uri_that_is_none_is_refused(state: Any) -> None:
    payload = msgpack.packb([{"__class__": "Pyro5.core.URI", "state": state}])
    with pytest.raises(errors.ProtocolViolation):
        serialize.loads(MSGPACK, payload)


@given(st.binary(max_size=300), st.sampled_from([MSGPACK, SERPENT, JSON, MARSHAL, 0, 99]))
def test_no_bytes_do_worse_than_a_protocol_violation(noise: bytes, serializer: int) -> None:
    for load in (serialize.loads, serialize.loads_handshake, serialize.loads_call):
        try:
            load(serializer, noise)
        except errors.ProtocolViolation:
            pass


@given(st.text("([{'\"-+,:b\\#\n 1.ejNonTrue", max_size=200))
def test_no_text_does_worse_than_a_value_error(text: str) -> None:
    try:
        literal.loads(text)
    except ValueError:
        pass


_MIB = limits.FOREIGN_MESSAGE_MAX_BYTES
HOSTILE = {
    "brackets": "[" * _MIB,
    "braces": "{" * _MIB,
    "mixed brackets": "([{" * (_MIB // 3),
    "closed brackets": "[" * 5000 + "]" * 5000,
    "minus signs": "-" * _MIB + "1",
    "spaced minus signs": "- " * (_MIB // 2) + "1",
    "nots": "not " * (_MIB // 4) + "1",
    "tildes": "~" * _MIB,
    "sums": "1+" * (_MIB // 2) + "1",
    "powers": "9**" * (_MIB // 3) + "9",
    "attributes": "a" + ".a" * (_MIB // 2),
    "lambdas": "lambda:" * (_MIB // 7) + "1",
    "joined strings": "'a' " * (_MIB // 4),
    "formatted strings": "f'{" * (_MIB // 3),
    "a long number": "9" * _MIB,
    "a quote that never ends": "'" + "\\'" * (_MIB // 2),
    "many values": "[" + "1," * (_MIB // 2 - 2) + "]",
    "spaces": " " * _MIB,
    "comments": "#\n" * (_MIB // 2),
    "a broken escape": "'\\x'",
    "an unknown escape": "'\\:'",
    "a character beyond unicode": "'\\Uffffffff'",
    "bytes that are none": "b'\u00e9'",
    "a zero": "'\0'",
    "a call": "__import__('os').abort()",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_serpent_is_refused_soon(name: str) -> None:
    started = time.perf_counter()
    with pytest.raises(errors.ProtocolViolation):
        serialize.loads_call(SERPENT, HOSTILE[name].encode())
    assert time.perf_counter() - started < 3, "time is not in proportion to the text"


@pytest.mark.parametrize("name", ["brackets", "braces", "a long number", "closed brackets"])
def test_hostile_json_is_refused_soon(name: str) -> None:
    with pytest.raises(errors.ProtocolViolation):
        serialize.loads_call(JSON, HOSTILE[name].encode())


def test_deep_json_is_refused() -> None:
    deep: Any = []
    for _ in range(limits.MESSAGE_DEPTH_MAX + 5):
        deep = [deep]
    call = {"object": "o", "method": "m", "params": [deep], "kwargs": {}}
    with pytest.raises(errors.ProtocolViolation, match="deeper"):
        serialize.loads_call(JSON, json.dumps(call).encode())


def test_msgpack_that_nests_too_deep_or_claims_too_much_is_refused() -> None:
    hostile = [
        b"\x91" * 100 + b"\xc0",
        b"\x91" * 100_000,
        b"\x81\xa1k" * 60 + b"\xc0",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\x00\x7f\xff\xff" + bytes(8_000_000),
        b"\xc6\xff\xff\xff\xff",
        b"\xd4\x30\x00",
        b"\xc7\x05\x31abcde",
        b"\x81\x01\x02",  # a key that is a number
    ]
    for payload in hostile:
        with pytest.raises(errors.ProtocolViolation):
            serialize.loads_call(MSGPACK, b"\x94\xa1o\xa1m\x91" + payload + b"\x80")


@pytest.mark.parametrize("load", [serialize.loads_handshake, serialize.loads_call])
@pytest.mark.parametrize("is_deep", [True, False])
def test_lists_that_are_not_there_take_no_memory(load: Callable[[int, bytes], Any], is_deep: bool) -> None:
    size = limits.HANDSHAKE_MAX_BYTES
    heads = (b"\xdc" + size.to_bytes(2, "big")) * (1000 if is_deep else 20)
    payload = heads + b"\xc0" * (size - len(heads))
    tracemalloc.start()
    try:
        with pytest.raises(errors.ProtocolViolation):
            load(MSGPACK, payload)
        assert tracemalloc.get_traced_memory()[1] < 16 * size
    finally:
        tracemalloc.stop()


def test_a_handshake_that_nests_too_deep_or_has_too_many_values_is_refused() -> None:
    for payload in (b"\x91" * 500 + b"\xc0", b"\x81\xa1k" * 500 + b"\xc0"):
        with pytest.raises(errors.ProtocolViolation, match="deeper"):
            serialize.loads_handshake(MSGPACK, payload)
    with pytest.raises(errors.ProtocolViolation, match="too many values"):
        serialize.loads_handshake(SERPENT, b"[" + b"1," * limits.HANDSHAKE_VALUES_MAX + b"]")


@pytest.mark.parametrize("serializer", [MSGPACK, SERPENT, JSON])
def test_the_longest_login_is_read(serializer: int) -> None:
    claims = dict.fromkeys(CLAIMS, "/" * 2000)
    key = KeyId.from_wire([1, Role.JOIN, "a" * 64, claims]).to_wire()
    said = {"handshake": {"key": key, "time": 1.5, "nonce": "0" * 32, "proof": "0" * 64}, "object": "dfs.namenode"}
    assert as_lists(serialize.loads_handshake(serializer, serialize.dumps(serializer, said))) == as_lists(said)


def test_a_call_as_deep_as_allowed_is_read() -> None:
    value: Any = 1
    for _ in range(limits.MESSAGE_DEPTH_MAX - 3):
        value = [value]
    found = serialize.loads_call(MSGPACK, serialize.dumps_call("o", "m", [value, *([[]] * 100)]))
    assert found.args[0] == value


def test_a_batch_of_commands_is_read() -> None:
    commands = [[seq, "create", [1, b"name", 0o644, 0, 0, True]] for seq in range(limits.BATCH_MAX_COMMANDS)]
    found = serialize.loads_call(MSGPACK, serialize.dumps_call("dfs.namenode", "apply", [7, 0, commands]))
    assert found == ("dfs.namenode", "apply", [7, 0, commands], {})


@pytest.mark.parametrize("call", [[], [1, "m", [], {}], ["o", "m", "args", {}], ["o", "m", [], []], "text", None])
def test_what_is_no_call_is_refused(call: Any) -> None:
    for serializer in (MSGPACK, SERPENT):
        with pytest.raises(errors.ProtocolViolation):
            serialize.loads_call(serializer, serialize.dumps(serializer, call))


def test_arguments_that_cannot_travel_are_an_invalid_argument() -> None:
    for bad in (object(), 2**70, 1j):
        with pytest.raises(errors.InvalidArgument):
            serialize.dumps_call("o", "m", [bad])


def _count(value: Any) -> int:
    if isinstance(value, list | tuple) and not isinstance(value, msgpack.ExtType):
        return 1 + sum(map(_count, value))
    if isinstance(value, dict):
        return 1 + sum(_count(key) + _count(item) for key, item in value.items())
    return 1


EXTENSIONS = st.builds(msgpack.ExtType, st.just(49), st.binary(max_size=300))
LARGE = st.binary(max_size=70_000) | st.text(max_size=300) | st.integers(-(2**63), 2**64 - 1)


@given(TREES | LARGE | EXTENSIONS)
def test_values_are_counted_before_any_is_made(value: Any) -> None:
    payload = msgpack.packb([value, value])
    count = 1 + 2 * _count(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "MESSAGE_VALUES_MAX", count)
        serialize._check_values(payload)
        patch.setattr(limits, "MESSAGE_VALUES_MAX", count - 1)
        with pytest.raises(ValueError, match="values"):
            serialize._check_values(payload)


def test_a_call_of_very_many_values_is_refused_and_one_of_many_bytes_is_not() -> None:
    many = [[[] for _ in range(60_000)] for _ in range(20)]
    with pytest.raises(errors.ProtocolViolation, match="values"):
        serialize.loads_call(MSGPACK, serialize.dumps_call("object", "method", many))
    large = serialize.dumps_call("object", "method", [bytes(2 * limits.MESSAGE_VALUES_MAX)])
    assert len(serialize.loads_call(MSGPACK, large).args[0]) == 2 * limits.MESSAGE_VALUES_MAX


@given(st.binary(max_size=200))
def test_counting_the_values_of_nonsense_ends(payload: bytes) -> None:
    serialize._check_values(payload)
