"""Why a connection could not be made, or ended, as text for people: no errno, no OpenSSL source lines."""

from __future__ import annotations

import os
import socket
import ssl


def error_text(error: Exception) -> str:
    """The cause in ``error``, ending with a full stop: a sentence, or the end of one."""
    text = _text(error)
    return text if text.endswith((".", "?", "!")) else text + "."


def _text(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"no TLS with it: {error.reason.replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno)
    said = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return said or ("it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
