"""Reads serpent's text: the literals of Python that serpent writes, and nothing else.

The serpent library hands what it receives to `ast.literal_eval`, which compiles it: a megabyte of brackets or
minus signs can take the parser's stack, its memory, or minutes. This reader knows only what
`serpent.dumps` writes (None, booleans, numbers, complex numbers, strings, bytes, tuples, lists, sets, dicts),
takes time in proportion to the text, nests no deeper than `limits.MESSAGE_DEPTH_MAX`, and reads no more values than
it is told.
"""

from __future__ import annotations

import ast
import re
from typing import Any, Final

from dfs import limits

_BYTE_ESCAPE: Final = r"""(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2})"""
_ESCAPE: Final = r"""(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8})"""
_TOKEN: Final = re.compile(
    r"""[ \t\r\n]*(?:
      (?P<string>'(?:[^'\\\n]|\\ESCAPE)*'|"(?:[^"\\\n]|\\ESCAPE)*")
    | (?P<bytes>b'(?:[^'\\\n]|\\BYTE)*'|b"(?:[^"\\\n]|\\BYTE)*")
    | (?P<number>-?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?j?|-?nan|-?inf)
    | (?P<name>None|True|False)
    | (?P<mark>[()\[\]{},:+])
    )""".replace("ESCAPE", _ESCAPE).replace("BYTE", _BYTE_ESCAPE),
    re.VERBOSE,
)
_COMMENT: Final = re.compile(r"(?:[ \t\r\n]*\#[^\n]*\n)*")  # serpent's first line
_NAMES: Final = {"None": None, "True": True, "False": False}
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
_INTEGER_DIGITS_MAX: Final = 4300  # as int(): longer ones take quadratic time


def loads(text: str, values_max: int = limits.FOREIGN_VALUES_MAX) -> Any:
    """The value that `text` writes. Raises ValueError for anything that serpent would not write, and for too much."""
    reader = _Reader(text, values_max)
    try:
        value = reader.value(0)
    except TypeError as error:  # a list or a dict as a key, or in a set
        raise ValueError(str(error)) from error
    reader.expect_end()
    return value


class _Reader:
    """A recursive descent over the tokens, which looks one token ahead."""

    def __init__(self, text: str, values_max: int) -> None:
        self._text = text
        start = _COMMENT.match(text)
        self._position = start.end() if start else 0
        self._values_left = values_max
        self._kind = ""
        self._token = ""
        self._advance()

    def value(self, depth: int) -> Any:
        """The value that starts at the current token, which is left behind."""
        self._values_left -= 1
        if depth > limits.MESSAGE_DEPTH_MAX or self._values_left < 0:
            raise ValueError("too deep, or too many values")
        kind, token = self._kind, self._token
        if kind == "mark":
            return self._container(token, depth)
        self._advance()
        if kind in ("string", "bytes"):
            return _string(token)
        if kind == "number":
            return _number(token)
        if kind == "name":
            return _NAMES[token]
        raise ValueError("a value was expected")

    def expect_end(self) -> None:
        if self._kind:
            raise ValueError("something follows the value")

    def _advance(self) -> None:
        found = _TOKEN.match(self._text, self._position)
        if found is not None:
            self._position = found.end()
            self._kind = found.lastgroup or ""
            self._token = found.group(self._kind)
            return
        if self._text[self._position :].strip():
            raise ValueError(f"serpent does not write what stands at character {self._position}")
        self._kind = self._token = ""

    def _container(self, opening: str, depth: int) -> Any:
        closing = _CLOSING.get(opening)
        if closing is None:
            raise ValueError(f"{opening!r} out of place")
        self._advance()
        if opening == "{":
            return self._braces(depth)
        items, comma = self._items(closing, depth)
        if opening == "[":
            return items
        return items[0] if len(items) == 1 and not comma else tuple(items)

    def _items(self, closing: str, depth: int) -> tuple[list[Any], bool]:
        """The values up to `closing`, and whether the last was followed by a comma."""
        items: list[Any] = []
        comma = True
        while self._token != closing or self._kind != "mark":
            if not comma:
                raise ValueError("a comma was expected")
            items.append(self._sum(depth + 1))
            comma = self._take(",")
        self._advance()
        return items, comma

    def _sum(self, depth: int) -> Any:
        """A value, or the two halves of a complex number: `1.5+2j`, `1.5-2j`."""
        value = self.value(depth)
        if isinstance(value, int | float) and self._kind in ("number", "mark"):
            if self._take("+"):
                return self._imaginary(value, depth)
            if self._kind == "number" and self._token.startswith("-") and self._token.endswith("j"):
                return self._imaginary(value, depth)
        return value

    def _imaginary(self, real: float, depth: int) -> complex:
        imaginary = self.value(depth)
        if not isinstance(imaginary, complex):
            raise ValueError("an imaginary number was expected")
        return real + imaginary

    def _braces(self, depth: int) -> Any:
        """A dict or a set; `{}` is a dict."""
        if self._take("}"):
            return {}
        first = self.value(depth + 1)
        if not self._take(":"):
            rest: list[Any] = []
            if self._take(","):
                rest, _ = self._items("}", depth)
            elif not self._take("}"):
                raise ValueError("a comma was expected")
            return {first, *rest}
        found = {first: self.value(depth + 1)}
        while self._take(",") and not self._is("}"):
            key = self.value(depth + 1)
            if not self._take(":"):
                raise ValueError("a colon was expected")
            found[key] = self.value(depth + 1)
        if not self._take("}"):
            raise ValueError("a brace was expected")
        return found

    def _is(self, mark: str) -> bool:
        return self._kind == "mark" and self._token == mark

    def _take(self, mark: str) -> bool:
        if not self._is(mark):
            return False
        self._advance()
        return True


def _string(token: str) -> str | bytes:
    try:
        value: str | bytes = ast.literal_eval(token)  # one token: there is nothing to nest in it
    except SyntaxError as error:  # a character beyond Unicode, or one that is no byte
        raise ValueError(f"a string that cannot be read: {error.msg}") from error
    return value


def _number(token: str) -> int | float | complex:
    if token.endswith("j"):
        return complex(0, float(token[:-1]))
    if token.lstrip("-").isdigit():
        if len(token) > _INTEGER_DIGITS_MAX:
            raise ValueError("an integer of too many digits")
        return int(token)
    return float(token)
