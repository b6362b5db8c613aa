"""Permissions as chmod takes them: `644`, `u+rwx,g-w`, `a=rX`, `g=u`, `+t`.

    mode     ::= octal | clause ("," clause)*
    clause   ::= [ugoa]* change+
    change   ::= [+-=] ([rwxXst]* | [ugo])

Octal numbers and clauses both become changes, which are applied in order. What they do is POSIX's chmod with two
rules of GNU's: without a `who`, bits of the umask are left alone; and of a directory, set-id bits stay unless they
are mentioned (or the octal number has more than four digits).
"""

from __future__ import annotations

import re
import stat
from typing import Final, NamedTuple

_ALL: Final = 0o7777
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_WHO: Final = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": _ALL}
_BITS: Final = {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0, "s": _SET_ID, "t": stat.S_ISVTX}
_COPIED: Final = {"u": 6, "g": 3, "o": 0}  # where the bits that `=u` copies stand
_CLAUSE: Final = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_CHANGE: Final = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_OCTAL: Final = re.compile(r"[0-7]{1,6}")


class Change(NamedTuple):
    """One step: an operator, and the bits it is about."""

    operator: str
    value: int
    affected: int
    """Bits of those named before the operator; 0: nobody is named, the umask counts."""
    mentioned: int
    """Set-id bits outside of these stay as they are on a directory."""
    if_executable: bool = False
    """`X`: execute, too, if it is a directory or somebody may execute it."""
    copied_from: int | None = None
    """The bits are those of user, group or others, shifted by so much."""

    def apply(self, mode: int, *, directory: bool, umask: int) -> int:
        kept = (_SET_ID if directory else 0) & ~self.mentioned
        value = self._value(mode, directory) & (self.affected or ~umask & _ALL) & ~kept
        if self.operator == "+":
            return mode | value
        if self.operator == "-":
            return mode & ~value
        return mode & ((~self.affected if self.affected else 0) | kept) | value

    def _value(self, mode: int, directory: bool) -> int:
        if self.copied_from is not None:
            return 0o111 * (mode >> self.copied_from & 0o7)
        if self.if_executable and (directory or mode & 0o111):
            return self.value | 0o111
        return self.value


def parse(text: str) -> list[Change]:
    """The changes that `text` asks for. Raises ValueError with a sentence."""
    if _OCTAL.fullmatch(text):
        return [_octal(text)]
    changes: list[Change] = []
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError(f"not a mode: {text!r}; write something like 644, u+rw or go-w,a+X")
        affected = 0
        for who in match[1]:
            affected |= _WHO[who]
        changes += [_symbolic(operator, letters, affected) for operator, letters in _CHANGE.findall(match[2])]
    return changes


def _octal(text: str) -> Change:
    value = int(text, 8)
    if value > _ALL:
        raise ValueError(f"not a mode: {text!r} is more than 7777")
    return Change("=", value, _ALL, _ALL if len(text) > 4 else value & _SET_ID | 0o1777)


def _symbolic(operator: str, letters: str, affected: int) -> Change:
    if letters in _COPIED and letters:
        return Change(operator, 0, affected, 0, copied_from=_COPIED[letters])
    value = 0
    for letter in letters:
        value |= _BITS[letter]
    return Change(operator, value, affected, affected & value if affected else value, "X" in letters)


def changed(changes: list[Change], mode: int, *, directory: bool, umask: int) -> int:
    """The permission bits of a file of `mode` after `changes`."""
    bits = stat.S_IMODE(mode)
    for change in changes:
        bits = change.apply(bits, directory=directory, umask=umask)
    return bits
