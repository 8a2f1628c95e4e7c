"""Why a connection could not be made, or ended, in words for people: no numbers, nothing of OpenSSL's source."""

from __future__ import annotations

import os
import socket
import ssl


def spoken(error: Exception) -> str:
    """A sentence, or the end of one."""
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
