"""Certificates: a cluster with TLS has an authority of its own, and whoever has a key has a certificate from it.

The authority signs with ECDSA over P-256, and signs nothing but certificates of holders. A holder's certificate says
who he is, as `CN=client alice` for people and as the URI `dfs:client:alice` for machines, and what it is good for: the
NameNode's and the DataNodes' for both ends of a connection, all others for the client's end only. So nobody who has a
client's certificate can pass for a daemon.

Nothing here is kept: `dfs.keys` has the files. `cryptography` takes 40 ms to import, which no command of a cluster
without TLS is to wait for: hence the imports within functions.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from dfs import errors, limits

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

NAMENODE_ROLE: Final = "namenode"
SERVING_ROLES: Final = frozenset({NAMENODE_ROLE, "node"})
"""Holders whose certificates are good for a server."""
_URI_PREFIX: Final = "dfs:"
_ISSUER: Final = "dfs cluster authority"


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What a holder needs for TLS, as PEM: the authority's certificate, his own, and its private key."""

    authority: str
    certificate: str
    private_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """What issues certificates, as PEM."""

    certificate: str
    private_key: str = field(repr=False)


class Certificate(NamedTuple):
    """What a certificate says: whose it is (`role:name`), and until when."""

    holder: str
    expires: datetime.datetime

    def __str__(self) -> str:
        return f"the certificate of {self.holder.replace(':', ' ', 1)}, good until {self.expires:%Y-%m-%d}"


def holder(uris: list[str]) -> str:
    """`role:name` out of the URIs of a certificate; empty if there is not exactly one of ours."""
    found = [uri.removeprefix(_URI_PREFIX) for uri in uris if uri.startswith(_URI_PREFIX)]
    return found[0] if len(found) == 1 else ""


def make_authority() -> Authority:
    """The authority of a new cluster."""
    from cryptography import x509

    key = _new_key()
    name = _name(_ISSUER)
    builder = (
        _builder(key.public_key(), name, datetime.timedelta(seconds=limits.AUTHORITY_VALIDITY_S))
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return Authority(_signed(builder, key), _private_pem(key))


def issue(authority: Authority, role: str, name: str, validity_s: float = limits.CERTIFICATE_VALIDITY_S) -> TlsIdentity:
    """A new certificate for a holder, good for `validity_s` from now, and no longer than the authority's own."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID

    issuer = _load(authority.certificate)
    signer = load_pem_private_key(authority.private_key.encode(), None)
    key = _new_key()
    ends = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if role in SERVING_ROLES:
        ends.append(ExtendedKeyUsageOID.SERVER_AUTH)
    uri = x509.UniformResourceIdentifier(f"{_URI_PREFIX}{role}:{name}")
    builder = (
        _builder(
            key.public_key(),
            _name(f"{role} {name}"),
            datetime.timedelta(seconds=validity_s),
            issuer.not_valid_after_utc,
        )
        .issuer_name(issuer.subject)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(ends), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    return TlsIdentity(authority.certificate, _signed(builder, signer), _private_pem(key))  # type: ignore[arg-type]


def read(certificate: str) -> Certificate:
    """What a certificate says. Raises `ConfigError` for what is none of ours."""
    from cryptography import x509

    try:
        found = _load(certificate)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        whose = holder(names.get_values_for_type(x509.UniformResourceIdentifier))
    except (ValueError, x509.ExtensionNotFound) as error:
        raise errors.ConfigError(f"the certificate in a key file cannot be read: {error}") from None
    return Certificate(whose, found.not_valid_after_utc)


def refuse_expired(identity: TlsIdentity | None) -> None:
    """Raises `ConfigError` if a certificate, or its authority's, is over."""
    if identity is None:
        return
    now = datetime.datetime.now(datetime.UTC)
    if (expires := _load(identity.authority).not_valid_after_utc) <= now:
        raise errors.ConfigError(
            f"the cluster's authority expired on {expires:%Y-%m-%d}: it needs new keys for everybody"
        )
    found = read(identity.certificate)
    if found.expires <= now:
        raise errors.ConfigError(
            f"the certificate of {found.holder.replace(':', ' ', 1)} expired on {found.expires:%Y-%m-%d}:"
            " `dfs key renew` gives the key file a new one"
        )


def _new_key() -> ec.EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    # X.520 gives a common name 64 characters; the URI has all of a longer one.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(
    key: ec.EllipticCurvePublicKey,
    subject: x509.Name,
    validity: datetime.timedelta,
    not_after: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    """What all certificates have. They count from a day ago, since clocks differ."""
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    end = now + validity
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end) - datetime.timedelta(seconds=limits.CERTIFICATE_BACKDATED_S))
        .not_valid_after(end if not_after is None else min(end, not_after))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _private_pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _load(certificate: str) -> x509.Certificate:
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate.encode())
