"""A key file that changes while a program runs: watched by who reads it, replaced by who gets a newer key."""

from __future__ import annotations

import os
from pathlib import Path

from dfs import errors, keys
from dfs.keys import Key, KeyFile


class KeyStore:
    """One file, and what it held when it was last looked at. Belongs to one task."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` for a file that is no key file."""
        self.path = path.absolute()
        self._seen = _stamp(path)
        self.content = keys.load(path)

    @property
    def key(self) -> Key:
        """The key in it. Raises `ConfigError` if there is none."""
        return keys.key_in(self.path, self.content)

    def look(self) -> KeyFile | None:
        """What the file holds, if it changed since the last look; else None. Raises `ConfigError`."""
        stamp = _stamp(self.path)
        if stamp is None or stamp == self._seen:
            return None
        self._seen = stamp
        self.content = keys.load(self.path)
        return self.content

    def keep(self, new: KeyFile) -> None:
        """Put a new key, and the masters that come with it, into the file. Raises `ConfigError`, which says what to do.

        What else the file says stays. The program goes on with the new key in any case: only its next start would be
        with the old one.
        """
        self.content = _renewed(self.content, new)
        try:
            with keys.locked(self.path):
                there = keys.load(self.path)
                if _whose(there) != _whose(self.content):
                    raise errors.ConfigError("it is another's key file by now")
                self.content = _renewed(there, new)
                keys.replace(self.path, self.content)
        except OSError as error:
            raise errors.ConfigError(
                f"{self.path}: a newer key could not be put there ({error.strerror or error}): let this user write the"
                " file and its directory, or replace the file before the old key is retired"
            ) from None
        self._seen = _stamp(self.path)


def _renewed(content: KeyFile, new: KeyFile) -> KeyFile:
    return content._replace(
        key=new.key, masters=new.masters, cluster=new.cluster or content.cluster, revoked=new.revoked
    )


def _whose(content: KeyFile) -> object:
    """Whose key it is, and what narrows it."""
    return None if content.key is None else (content.key.id.holder, content.key.id.claims)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What differs when the file was replaced or written to, or its rights changed; None if it is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - as it is, through links
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)
