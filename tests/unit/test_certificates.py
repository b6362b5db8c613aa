"""A cluster's authority certifies who has a key: who he is, until when, and for which end of a connection."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dfs import certificates, errors, keys, limits
from dfs.keys import KeyFile, Role

CLUSTER = keys.make_cluster(tls=True)


def certificate(content: KeyFile) -> x509.Certificate:
    assert content.tls is not None
    return x509.load_pem_x509_certificate(content.tls.certificate.encode())


def ends(content: KeyFile) -> set[x509.ObjectIdentifier]:
    return set(certificate(content).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_only_daemons_may_be_at_the_servers_end() -> None:
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    assert ends(CLUSTER) == {client, server}
    for role in Role:
        assert ends(CLUSTER.issue(role, "a")) == ({client, server} if role == Role.NODE else {client})


def test_a_certificate_says_whose_it_is_to_people_and_to_machines() -> None:
    alice = CLUSTER.issue(Role.CLIENT, "alice")
    subject = certificate(alice).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert [name.value for name in subject] == ["client alice"]
    assert alice.tls is not None and certificates.read(alice.tls.certificate).holder == "client:alice"
    assert CLUSTER.tls is not None and certificates.read(CLUSTER.tls.certificate).holder == "namenode:namenode"


def test_the_longest_name_that_a_key_can_have_is_certified_whole() -> None:
    found = CLUSTER.issue(Role.READER, "x" * 64)
    assert found.tls is not None and certificates.read(found.tls.certificate).holder == f"reader:{'x' * 64}"


def test_the_authority_signs_holders_and_no_other_authority() -> None:
    assert CLUSTER.authority is not None
    found = x509.load_pem_x509_certificate(CLUSTER.authority.certificate.encode())
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and constraints.value.ca and constraints.value.path_length == 0
    usage = found.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign and not usage.digital_signature and not usage.crl_sign
    certificate(CLUSTER.issue(Role.NODE, "n1")).verify_directly_issued_by(found)


def test_no_certificate_outlives_the_authority() -> None:
    assert CLUSTER.authority is not None
    made = certificates.issue(CLUSTER.authority, "client", "a", 10 * limits.AUTHORITY_VALIDITY_S)
    authority = x509.load_pem_x509_certificate(CLUSTER.authority.certificate.encode())
    assert certificates.read(made.certificate).expires == authority.not_valid_after_utc


def test_an_expired_certificate_is_refused_with_what_to_do() -> None:
    fresh, old = CLUSTER.certified(CLUSTER.authority), CLUSTER.certified(CLUSTER.authority, validity_s=-1)
    certificates.refuse_expired(None)
    certificates.refuse_expired(fresh.tls)
    with pytest.raises(errors.ConfigError, match=r"namenode namenode expired on .*dfs key renew"):
        certificates.refuse_expired(old.tls)


@pytest.mark.parametrize("uris", [[], ["dfs:a:b", "dfs:c:d"], ["http://x"], ["DFS:a:b"]])
def test_what_names_no_holder_or_several_names_nobody(uris: list[str]) -> None:
    assert not certificates.holder(uris)


# --- in key files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [CLUSTER, CLUSTER.issue(Role.NODE, "n1"), CLUSTER.issue(Role.CLIENT, "a")])
def test_key_files_keep_what_tls_needs(tmp_path: Path, content: KeyFile) -> None:
    keys.save(tmp_path / "key", content)
    found = keys.load(tmp_path / "key")
    assert found.tls is not None and content.tls is not None
    for name in ("authority", "certificate", "private_key"):
        assert getattr(found.tls, name).strip() == getattr(content.tls, name).strip()
    assert (found.authority is None) == (content.authority is None)


def test_only_cluster_keys_can_issue_certificates(tmp_path: Path) -> None:
    keys.save(tmp_path / "n1", CLUSTER.issue(Role.NODE, "n1"))
    assert "authority_key" not in (tmp_path / "n1").read_text()
    keys.save(tmp_path / "cluster", CLUSTER)
    assert keys.load_cluster(tmp_path / "cluster").issue(Role.CLIENT, "a").tls is not None


def test_a_cluster_without_tls_has_no_trace_of_it(tmp_path: Path) -> None:
    plain = keys.make_cluster()
    for name, content in (("cluster", plain), ("a", plain.issue(Role.CLIENT, "a"))):
        keys.save(tmp_path / name, content)
        assert "tls" not in (tmp_path / name).read_text() and keys.load(tmp_path / name).tls is None


def test_no_secret_is_in_what_is_printed() -> None:
    made = CLUSTER.issue(Role.NODE, "n1")
    said = f"{CLUSTER!r} {made!r} {made.tls!r} {CLUSTER.authority!r}"
    assert "PRIVATE" not in said


def test_renewing_replaces_the_certificate_and_keeps_the_key_and_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "key"
    keys.save(path, CLUSTER.issue(Role.NODE, "n1"))
    path.chmod(0o400)
    before = keys.load(path)
    keys.replace(path, before.certified(CLUSTER.authority, 60))
    after = keys.load(path)
    assert after.key == before.key and after.masters.by_realm() == before.masters.by_realm()
    assert after.tls is not None and after.tls != before.tls
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    assert certificates.read(after.tls.certificate).expires < soon
    assert path.stat().st_mode & 0o777 == 0o400
    assert [found.name for found in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize(
    "table",
    ["", 'authority = "x"', "authority = 1", 'other = "-----BEGIN "', 'certificate = "-----BEGIN CERTIFICATE-----"'],
)
def test_a_tls_table_that_cannot_be_is_refused(tmp_path: Path, table: str) -> None:
    path = tmp_path / "key"
    keys.save(path, keys.make_cluster())
    path.write_text(f"{path.read_text()}\n[tls]\n{table}\n")
    with pytest.raises(errors.ConfigError, match="no key file"):
        keys.load(path)
