"""Configuration: one flat TOML file for each kind of program, checked whole before anything starts.

    namenode.toml     NameNodeConfig
    datanode.toml     DataNodeConfig
    client.toml       ClientConfig

The dataclasses below are the reference: a field is a key, its default is the key's default, its metadata says
what it means and what values it takes. `example` prints a commented file from them, `check` finds what is wrong
with one. A key that is not known, a value of the wrong kind or out of range is refused with the file, the line and
what to do. Sizes may be written as numbers of bytes or as "20 GiB", times are seconds.
"""

# ruff: noqa: RUF009 - `_key` makes dataclass fields, as `field` does

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from dfs import errors, keys, limits
from dfs.types import NODE_NAME, NODE_NAME_RULE

_UNITS: Final = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([BKMGTP]?)(?:i?B)?", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"(\./u:.+|\[[0-9a-fA-F:.]+\]:[0-9]{1,5}|[^:\s\[\]/]+:[0-9]{1,5})")
_SIZE_MAX: Final = 2**60
_SECONDS_MAX: Final = 1e9
"""Some 30 years."""
_LEVELS: Final = ("debug", "info", "warning", "error")


def _key(doc: str, default: Any = dataclasses.MISSING, *, example: str = "", size: bool = False) -> Any:
    metadata = {"doc": doc, "example": example, "size": size}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _require(condition: bool, key: str, sentence: str) -> None:
    if not condition:
        raise _Bad(key, sentence)


class _Bad(errors.InvalidArgument):
    """A value of `key` that cannot be."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(f"{key} {sentence}")
        self.key = key
        self.sentence = sentence


def _check_address(key: str, address: str) -> None:
    _require(bool(_ADDRESS.fullmatch(address)), key, f"is not an address: {address!r}; write HOST:PORT")
    if not address.startswith("./u:"):
        _require(int(address.rpartition(":")[2]) < 65536, key, f"has a port above 65535: {address!r}")


def with_port(host: str, port: int) -> str:
    """`host` may have a port, or be an IPv6 address with or without brackets."""
    if host.count(":") > 1 and not host.startswith("["):
        return f"[{host}]:{port}"
    has_port = re.fullmatch(r"(\[.*\]|[^:]*):[0-9]+", host)
    return host if has_port else f"{host}:{port}"


def namenode_address(host: str) -> str:
    """Where a NameNode is, with the usual port if `host` names none. What is no address stays as it is."""
    address = with_port(host, limits.NAMENODE_PORT)
    return address if _ADDRESS.fullmatch(address) and not _ADDRESS.fullmatch(host) else host


def is_anywhere(address: str) -> bool:
    """Whether it stands for all addresses of a machine: others cannot be told that."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        pass
    try:
        return not any(socket.inet_aton(host))  # of fewer numbers, as 0
    except OSError:
        return False


def _check_level(level: str) -> None:
    _require(level in _LEVELS, "log_level", f"is one of {', '.join(_LEVELS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NameNodeConfig:
    """What a NameNode needs to know."""

    state_dir: Path = _key(
        "Where the namespace is kept: on a disk that survives power cuts, with room to grow.",
        example="/var/lib/dfs/namenode",
    )
    keys: Path = _key(
        "The file with the cluster's master secrets, made by `dfs key init`: all keys are made from them.",
        Path("cluster.keys"),
    )
    listen: str = _key("Where clients and DataNodes reach this NameNode.", f"127.0.0.1:{limits.NAMENODE_PORT}")
    nameserver: str = _key(
        'Pyro5\'s name server, in which all daemons are listed: served by this NameNode at "HOST:PORT",\n'
        'someone else\'s ("at HOST:PORT"), or "off". Where the default is taken, the NameNode does without.',
        f"127.0.0.1:{limits.NAMESERVER_PORT}",
    )
    replicas: int = _key("Copies of every file's data, where the file says nothing else.", limits.REPLICAS_DEFAULT)
    min_replicas: int = _key(
        "Fewest copies on which data counts as written; never more than the copies it is to have.",
        limits.MIN_REPLICAS_DEFAULT,
    )
    session_timeout_s: float = _key("Silence after which a client is taken for dead.", limits.SESSION_TIMEOUT_S)
    node_suspect_after_s: float = _key("Silence after which a DataNode gets no new data.", limits.NODE_SUSPECT_AFTER_S)
    node_dead_after_s: float = _key(
        "Silence after which a DataNode's copies are made again elsewhere.", limits.NODE_DEAD_AFTER_S
    )
    maintenance_window_s: float = _key(
        "How long a DataNode that was stopped in order, for an update or a reboot, is waited for before its\n"
        "copies are made again elsewhere.",
        limits.MAINTENANCE_WINDOW_S,
    )
    garbage_grace_s: float = _key("How long unreferenced data stays on DataNodes.", limits.GARBAGE_GRACE_S)
    reserve_bytes: int = _key(
        "Changes are refused when the disk of state_dir has less space than this.",
        limits.NAMENODE_RESERVE_BYTES,
        size=True,
    )
    repair: bool = _key("Make missing copies again.", True)
    copy_bandwidth: int = _key(
        "What copies for repair, drain and balance may take of each DataNode, in bytes a second; 0 for no limit.",
        limits.COPY_BANDWIDTH_BYTES_PER_S,
        size=True,
    )
    balance: bool = _key("Even out how full the DataNodes are, when there is nothing to repair.", True)
    balance_threshold: float = _key(
        "How far a DataNode's fill level may be from the cluster's: 0.05 is 5 percentage points.",
        limits.BALANCE_THRESHOLD,
    )
    log_level: str = _key(f"One of {', '.join(_LEVELS)}.", "info")

    def __post_init__(self) -> None:
        _check_address("listen", self.listen)
        if self.nameserver != "off":
            _check_address("nameserver", self.nameserver.removeprefix("at ").strip())
        _require(1 <= self.replicas <= limits.REPLICAS_MAX, "replicas", f"is 1 to {limits.REPLICAS_MAX}")
        _require(1 <= self.min_replicas <= limits.REPLICAS_MAX, "min_replicas", f"is 1 to {limits.REPLICAS_MAX}")
        for key in ("session_timeout_s", "node_suspect_after_s"):
            _require(getattr(self, key) > 0, key, "is more than 0")
        for key in ("garbage_grace_s", "maintenance_window_s"):
            _require(getattr(self, key) >= 0, key, "is 0 or more")
        _require(
            self.node_dead_after_s > self.node_suspect_after_s, "node_dead_after_s", "is more than node_suspect_after_s"
        )
        for key in ("reserve_bytes", "copy_bandwidth"):
            _require(getattr(self, key) >= 0, key, "is 0 or more")
        _require(0 < self.balance_threshold < 1, "balance_threshold", "is more than 0 and less than 1")
        _check_level(self.log_level)

    def min_copies(self, replicas: int) -> int:
        """Fewest copies on which data that is to have `replicas` counts as written."""
        return min(self.min_replicas, replicas)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataNodeConfig:
    """What a DataNode needs to know."""

    node: str = _key(f"Its name, unique in the cluster: {NODE_NAME_RULE}.", example="node-1")
    namenode: str = _key(
        f"Where the NameNode is; at port {limits.NAMENODE_PORT} unless it says another.",
        f"127.0.0.1:{limits.NAMENODE_PORT}",
    )
    directories: list[Path] = _key("Where chunks are kept: one directory for each disk.", example='["/srv/dfs/disk1"]')
    key: Path = _key(
        "The file with this node's key, made by `dfs key add NODE --role node`; {node} stands for its name.",
        Path("{node}.key"),
    )
    listen: str = _key("Where clients and other DataNodes reach this one.", f"127.0.0.1:{limits.DATANODE_PORT}")
    advertise: str = _key(
        "The address to tell others, if it is not `listen`: needed when that is 0.0.0.0.", "", example="node-1:9401"
    )
    rack: str = _key("What fails together: copies are spread over racks.", "", example="rack-1")
    capacity_bytes: int = _key(
        "Use no more than this in all directories together; 0 for all there is.", 0, example="500 GiB", size=True
    )
    reserve_bytes: int = _key(
        "A directory whose disk has less space than this takes no new data.",
        limits.DATANODE_RESERVE_BYTES,
        size=True,
    )
    scrub_period_s: float = _key(
        "Every block is read and verified once in this time; 0: only when `dfs scrub --now` asks for it.",
        limits.SCRUB_PERIOD_S,
    )
    scrub_bandwidth: int = _key(
        "Bytes per second that this reads at most, in all directories together.",
        limits.SCRUB_BANDWIDTH_BYTES_PER_S,
        size=True,
    )
    hold_share: float = _key(
        "Orders to delete more than this share of the chunks that are older than an hour, within an hour (and more\n"
        f"than {limits.HOLD_MIN_CHUNKS}), wait for an operator; 1 lets all pass.",
        limits.HOLD_SHARE_DEFAULT,
    )
    lend: bool = _key(
        "Whether clients on this host that run as root, or as this DataNode's user, may read its files themselves,\n"
        "which is faster. Not for hosts where containers that share the host's network and users have keys: their\n"
        "root could then write to these files as well.",
        True,
    )
    log_level: str = _key(f"One of {', '.join(_LEVELS)}.", "info")

    def __post_init__(self) -> None:
        _require(bool(NODE_NAME.fullmatch(self.node)), "node", f"is {NODE_NAME_RULE}: {self.node!r}")
        object.__setattr__(self, "namenode", namenode_address(self.namenode))
        _check_address("namenode", self.namenode)
        _check_address("listen", self.listen)
        if self.advertise:
            _check_address("advertise", self.advertise)
            _require(
                not is_anywhere(self.advertise), "advertise", f"is no address that others can use: {self.advertise}"
            )
        is_known = bool(self.advertise) or not is_anywhere(self.listen)
        _require(is_known, "advertise", f"is needed when listen is {self.listen}")
        _require(bool(self.directories), "directories", "names at least one directory")
        _require(len(set(self.directories)) == len(self.directories), "directories", "names one directory twice")
        _require(
            len(self.directories) <= limits.DIRECTORIES_MAX, "directories", f"has {limits.DIRECTORIES_MAX} at most"
        )
        for key in ("capacity_bytes", "reserve_bytes", "scrub_period_s"):
            _require(getattr(self, key) >= 0, key, "is 0 or more")
        _require(self.scrub_bandwidth > 0, "scrub_bandwidth", "is more than 0")
        _require(0 < self.hold_share <= 1, "hold_share", "is more than 0, and 1 at most")
        _check_level(self.log_level)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """What a client (the command line, a script, a mount) needs to know."""

    namenode: str = _key(
        f"Where the NameNode is; at port {limits.NAMENODE_PORT} unless it says another.",
        f"127.0.0.1:{limits.NAMENODE_PORT}",
    )
    key: Path = _key("The file with the client's key, made by `dfs key add NAME`.", Path("client.key"))
    namenode_wait_s: float = _key("How long an operation waits for a NameNode that is away.", limits.NAMENODE_WAIT_S)

    def __post_init__(self) -> None:
        object.__setattr__(self, "namenode", namenode_address(self.namenode))
        _check_address("namenode", self.namenode)
        _require(self.namenode_wait_s > 0, "namenode_wait_s", "is more than 0")


KINDS: Final[Mapping[str, type[Any]]] = {
    "namenode": NameNodeConfig,
    "datanode": DataNodeConfig,
    "client": ClientConfig,
}

N = TypeVar("N", int, float)
C = TypeVar("C", NameNodeConfig, DataNodeConfig, ClientConfig)

# --- reading --------------------------------------------------------------------------------------------


def parse_size(text: object) -> int:
    """Bytes from a number, or from text such as "64 MiB" or "1.5T" (units are powers of 1024)."""
    if isinstance(text, int) and not isinstance(text, bool):
        return _checked(text)
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError('is a number of bytes or a size like "20 GiB"')
    return int(_checked(float(match[1]) * _UNITS[match[2].upper()]))


def _checked(size: N) -> N:
    if size > _SIZE_MAX:
        raise ValueError("is more than any disk or network has")
    return size


def load_namenode(path: Path) -> NameNodeConfig:
    """Read a file. Raises `ConfigError`, which says where and what to do."""
    return _load(path, NameNodeConfig)


def load_datanode(path: Path) -> DataNodeConfig:
    """Read a file. Raises `ConfigError`, which says where and what to do."""
    return _load(path, DataNodeConfig)


def load_client(path: Path) -> ClientConfig:
    """Read a file. Raises `ConfigError`, which says where and what to do."""
    return _load(path, ClientConfig)


def check(path: Path) -> str:
    """The kind of a file in which nothing is wrong, nor in that of the keys that it names. Raises `ConfigError`."""
    _, values = _read(path)
    kind = _guess_kind(path, values)
    found = _load(path, KINDS[kind])
    try:
        _check_keys(found)
    except errors.ConfigError as error:
        raise errors.ConfigError(f"{path}: {'keys' if kind == 'namenode' else 'key'}: {error}") from None
    return kind


def _check_keys(found: NameNodeConfig | DataNodeConfig | ClientConfig) -> None:
    if isinstance(found, NameNodeConfig):
        keys.load_cluster(found.keys)
    elif isinstance(found, DataNodeConfig):
        keys.load_node(found.key, found.node)
    else:
        keys.load_key(found.key)


def _guess_kind(path: Path, values: Mapping[str, Any]) -> str:
    for kind in KINDS:
        if kind in path.name:
            return kind
    given = set(values)

    def likeness(kind: str) -> int:
        fields = dataclasses.fields(KINDS[kind])
        missing = sum(_is_required(field) and field.name not in given for field in fields)
        known = len(given.intersection(field.name for field in fields))
        return known - (len(given) - known) - missing

    return max(KINDS, key=likeness)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text("utf-8")
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise errors.ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise errors.ConfigError(f"{path}: not TOML: {error}") from None


def _load(path: Path, kind: type[C]) -> C:
    text, values = _read(path)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            raise errors.ConfigError(f"{_where(path, text, key)}: unknown key {key!r}{_suggestion(key, fields)}")
    for key, field in fields.items():
        required = _is_required(field)
        if required and key not in values:
            raise errors.ConfigError(f"{path}: {key} is missing: {_one_line(field)}")
    try:
        paths = {key: str(field.default) for key, field in fields.items() if isinstance(field.default, Path)}
        converted = {key: _convert(path, fields[key], value) for key, value in (paths | values).items()}
        if "node" in converted:
            converted["key"] = Path(str(converted["key"]).replace("{node}", str(converted["node"])))
        return kind(**converted)
    except _Bad as bad:
        raise errors.ConfigError(f"{_where(path, text, bad.key)}: {bad.key} {bad.sentence}") from None


def _suggestion(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f": did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"


def _where(path: Path, text: str, key: str) -> str:
    """The file, and the line that says `key`, if one does: what is wrong may be that none does."""
    pattern = re.compile(rf"\s*\[*[\"']?{re.escape(key)}[\"']?\s*(=|\.|\])")
    lines = (number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line))
    return f"{path}:{line}" if (line := next(lines, 0)) else str(path)


def _convert(path: Path, field: dataclasses.Field[Any], value: Any) -> Any:
    """One value as its field wants it. Raises `_Bad`."""
    try:
        converted = parse_size(value) if field.metadata["size"] else _CONVERSIONS[str(field.type)](path, value)
    except (ValueError, TypeError) as error:
        raise _Bad(field.name, str(error)) from None
    if field.name.endswith("_s"):
        _require(converted <= _SECONDS_MAX, field.name, f"is a number of seconds, {_SECONDS_MAX:.0f} at most")
    return converted


def _kind_of(wanted: type | tuple[type, ...], words: str) -> Callable[[Path, Any], Any]:
    def convert(_path: Path, value: Any) -> Any:
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise ValueError(f"is {words}, not {value!r}")
        return value

    return convert


def _directory(path: Path, value: Any) -> Path:
    """A path; one that is relative is so to the configuration file."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"is a path, not {value!r}")
    try:
        expanded = Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"begins with a user who is not known here: {value!r}") from None
    return (path.parent.resolve() / expanded).absolute()


def _directory_list(path: Path, value: Any) -> list[Path]:
    if not isinstance(value, list):
        raise ValueError(f"is a list of paths, not {value!r}")
    return [_directory(path, each) for each in value]


def _float(path: Path, value: Any) -> float:
    try:
        found = float(_kind_of((int, float), "a number")(path, value))
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError("is a finite number")
    return found


_CONVERSIONS: Final[Mapping[str, Callable[[Path, Any], Any]]] = {
    "str": _kind_of(str, "text"),
    "int": _kind_of(int, "a whole number"),
    "bool": _kind_of(bool, "true or false"),
    "float": _float,
    "Path": _directory,
    "list[Path]": _directory_list,
}

# --- writing --------------------------------------------------------------------------------------------


def _one_line(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata["doc"]).replace("\n", " ")


def example(kind: str) -> str:
    """A file of this kind with every key, its meaning and its default. Raises KeyError for no kind of ours."""
    return _with_comments(kind, {})


def commented(config: NameNodeConfig | DataNodeConfig | ClientConfig) -> str:
    """A file with every key and its meaning, and with the values of `config` that are not defaults."""
    kind = next(kind for kind, cls in KINDS.items() if isinstance(config, cls))
    fields = dataclasses.fields(config)
    return _with_comments(
        kind, {field.name: value for field in fields if (value := getattr(config, field.name)) != field.default}
    )


def _with_comments(kind: str, values: Mapping[str, Any]) -> str:
    lines = [f"# Configuration of a dfs {kind}. Keys that are commented out show their defaults."]
    for field in dataclasses.fields(KINDS[kind]):
        hint = str(field.metadata["example"])
        example = hint if hint.startswith("[") else keys.toml(hint)
        is_required = _is_required(field)
        doc = str(field.metadata["doc"]) + (f" For example {example}." if hint and not is_required else "")
        lines += ["", *(f"# {line}" for line in doc.splitlines())]
        if field.name in values:
            lines.append(f"{field.name} = {keys.toml(values[field.name])}")
        elif is_required:
            lines.append(f"{field.name} = {example}")
        else:
            lines.append(f"# {field.name} = {keys.toml(field.default)}")
    return "\n".join(lines) + "\n"


def render(config: NameNodeConfig | DataNodeConfig | ClientConfig) -> str:
    """A file with the values of `config` that are not defaults."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return "".join(f"{key} = {keys.toml(value)}\n" for key, value in values.items() if value != defaults[key])


# --- which cluster --------------------------------------------------------------------------------------

_KEY_VARIABLE: Final = "DFS_KEY"


def local_cluster_dir() -> Path:
    """Where `dfs up` keeps its cluster when it is told nothing else."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "dfs" / "local"


def client_config_path(explicit: str | os.PathLike[str] | None = None) -> Path | None:
    """Which client.toml counts: `explicit`, else DFS_CONFIG, else the user's, the machine's, the local cluster's.

    None if there is none. Of the first two the file need not exist: reading it then says so.
    """
    chosen = explicit or os.environ.get("DFS_CONFIG")
    if chosen:
        return Path(chosen)
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "dfs" / "client.toml"
    for path in (user, Path("/etc/dfs/client.toml"), local_cluster_dir() / "client.toml"):
        if path.exists():
            return path
    return None


def find_key_file(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The key file of who names a NameNode instead of a configuration: `explicit`, else DFS_KEY, else the client's.

    Raises `ConfigError` if there is none.
    """
    chosen = explicit or os.environ.get(_KEY_VARIABLE)
    if chosen:
        return Path(chosen)
    if client_config_path() is None:
        raise errors.ConfigError(
            f"there is no key: name the file with one, or set {_KEY_VARIABLE} to it, as no client.toml names any"
            " (see `dfs key --help`)"
        )
    return find_client_config().key


def find_client_config(explicit: str | os.PathLike[str] | None = None) -> ClientConfig:
    """The client's configuration, with the key that DFS_KEY names instead of its own, unless it is `explicit`.

    Raises `ConfigError` if there is none, saying how to get one.
    """
    path = client_config_path(explicit)
    if path is None:
        raise errors.ConfigError(
            "no cluster is configured: start one here with `dfs up`, or write ~/.config/dfs/client.toml"
            " (see `dfs config example client`)"
        )
    found = load_client(path)
    key = None if explicit else os.environ.get(_KEY_VARIABLE)
    return dataclasses.replace(found, key=Path(key)) if key else found
