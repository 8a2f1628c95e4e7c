"""Socket activation: listening sockets inherited from a service manager.

The convention: descriptors from 3 on, LISTEN_FDS of them, meant for the process LISTEN_PID and nobody it
starts, named in LISTEN_FDNAMES.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from revolume.errors import RevolumeError
from revolume.host.address import TcpAddress, UnixAddress
from revolume.host.network import Activated

FIRST_FD = 3
FDS_MAX = 256


def activated(environment: Mapping[str, str]) -> list[Activated]:
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "0")
    if not count.isdecimal() or int(count) > FDS_MAX:
        raise _wrong(f"LISTEN_FDS is {count!r}, not a number of sockets.")
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * int(count)
    return [_activated(FIRST_FD + index, names[index]) for index in range(int(count))]


def _activated(fd: int, name: str) -> Activated:
    sock = borrowed(fd)
    try:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or sock.type != socket.SOCK_STREAM:
            raise _wrong(f"Descriptor {fd} does not listen for connections.")
        os.set_inheritable(fd, False)
        return Activated(fd, name, bound_address(sock))
    finally:
        sock.detach()


def borrowed(fd: int) -> socket.socket:
    """A socket object on the descriptor; ``detach`` gives it back."""
    try:
        return socket.socket(fileno=fd)
    except OSError:
        raise _wrong(f"Descriptor {fd} is not a socket.") from None


def bound_address(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return str(UnixAddress(os.fsdecode(name)))
    return str(TcpAddress(name[0], name[1]))


def _wrong(cause: str) -> RevolumeError:
    return RevolumeError("activation-wrong", cause, "Compare the service manager's socket unit.")
