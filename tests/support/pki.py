"""Certificates for one test run, under the file names that qemu, nbdkit and revolume all read."""

from __future__ import annotations

from pathlib import Path

import trustme


def make_pki(folder: Path) -> Path:
    """A CA, a server certificate for localhost, a client's; world-readable: they guard nothing."""
    folder.mkdir(parents=True)
    authority = trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1", "::1")
    client = authority.issue_cert("client.test")
    authority.cert_pem.write_to_path(folder / "ca-cert.pem")
    for name, cert in (("server", server), ("client", client)):
        cert.private_key_pem.write_to_path(folder / f"{name}-key.pem")
        cert.cert_chain_pems[0].write_to_path(folder / f"{name}-cert.pem")
    for file in folder.iterdir():
        file.chmod(0o644)
    # libnbd looks here when a program gives it no directory (fio cannot).
    home = folder / "home" / ".pki"
    home.mkdir(parents=True)
    (home / "libnbd").symlink_to(folder)
    return folder
