"""What a service may listen on without asking twice."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable

from revolume.errors import Refused
from revolume.host.address import TcpAddress, UnixAddress, parse_address
from revolume.volume.metadata.layout import NBD_SOCKET


def own_address(directory: str) -> str:
    """The socket in a volume's own directory: always served, the verbs come in there."""
    return str(UnixAddress(os.path.join(os.path.abspath(directory), NBD_SOCKET)))


def normalised(text: str) -> str:
    """``text`` as an address is written. Raises UsageError."""
    return str(parse_address(text))


def absolute(text: str) -> str:
    """``normalised``, and meaning the same in a process with another working directory."""
    address = parse_address(text)
    return str(UnixAddress(os.path.abspath(address.path)) if isinstance(address, UnixAddress) else address)


def is_tcp(text: str) -> bool:
    return isinstance(parse_address(text), TcpAddress)


def leaves_the_machine(text: str) -> bool:
    """Could somebody on another machine speak to it? A name other than localhost could mean anything."""
    address = parse_address(text)
    if isinstance(address, UnixAddress) or address.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return True


def refuse_plaintext(addresses: Iterable[str], *, allowed: bool) -> None:
    """Refused where clients on other machines would be served without TLS, unless that is ``allowed``."""
    for address in () if allowed else addresses:
        if leaves_the_machine(address):
            cause = f"{address} can be reached from other machines, and there is no TLS."
            raise Refused("plaintext", cause, "Give --tls-dir, or --allow-plaintext if the network is trusted.")


def refuse_plaintext_links(addresses: Iterable[str], tls_dir: str | None) -> None:
    """Refused where a mirror's link would leave the machine unencrypted: whoever speaks to a mirror can change
    it."""
    for address in addresses:
        if tls_dir is None and leaves_the_machine(address):
            raise Refused(
                "mirror-plaintext",
                f"{address} is not on this machine, and there is no TLS.",
                "Give --tls-dir with ca-cert.pem, server-*.pem and client-*.pem on both nodes; mirror links have "
                "no plain mode off the machine (--allow-plaintext is for NBD).",
            )
