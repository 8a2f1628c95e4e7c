"""TLS contexts from a directory whose files are named as qemu names them.

``ca-cert.pem``, ``server-cert.pem`` and ``server-key.pem`` make a server, ``ca-cert.pem`` and optionally
``client-cert.pem`` and ``client-key.pem`` a client; ``ca-crl.pem`` is heeded where it lies. TLS 1.2 at
least; 1.3 alone for links between our own nodes.

``renew`` reads the files again into the contexts that this process has, for connections from then on. A
certificate and its key are exchanged; an authority is added, and only a restart takes one away.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from functools import partial
from weakref import WeakKeyDictionary

from revolume.errors import RevolumeError

CA = "ca-cert.pem"
REVOKED = "ca-crl.pem"
SERVER = ("server-cert.pem", "server-key.pem")
CLIENT = ("client-cert.pem", "client-key.pem")


_load_again: WeakKeyDictionary[ssl.SSLContext, Callable[[ssl.SSLContext], None]] = WeakKeyDictionary()
"""Every context that this process uses, and what loads its files. One that nobody uses any more goes: some are
made for one question."""


def renew() -> int:
    """Read all files again; how many contexts have them. RevolumeError: they are no good, and none has them."""
    known = list(_load_again.items())
    for context, load in known:
        load(_context(context.protocol, only_tls13=False))
    for context, load in known:
        load(context)
    return len(known)


def _loaded(context: ssl.SSLContext, load: Callable[[ssl.SSLContext], None]) -> ssl.SSLContext:
    load(context)
    _load_again[context] = load
    return context


def server_context(tls_dir: str, verify_peer: bool, *, only_tls13: bool = False) -> ssl.SSLContext:
    """With ``verify_peer`` a client must show a certificate that the CA has signed."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, only_tls13)
    context.num_tickets = 0  # nobody resumes, and a ticket unread at the end resets the connection
    if verify_peer:
        context.verify_mode = ssl.CERT_REQUIRED
    return _loaded(context, partial(_load_server, tls_dir, verify_peer))


def _load_server(tls_dir: str, verify_peer: bool, context: ssl.SSLContext) -> None:
    _load_own(context, tls_dir, SERVER)
    if verify_peer:
        _load_authority(context, tls_dir)


def client_context(tls_dir: str, *, only_tls13: bool = False) -> ssl.SSLContext:
    """The server must show a certificate that the CA has signed for the name that was asked for."""
    return _loaded(_context(ssl.PROTOCOL_TLS_CLIENT, only_tls13), partial(_load_client, tls_dir))


def _load_client(tls_dir: str, context: ssl.SSLContext) -> None:
    _load_authority(context, tls_dir)
    if any(os.path.lexists(os.path.join(tls_dir, name)) for name in CLIENT):
        _load_own(context, tls_dir, CLIENT)


def _context(protocol: int, only_tls13: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if only_tls13 else ssl.TLSVersion.TLSv1_2
    return context


def _load_own(context: ssl.SSLContext, tls_dir: str, names: tuple[str, str]) -> None:
    certificate, key = (_readable(tls_dir, name) for name in names)
    try:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except (ssl.SSLError, ValueError) as error:
        raise _invalid(
            f"{certificate} and {key} are not a certificate and its key.",
            "Both are PEM, belong together, and the key has no passphrase.",
        ) from error


def _load_authority(context: ssl.SSLContext, tls_dir: str) -> None:
    authority = _readable(tls_dir, CA)
    _load_trusted(context, authority)
    if os.path.lexists(os.path.join(tls_dir, REVOKED)):
        _load_trusted(context, _readable(tls_dir, REVOKED))
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def _load_trusted(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise _invalid(f"{path} holds no certificates that can be read.", "It is PEM.") from error


def _readable(tls_dir: str, name: str) -> str:
    """The path; opened once here, because OpenSSL's own complaint does not name the file."""
    path = os.path.join(tls_dir, name)
    try:
        with open(path, "rb"):
            return path
    except (FileNotFoundError, NotADirectoryError):
        raise RevolumeError(
            "tls-file-missing", f"{path} is missing.",
            "A server needs ca-cert.pem, server-cert.pem and server-key.pem there; a mirror's link also needs "
            "client-cert.pem and client-key.pem.",
        ) from None  # fmt: skip
    except OSError as error:
        raise RevolumeError(
            "tls-file-unreadable", f"{path} cannot be read: {error.strerror}.", "See its owner and mode."
        ) from None


def _invalid(cause: str, hint: str) -> RevolumeError:
    return RevolumeError("tls-file-invalid", cause, hint)
