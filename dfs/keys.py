"""Keys: who may do what in a cluster, and the files that say so.

A `Key` has a name, a role and a secret for each realm: one is shown to the NameNode, the other to DataNodes. Nobody
keeps a list of secrets: they are derived from master secrets by what the key says of itself,

    secret = HKDF-Expand(master of the realm, "dfs key 1" 0 realm 0 role 0 generation 0 name {0 claim=value}), 32 bytes
    (RFC 5869; claims in the order of their names)

so a daemon that has a realm's `Masters` knows every key, and a key's name, role or claims cannot be changed. The
NameNode has the masters of both realms (cluster.keys), a DataNode those of its own realm: who steals its file cannot
speak for anybody else to the NameNode. To DataNodes he can (with TLS for those whose certificates he has), until the
generations in the file are retired: revoking the DataNode's own key does not stop him. Masters have generations: a new
one may come while keys of the older count. How generations come and go is said in docs/architecture.md.

A key file is TOML, readable by its owner only (root's also by its group):

    cluster = "0123..."         # the id of the cluster; older files do not say it
    name = "alice"              # the key; absent in cluster.keys
    role = "client"             # node, admin, client, reader or join
    generation = 1
    [claims]                    # what narrows its rights; absent where nothing does
    subtree = "/photos"
    [secret]                    # base64, 32 bytes each
    namenode = "..."
    datanode = "..."
    [master.datanode]           # masters by generation: DataNodes' files and cluster.keys
    1 = "..."
    [tls]                       # PEM; there in all files of a cluster with TLS, and in none of another
    authority = "..."           # the certificate of the cluster's authority (dfs.certificates)
    certificate = "..."         # of the key's holder; in cluster.keys, of the NameNode
    private_key = "..."
    authority_key = "..."       # cluster.keys only: who has it can issue certificates

Nothing but [tls] decides whether TLS is spoken: who has it never speaks plainly over TCP.

A DataNode's file also has `revoked = [["client", "alice"], ...]`: holders of keys whom it refuses.
"""

from __future__ import annotations

import base64
import binascii
import enum
import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from dfs import certificates, errors, limits
from dfs.certificates import Authority, TlsIdentity
from dfs.types import NODE_NAME, NODE_NAME_RULE

NAMENODE: Final = "namenode"
DATANODE: Final = "datanode"
REALMS: Final = (NAMENODE, DATANODE)
SECRET_BYTES: Final = 32
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
_NAME_RULE: Final = "1 to 64 of a-z, 0-9, '.', '_' and '-', with a letter or digit first and last"
_GENERATION_MAX: Final = 2**31
_KEY_ID_FIELDS: Final = 3
_FIELDS: Final = frozenset({"cluster", "name", "role", "generation", "claims", "secret", "master", "revoked", "tls"})
"""Of a key file."""
_NO_KEY_FILE: Final = (
    *(ValueError, KeyError, TypeError, RecursionError, binascii.Error),
    errors.InvalidArgument,
)
_CLUSTER: Final = re.compile(r"[0-9a-f]{32}")
CLAIMS: Final = frozenset({"subtree", "grants", "as", "expires", "nonce"})
"""What a key may say of itself beyond its role and name. An unknown one is refused: it may narrow the key's rights.

`subtree`: the directory that it is held to. Of a token (`dfs.tokens`): `grants` is the role that it may become, `as`
the name (absent: the machine's), `expires` is in seconds since 1970, `nonce` makes it one of its kind.
"""
_CLAIM_MAX_BYTES: Final = 4096


class Role(enum.StrEnum):
    """What the holder of a key is. What each may do is said in the `authorization` of NameNode and DataNode."""

    NODE = "node"
    """A DataNode: its name is the node's."""
    ADMIN = "admin"
    CLIENT = "client"
    """Reads and writes."""
    READER = "reader"
    JOIN = "join"
    """A token: it may become another key, once."""


class Holder(NamedTuple):
    """Who has keys: what is revoked and restored."""

    role: Role
    name: str

    @classmethod
    def from_wire(cls, value: object) -> Holder:
        """Raises `InvalidArgument` for what names nobody."""
        if isinstance(value, list | tuple) and len(value) == len(cls._fields):
            return KeyId.from_wire([1, *value]).holder
        raise errors.InvalidArgument("the holder of a key is named by [role, name]")

    def has(self, identity: str) -> bool:
        """Whether a key of this `identity` is his."""
        return identity.split(" ", 2)[:2] == [self.role, self.name]

    def __str__(self) -> str:
        return f"{self.role} {self.name}"


def digest(holders: frozenset[Holder]) -> str:
    """What tells two lists of holders apart; empty for none."""
    text = "\n".join(sorted(map(str, holders)))
    return hashlib.sha256(text.encode()).hexdigest()[:16] if holders else ""


class KeyId(NamedTuple):
    """What a key says of itself. `claims` are (name, value) in the order of their names."""

    generation: int
    role: Role
    name: str
    claims: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.role} {self.name}"

    @property
    def holder(self) -> Holder:
        """Who has the key, whatever its generation and its claims."""
        return Holder(self.role, self.name)

    @classmethod
    def from_wire(cls, value: object) -> KeyId:
        """Raises `InvalidArgument` for what names no key."""
        if isinstance(value, list | tuple) and _KEY_ID_FIELDS <= len(value) <= _KEY_ID_FIELDS + 1:
            generation, role, name, *more = value
            is_sound = (
                type(generation) is int
                and 0 < generation < _GENERATION_MAX
                and isinstance(role, str)
                and role in set(Role)
            )
            if is_sound and isinstance(name, str) and _NAME.fullmatch(name):
                claims = _sound_claims(more[0] if more else {})
                if claims and role not in (Role.CLIENT, Role.READER, Role.JOIN):
                    raise errors.InvalidArgument("only keys of clients and readers can be narrowed by claims")
                return cls(generation, Role(role), name, claims)
        raise errors.InvalidArgument("a key is named by [generation, role, name, claims]")

    def to_wire(self) -> list[Any]:
        """As `from_wire` reads it; without claims where there are none."""
        return [self.generation, self.role, self.name, *([dict(self.claims)] if self.claims else [])]

    def claim(self, name: str) -> str | None:
        """The value of a claim, None if the key does not make it."""
        return dict(self.claims).get(name)

    @property
    def identity(self) -> str:
        """Whose key it is and for what, whatever its generation: no two keys with other rights have the same."""
        return f"{self.role} {self.name} {json.dumps(dict(self.claims))}" if self.claims else f"{self.role} {self.name}"


def _sound_claims(value: object) -> tuple[tuple[str, str], ...]:
    """Raises `InvalidArgument`."""
    if not isinstance(value, Mapping) or not set(value) <= CLAIMS:
        raise errors.InvalidArgument(f"a key's claims are some of {', '.join(sorted(CLAIMS))}")
    if not all(map(_is_sound_claim, value.values())):
        raise errors.InvalidArgument("a claim of a key is text without NUL")
    return tuple(sorted(value.items()))


def _is_sound_claim(claim: object) -> bool:
    try:
        return isinstance(claim, str) and "\0" not in claim and len(claim.encode()) <= _CLAIM_MAX_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


class Key(NamedTuple):
    """`secrets` by realm. `tls`: the holder's certificate, None in a cluster without TLS. `file`: where it was read."""

    id: KeyId
    secrets: Mapping[str, bytes]
    tls: TlsIdentity | None = None
    file: Path | None = None

    def __repr__(self) -> str:
        return f"<key {self.id}>"


class Masters:
    """Master secrets by realm and generation."""

    def __init__(self, secrets_by_realm: Mapping[str, Mapping[int, bytes]]) -> None:
        self._secrets = {realm: dict(generations) for realm, generations in secrets_by_realm.items()}

    @classmethod
    def make(cls) -> Masters:
        """Those of a new cluster."""
        return cls({realm: {1: secrets.token_bytes(SECRET_BYTES)} for realm in REALMS})

    @property
    def generations(self) -> tuple[int, ...]:
        """Those of which keys count, oldest first; none where there are no masters."""
        return tuple(sorted(set().union(*self._secrets.values())))

    def with_next(self) -> Masters:
        """These, and a new generation."""
        new = self.generations[-1] + 1
        return Masters(
            {realm: {**known, new: secrets.token_bytes(SECRET_BYTES)} for realm, known in self._secrets.items()}
        )

    def without(self, generation: int) -> Masters:
        """These, of which keys of one generation count no more."""
        return Masters(
            {
                realm: {number: secret for number, secret in known.items() if number != generation}
                for realm, known in self._secrets.items()
            }
        )

    def secret(self, realm: str, key: KeyId) -> bytes | None:
        """The secret of a key; None if its generation is not known."""
        master = self._secrets.get(realm, {}).get(key.generation)
        if master is None:
            return None
        parts = ("dfs key 1", realm, key.role, key.generation, key.name, *map("=".join, key.claims))
        about = b"\0".join(str(part).encode() for part in parts)
        return hmac.digest(master, about + b"\x01", hashlib.sha256)

    def issue(
        self, role: Role, name: str, claims: Mapping[str, str] | None = None, generation: int | None = None
    ) -> Key:
        """A key, of the newest generation unless told. Raises `InvalidArgument` for a name or claims that cannot be."""
        generation = max(self._secrets[NAMENODE]) if generation is None else generation
        if role == Role.NODE and not NODE_NAME.fullmatch(name):
            raise errors.InvalidArgument(f"the name of a DataNode, and so of its key, is {NODE_NAME_RULE}: {name!r}")
        if not _NAME.fullmatch(name):
            raise errors.InvalidArgument(f"the name of a key is {_NAME_RULE}: {name!r}")
        key = KeyId.from_wire([generation, role, name, claims or {}])
        found = {realm: self.secret(realm, key) for realm in REALMS}
        return Key(key, {realm: secret for realm, secret in found.items() if secret is not None})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masters) and self._secrets == other._secrets

    def __hash__(self) -> int:
        return hash(self.generations)

    def knows(self, realm: str, generation: int) -> bool:
        return generation in self._secrets.get(realm, ())

    def derived(self, realm: str, generation: int, label: str) -> bytes | None:
        """The secret for another purpose, which `label` says; None if the generation is not known."""
        master = self._secrets.get(realm, {}).get(generation)
        return None if master is None else hmac.digest(master, label.encode() + b"\x01", hashlib.sha256)

    def of(self, realm: str) -> Masters:
        """Those of one realm only."""
        return Masters({realm: self._secrets.get(realm, {})})

    def by_realm(self) -> Mapping[str, Mapping[int, bytes]]:
        return self._secrets

    def __repr__(self) -> str:
        return f"<masters of {', '.join(self._secrets)}>"


class KeyFile(NamedTuple):
    """What one file holds: `key` is None in cluster.keys, `masters` is empty in a client's.

    `cluster` is the cluster's id, None in a file of before there were ids in them. `revoked`: whom a DataNode refuses.
    `tls` is what its holder shows, in cluster.keys the NameNode; None in a cluster without TLS. `authority` is what
    cluster.keys issues certificates with.
    """

    key: Key | None
    masters: Masters
    cluster: str | None = None
    revoked: frozenset[Holder] = frozenset()
    tls: TlsIdentity | None = None
    authority: Authority | None = None

    def issue(
        self, role: Role, name: str, claims: Mapping[str, str] | None = None, generation: int | None = None
    ) -> KeyFile:
        """The file of a new holder, made from cluster.keys; with a certificate where the cluster has TLS.

        Raises `InvalidArgument` for a name or claims that cannot be.
        """
        made = self.masters.issue(role, name, claims, generation)
        masters = self.masters.of(DATANODE) if role == Role.NODE else Masters({})
        return KeyFile(made, masters, self.cluster).certified(self.authority)

    def certified(self, authority: Authority | None, validity_s: float = limits.CERTIFICATE_VALIDITY_S) -> KeyFile:
        """The same with a new certificate; none where there is no authority."""
        if authority is None:
            return self._replace(tls=None)
        role, name = (NAMENODE, NAMENODE) if self.key is None else (self.key.id.role, self.key.id.name)
        return self._replace(tls=certificates.issue(authority, role, name, validity_s))


def make_cluster(*, tls: bool = False) -> KeyFile:
    """cluster.keys of a new cluster."""
    made = KeyFile(None, Masters.make(), secrets.token_hex(16))
    if not tls:
        return made
    authority = certificates.make_authority()
    return made._replace(authority=authority).certified(authority)


def load(path: Path) -> KeyFile:
    """Read a file. Raises `ConfigError`, which says what to do."""
    try:
        with path.open("rb") as file:
            found = _parse(tomllib.load(file))
            _refuse_if_readable(path, os.fstat(file.fileno()))  # of another file that is none of our business
        return found
    except FileNotFoundError:
        raise errors.ConfigError(f"{path}: there is no such key file: see `dfs key --help`") from None
    except OSError as error:
        if isinstance(error, errors.DfsError):
            raise
        raise errors.ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _NO_KEY_FILE as error:
        raise errors.ConfigError(f"{path}: is no key file of dfs: {error}") from None


def load_key(path: str | os.PathLike[str]) -> Key:
    """The key in a file, with its holder's certificate. Raises `ConfigError`."""
    file = Path(path)
    return key_in(file, load(file))


def key_in(path: Path, content: KeyFile) -> Key:
    """The key in what was read from a file, with its holder's certificate. Raises `ConfigError`."""
    if content.key is None:
        raise errors.ConfigError(f"{path}: has the cluster's master secrets, and no key: see `dfs key add --help`")
    return content.key._replace(tls=content.tls, file=path)


def load_cluster(path: Path) -> KeyFile:
    """cluster.keys. Raises `ConfigError` for another kind of file."""
    return _load_masters(path, NAMENODE)


def _load_masters(path: Path, realm: str) -> KeyFile:
    """A file that has the masters of a realm. Raises `ConfigError`."""
    found = load(path)
    if not found.masters.by_realm().get(realm):
        raise errors.ConfigError(f"{path}: has no master secrets of the {realm}'s realm: see `dfs key --help`")
    return found


def load_node(path: Path, node: str) -> KeyFile:
    """A DataNode's key, and the masters of its realm. Raises `ConfigError` if the file is not that of this node."""
    found = _load_masters(path, DATANODE)
    if found.key is None or found.key.id.role != Role.NODE or found.key.id.name != node:
        whose = "no node's" if found.key is None else f"that of {found.key.id}"
        raise errors.ConfigError(
            f"{path}: is {whose}, not that of node {node}: `dfs key add {node} --role node` makes one"
        )
    return found


def parse(text: str) -> KeyFile:
    """What `render` made a text of. Raises `ConfigError`."""
    try:
        return _parse(tomllib.loads(text))
    except _NO_KEY_FILE as error:
        raise errors.ConfigError(f"this is no key file of dfs: {error}") from None


def save(path: Path, content: KeyFile) -> None:
    """Make a new file, durably, at once, and readable by its owner only. Raises `Exists`: no key is overwritten."""
    with _drafted(path, content) as new:
        try:
            os.link(new, path)
        except FileExistsError:
            raise errors.Exists(f"{path} is there already: a key file is never overwritten") from None
    sync_directory(path.parent)


def replace(path: Path, content: KeyFile) -> None:
    """Put another content into a file that is there: durably, at once, and with its owner. Raises OSError."""
    path = path.resolve()
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with _drafted(path, content, status) as new:
        new.replace(path)
    sync_directory(path.parent)


@contextmanager
def _drafted(path: Path, content: KeyFile, status: os.stat_result | None = None) -> Iterator[Path]:
    """A file beside `path` that is on the disk, with the owner and mode of another if there is one. It goes at the end.

    Both are set by its descriptor: whoever owns the directory may have put something else in its place. Raises OSError,
    about `path`, if none can be made there.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        error.filename = str(path)
        raise
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(render(content))
            file.flush()
            if status is not None and (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, status.st_uid, status.st_gid)
            if status is not None:
                os.fchmod(fd, status.st_mode & 0o640)
            os.fsync(fd)
        yield new
    finally:
        new.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep others from replacing key files in a directory, from reading one of them to its end. Raises `ConfigError`.

    Those who do so hold it for milliseconds: nothing is waited for meanwhile.
    """
    try:
        fd = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.ConfigError(f"{path}: cannot be reached: {error.strerror or error}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory survive a power cut. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refuse_if_readable(path: Path, status: os.stat_result) -> None:
    allowed = 0o740 if status.st_uid == 0 else 0o700
    if stat.S_ISREG(status.st_mode) and status.st_mode & 0o777 & ~allowed:
        raise errors.ConfigError(f"{path}: others may read or change this key file: `chmod 600 {path}`")


def _parse(values: Mapping[str, Any]) -> KeyFile:
    unknown = sorted(set(values) - _FIELDS)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not known: if a newer release wrote it, run that one")
    tables = _table(values, "master") or {}
    masters = {
        realm: {int(generation): _decode(text) for generation, text in (_table(tables, realm) or {}).items()}
        for realm in tables
    }
    if not set(masters) <= set(REALMS):
        raise ValueError(f"a realm is one of {', '.join(REALMS)}")
    key = None
    if "secret" in values:
        about = KeyId.from_wire([values["generation"], values["role"], values["name"], values.get("claims", {})])
        key = Key(about, {realm: _decode(values["secret"][realm]) for realm in REALMS})
    if key is None and not masters:
        raise ValueError("it has neither a key nor master secrets")
    cluster = values.get("cluster")
    if cluster is not None and not (isinstance(cluster, str) and _CLUSTER.fullmatch(cluster)):
        raise ValueError("the id of a cluster is 32 hexadecimal digits")
    revoked = frozenset(map(Holder.from_wire, values.get("revoked", [])))
    return KeyFile(key, Masters(masters), cluster, revoked, *_parse_tls(_table(values, "tls")))


def _table(values: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """A table of a file, None if it has none. Raises `ValueError` for what is no table."""
    found = values.get(name)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{name!r} is no table")
    return found


def _parse_tls(table: Mapping[str, str] | None) -> tuple[TlsIdentity | None, Authority | None]:
    if table is None:
        return None, None
    unknown = sorted(set(table) - {"authority", "certificate", "private_key", "authority_key"})
    if unknown:
        raise ValueError(f"{unknown[0]!r} in [tls] is not known")
    if not all(isinstance(text, str) and text.lstrip().startswith("-----BEGIN ") for text in table.values()):
        raise ValueError("what [tls] holds is PEM")
    identity = TlsIdentity(table["authority"], table["certificate"], table["private_key"])
    signer = table.get("authority_key")
    return identity, None if signer is None else Authority(identity.authority, signer)


def _decode(text: str) -> bytes:
    secret = base64.b64decode(text, validate=True)
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, this one {len(secret)}")
    return secret


def render(content: KeyFile) -> str:
    """The text of a file."""
    lines = ["# A key file of dfs. Who has it has the rights that it gives: keep it secret."]
    if content.cluster is not None:
        lines.append(f'cluster = "{content.cluster}"')
    if content.revoked:
        lines.append(f"revoked = {json.dumps(sorted(list(holder) for holder in content.revoked))}")
    if content.key is not None:
        about = content.key.id
        lines += [
            f'name = "{about.name}"',
            f'role = "{about.role}"',
            f"generation = {about.generation}",
        ]
        if about.claims:
            lines += ["", "[claims]", *(f"{claim} = {toml(value)}" for claim, value in about.claims)]
        lines += ["", "[secret]"]
        lines += [f'{realm} = "{_encode(content.key.secrets[realm])}"' for realm in REALMS]
    for realm, generations in content.masters.by_realm().items():
        lines += ["", f"[master.{realm}]"]
        lines += [f'{generation} = "{_encode(secret)}"' for generation, secret in sorted(generations.items())]
    lines += _render_tls(content)
    return "\n".join(lines) + "\n"


def _render_tls(content: KeyFile) -> list[str]:
    if content.tls is None:
        return []
    texts = {
        "authority": content.tls.authority,
        "certificate": content.tls.certificate,
        "private_key": content.tls.private_key,
    }
    if content.authority is not None:
        texts["authority_key"] = content.authority.private_key
    return ["", "[tls]", *(f'{name} = """\n{text.strip()}\n"""' for name, text in texts.items())]


def toml(value: object) -> str:
    """Text, a number, a truth, or a list of these, as TOML has it; text of what is none of them."""
    return json.dumps(value, ensure_ascii=False, default=str).replace("\x7f", "\\u007f")


def _encode(secret: bytes) -> str:
    return base64.b64encode(secret).decode("ascii")
