"""NBD URIs, as every NBD tool reads them.

    nbd://HOST:PORT/NAME                 nbds://HOST:PORT/NAME
    nbd+unix:///NAME?socket=PATH         nbds+unix:///NAME?socket=PATH

The name is percent-encoded. Addresses here are those of ``host``: ``unix:PATH``, ``HOST:PORT``.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

from revolume.errors import UsageError
from revolume.nbd.wire.constants import DEFAULT_PORT

_NAME_SAFE = "@:,+=~!$"  # legal in a path as they are, and common in our names


@dataclass(frozen=True, slots=True)
class Place:
    """Where an export is to be found."""

    address: str
    name: str
    tls: bool = False


def uri(address: str, name: str, *, tls: bool = False) -> str:
    """The URI of the export ``name`` of the server at ``address``."""
    scheme = "nbds" if tls else "nbd"
    path = quote(name, safe=_NAME_SAFE)
    if address.startswith("unix:"):
        return f"{scheme}+unix:///{path}?socket={quote(address.removeprefix('unix:'), safe='/')}"
    return f"{scheme}://{address}/{path}"


def parse_uri(text: str) -> Place:
    """The reverse. UsageError with a sentence."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise _wrong(text, str(error)) from None
    name = unquote(parts.path.removeprefix("/"))
    tls = parts.scheme.startswith("nbds")
    if parts.scheme in ("nbd+unix", "nbds+unix"):
        socket = parse_qs(parts.query).get("socket", [""])[0]
        if not socket or parts.netloc:
            raise _wrong(text, "nbd+unix:///NAME?socket=PATH is the form")
        return Place(f"unix:{socket}", name, tls)
    if parts.scheme in ("nbd", "nbds"):
        if not parts.hostname:
            raise _wrong(text, "the host is missing")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return Place(f"{host}:{port or DEFAULT_PORT}", name, tls)
    raise _wrong(text, "the scheme is nbd, nbds, nbd+unix or nbds+unix")


def _wrong(text: str, why: str) -> UsageError:
    return UsageError("bad-uri", f"{text!r} is not an NBD URI: {why}.", "Write nbd://HOST:PORT/NAME.")
