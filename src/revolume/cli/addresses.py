"""What a service may listen on without asking twice."""

from __future__ import annotations

import ipaddress
import os

from revolume.host.address import TcpAddress, UnixAddress, parse_address


def own_address(directory: str) -> str:
    """The socket in a volume's own directory: always served, the verbs come in there."""
    return str(UnixAddress(os.path.join(os.path.abspath(directory), "nbd.sock")))


def normalised(text: str) -> str:
    """``text`` as an address is written. Raises UsageError."""
    return str(parse_address(text))


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
