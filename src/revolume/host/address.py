"""Addresses as people write them: ``unix:PATH``, ``HOST:PORT``, ``[V6]:PORT``."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.errors import UsageError


@dataclass(frozen=True, slots=True)
class UnixAddress:
    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """An empty host stands for every address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> UnixAddress | TcpAddress:
    """UsageError with the reason."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path:
            raise _wrong(text, "the path is missing")
        return UnixAddress(path)
    host, colon, port = text.rpartition(":")
    if not colon:
        raise _wrong(text, "the port is missing")
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise _wrong(text, f"{port!r} is not a port")
    return TcpAddress(_host(text, host), int(port))


def _host(text: str, host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1]
    if ":" in host or "[" in host or "]" in host:
        raise _wrong(text, "an IPv6 address stands in brackets")
    return "" if host == "*" else host


def _wrong(text: str, reason: str) -> UsageError:
    return UsageError(
        "address-syntax",
        f"{text!r} is not an address: {reason}.",
        "Write unix:PATH, HOST:PORT or [IPV6]:PORT.",
    )
