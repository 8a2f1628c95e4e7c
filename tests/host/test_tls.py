"""TLS contexts from files named as qemu names them; what is wrong with a file is said by its name."""

from __future__ import annotations

import gc
import os
import ssl
from pathlib import Path

import pytest
import trustme

from revolume.errors import RevolumeError
from revolume.host.tls import client_context, renew, server_context


@pytest.fixture
def tls_dir(tmp_path: Path) -> Path:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca-cert.pem")
    for who in ("server", "client"):
        issued = authority.issue_cert(f"{who}.example")
        issued.private_key_pem.write_to_path(tmp_path / f"{who}-key.pem")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{who}-cert.pem")
    return tmp_path


def test_what_a_server_asks_of_its_clients(tls_dir: Path) -> None:
    assert server_context(str(tls_dir), True).verify_mode == ssl.CERT_REQUIRED
    assert server_context(str(tls_dir), False).verify_mode == ssl.CERT_NONE


def test_contexts_that_nobody_uses_are_not_kept(tls_dir: Path) -> None:
    """Each promotion with --others made some for its questions, and they stayed."""
    gc.collect()
    before, kept = renew(), server_context(str(tls_dir), True)
    for _ in range(50):
        client_context(str(tls_dir))
    gc.collect()
    assert renew() == before + 1
    assert kept.verify_mode == ssl.CERT_REQUIRED


def test_a_client_always_verifies(tls_dir: Path) -> None:
    context = client_context(str(tls_dir))
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_the_oldest_version_that_is_spoken(tls_dir: Path) -> None:
    assert server_context(str(tls_dir), True).minimum_version == ssl.TLSVersion.TLSv1_2
    assert server_context(str(tls_dir), True, only_tls13=True).minimum_version == ssl.TLSVersion.TLSv1_3
    assert client_context(str(tls_dir), only_tls13=True).minimum_version == ssl.TLSVersion.TLSv1_3


def test_a_client_may_have_no_certificate_but_not_half_of_one(tls_dir: Path) -> None:
    (tls_dir / "client-key.pem").unlink()
    with pytest.raises(RevolumeError, match=r"client-key\.pem is missing"):
        client_context(str(tls_dir))
    (tls_dir / "client-cert.pem").unlink()
    client_context(str(tls_dir))


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_a_missing_file_is_named(tls_dir: Path, name: str) -> None:
    (tls_dir / name).unlink()
    with pytest.raises(RevolumeError, match=f"{name} is missing") as raised:
        server_context(str(tls_dir), True)
    assert raised.value.code == "tls-file-missing"


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_a_file_of_something_else_is_named(tls_dir: Path, name: str) -> None:
    (tls_dir / name).write_text("not a certificate\n")
    with pytest.raises(RevolumeError, match=name) as raised:
        server_context(str(tls_dir), True)
    assert raised.value.code == "tls-file-invalid"


def test_a_key_of_another_certificate_is_refused(tls_dir: Path) -> None:
    (tls_dir / "server-key.pem").write_bytes((tls_dir / "client-key.pem").read_bytes())
    with pytest.raises(RevolumeError) as raised:
        server_context(str(tls_dir), False)
    assert raised.value.code == "tls-file-invalid"


def test_a_directory_in_a_files_place_is_unreadable(tls_dir: Path) -> None:
    (tls_dir / "server-key.pem").unlink()
    os.mkdir(tls_dir / "server-key.pem")
    with pytest.raises(RevolumeError) as raised:
        server_context(str(tls_dir), False)
    assert raised.value.code == "tls-file-unreadable"


def test_a_key_with_a_passphrase_asks_nobody(tls_dir: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((tls_dir / "server-key.pem").read_bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"secret"),
    )
    (tls_dir / "server-key.pem").write_bytes(locked)
    with pytest.raises(RevolumeError, match="passphrase"):
        server_context(str(tls_dir), False)


def test_a_revocation_list_is_heeded_where_it_lies(tls_dir: Path) -> None:
    assert not server_context(str(tls_dir), True).verify_flags & ssl.VERIFY_CRL_CHECK_LEAF
    (tls_dir / "ca-crl.pem").write_text("not a list\n")
    with pytest.raises(RevolumeError, match=r"ca-crl\.pem"):
        server_context(str(tls_dir), True)
