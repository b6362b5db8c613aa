"""The options of a mount: what `-o` of `dfs mount`, mount(8) and fstab may say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from dfs import errors, limits, posix

_OPPOSITES: Final = {
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "nosuid": "suid",
    "nodev": "dev",
    "noexec": "exec",
}
"""What the kernel may be told anew of a mount that is there, as `ro` and `rw`. Of opposites the later one counts."""
_KERNEL: Final = {*_OPPOSITES, "allow_other", "noatime"}
_ALLOWED: Final = {"allow_suid": "suid", "allow_dev": "dev"}
"""Words of ours for what mount(8) keeps to itself when it is asked for it, as that is its own default."""
_FLAGS: Final = {"root_squash", "nodiratime", "flush_on_close", "sync_metadata"}
"""Ours to keep: libfuse refuses to hear of them."""
_FOR_OTHERS: Final = {
    "_netdev",
    "noauto",
    "auto",
    "nofail",
    "user",
    "nouser",
    "users",
    "defaults",
    "async",
    "relatime",
    "atime",
    "diratime",
    "default_permissions",
    "silent",
}
"""Meant for mount(8), systemd or nobody, or what a mount does anyway: accepted and passed over."""
_PASSED_OVER: Final = ("x-", "user_id=", "group_id=")
"""How more of them begin; the last two are what the kernel lists of any FUSE file system."""
_NUMBERS: Final = {"uid": "uid", "gid": "gid", "wait": "wait_s", "cache": "cache_entries"}
_BOUNDS: Final = {
    "uid": (0, posix.ID_MAX),
    "gid": (0, posix.ID_MAX),
    "wait": (1, limits.MOUNT_WAIT_MAX_S),
    "cache": (limits.CACHE_ENTRIES_MIN, limits.MOUNT_CACHE_ENTRIES_MAX),
}
"""The smallest number with which a mount works, and the largest."""
NOBODY: Final = 65534


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What one mount is to be like."""

    read_only: bool = False
    allow_other: bool = False
    root_squash: bool = False
    """What root makes here belongs to nobody, and root may not change owners."""
    uid: int | None = None
    """Show every file as this user's, and make new ones his."""
    gid: int | None = None
    nodiratime: bool = False
    """Listing a directory leaves its access time alone."""
    wait_s: float | None = None
    """How long an operation waits for a NameNode that is away; None: as the client's configuration says."""
    key: Path | None = None
    """The file with the key, instead of the one that the client's configuration names."""
    cache_entries: int = limits.CACHE_ENTRIES_MAX
    """Inodes whose attributes, and names, that are remembered at most."""
    flush_on_close: bool = False
    """Closing a file returns when what was written to it is at the NameNode."""
    sync_metadata: bool = False
    """Every change of names and attributes is durable at the NameNode when it returns."""
    kernel: frozenset[str] = frozenset()
    """Passed on to the kernel as they are."""

    @property
    def keeps_file_atimes(self) -> bool:
        """Whether reading a file here moves its access time."""
        return not self.read_only and "noatime" not in self.kernel

    @property
    def keeps_directory_atimes(self) -> bool:
        return self.keeps_file_atimes and not self.nodiratime

    @property
    def changeable(self) -> list[str]:
        """What is said here that the kernel may be told anew of a mount that is there."""
        return ["ro" if self.read_only else "rw", *sorted(self.kernel & _OPPOSITES.keys())]

    def beyond(self, other: Options) -> list[str]:
        """What is asked for here, is not so with `other`, and cannot be changed while it is mounted: the options."""
        usual = Options()
        words = {field: word for word, field in _NUMBERS.items()}
        fields = [field.name for field in dataclasses.fields(Options) if field.name not in ("read_only", "kernel")]
        asked = [name for name in fields if getattr(self, name) not in (getattr(usual, name), getattr(other, name))]
        return sorted([*(words.get(name, name) for name in asked), *(self.kernel - _OPPOSITES.keys() - other.kernel)])


def parse(text: str) -> Options:
    """Options as after `-o`, separated by commas. Raises `InvalidArgument` for one that is not known or cannot be."""
    values: dict[str, object] = {}
    kernel: set[str] = set()
    for option in filter(None, text.split(",")):
        name, _, value = option.partition("=")
        if name in (*_NUMBERS, "key") and not value:
            raise errors.InvalidArgument(f"the option {name} needs a value: {name}=...")
        if name in _NUMBERS:
            values[_NUMBERS[name]] = _number(name, value)
        elif name == "key":
            values["key"] = Path(value)
        elif option in ("ro", "rw"):
            values["read_only"] = option == "ro"
        elif option in _FLAGS:
            values[option] = True
        elif option in _KERNEL or option in _ALLOWED:
            word = _ALLOWED.get(option, option)
            kernel.discard(_OPPOSITES.get(word, ""))
            kernel.add(word)
        elif option not in _FOR_OTHERS and not option.startswith(_PASSED_OVER):
            words = {"ro", "rw", "uid=N", "gid=N", "wait=SECONDS", "cache=ENTRIES", "key=FILE", *_ALLOWED}
            known = ", ".join(sorted(words | _FLAGS | _KERNEL))
            raise errors.InvalidArgument(f"not an option of a mount: {option!r}; known are {known}")
    values["allow_other"] = "allow_other" in kernel
    return Options(**values, kernel=frozenset(kernel - {"allow_other"}))  # type: ignore[arg-type]


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise errors.InvalidArgument(f"the option {name} takes a number, not {value!r}")
    least, most = _BOUNDS[name]
    if not least <= int(value) <= most:
        raise errors.InvalidArgument(f"the option {name} is from {least} to {most}, and not {value}")
    return int(value)
