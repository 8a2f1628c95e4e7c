"""Real sockets: listening, accepting, connecting.

Accepting happens in the loop, a bounded number of connections per wake-up. When so few descriptors are left that
the volume's own files could lack one, it rests for a moment at a time: who connects waits in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import structlog

from revolume.errors import RevolumeError
from revolume.host import activation, descriptors
from revolume.host.address import TcpAddress, UnixAddress, parse_address
from revolume.host.network import Activated, Peer, Wire
from revolume.host.real.tcp import connect_tcp, places_of, set_buffers, tune
from revolume.host.real.unix_path import UnixPlace
from revolume.host.real.wire_plain import LOW_WATER, SocketWire

ACCEPTS_PER_WAKE = 64
ACCEPT_REST_SECONDS = 0.1
QUEUE_LENGTH = 1024
UNIX_RETRY_SECONDS = 0.01

_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_log = structlog.get_logger("revolume.host")
_FAMILY_MISSING = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class RealNetwork:
    """``rounds`` and ``low_water`` are passed to every wire; ``socket_mode``: of unix sockets that are made."""

    __slots__ = ("_low_water", "_rounds", "_socket_mode")

    def __init__(self, *, rounds: int = 4, low_water: int = LOW_WATER, socket_mode: int = 0o600) -> None:
        self._socket_mode = socket_mode
        self._rounds = rounds
        self._low_water = low_water

    async def listen(self, address: str, accept: Callable[[Wire], None]) -> SocketListener:
        parsed = parse_address(address)
        try:
            if isinstance(parsed, UnixAddress):
                return self._listen_unix(parsed, accept)
            return await self._listen_tcp(parsed, accept)
        except OSError as error:
            raise listen_error(address, error) from error

    def _listen_unix(self, address: UnixAddress, accept: Callable[[Wire], None]) -> SocketListener:
        place = UnixPlace.at(address.path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            place.clear_stale()
            sock.bind(place.short)
            place.hand_over(self._socket_mode)  # before anybody can connect
            sock.listen(QUEUE_LENGTH)
        except BaseException:
            sock.close()
            place.close()
            raise
        return SocketListener([sock], [str(address)], accept, self._wire, place)

    async def _listen_tcp(self, address: TcpAddress, accept: Callable[[Wire], None]) -> SocketListener:
        places = await places_of(address.host or None, address.port, socket.AI_PASSIVE)
        sockets = _bind_all(places, address.port)
        return SocketListener(sockets, [activation.bound_address(s) for s in sockets], accept, self._wire)

    def activated(self) -> list[Activated]:
        return activation.activated(os.environ)

    def adopt(self, activated: Activated, accept: Callable[[Wire], None]) -> SocketListener:
        sock = activation.borrowed(activated.fd)
        sock.setblocking(False)
        return SocketListener([sock], [activated.address], accept, self._wire)

    async def connect(
        self, address: str, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> SocketWire:
        parsed = parse_address(address)
        if isinstance(parsed, UnixAddress):
            sock = await _connect_unix(parsed)
        else:
            sock = await connect_tcp(parsed.host or "localhost", parsed.port)
            server_hostname = server_hostname or parsed.host
        wire = self._wire(sock, address, accepted=False)
        if tls is not None:
            await wire.start_tls(tls, server_hostname)
        return wire

    def _wire(self, sock: socket.socket, address: str, *, accepted: bool = True) -> SocketWire:
        try:
            tune(sock)
            peer = _peer(sock, address)
            return SocketWire(sock, peer, accepted=accepted, rounds=self._rounds, low_water=self._low_water)
        except BaseException:
            sock.close()
            raise


class SocketListener:
    """Listening sockets of one address: a name may stand for several."""

    __slots__ = (
        "_accept",
        "_closed",
        "_identity",
        "_loop",
        "_paused",
        "_place",
        "_resting",
        "_sockets",
        "_wire",
        "addresses",
    )

    def __init__(
        self,
        sockets: list[socket.socket],
        addresses: list[str],
        accept: Callable[[Wire], None],
        wire: Callable[[socket.socket, str], SocketWire],
        place: UnixPlace | None = None,
    ) -> None:
        self.addresses = addresses
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._accept = accept
        self._wire = wire
        self._place = place
        self._identity = place.identity() if place is not None else None
        self._closed = self._loop.create_future()
        self._resting: dict[int, asyncio.TimerHandle] = {}
        self._paused = False  # and it has been said
        for index in range(len(sockets)):
            self._watch(index)

    def _watch(self, index: int) -> None:
        self._resting.pop(index, None)
        self._loop.add_reader(self._sockets[index].fileno(), self._on_acceptable, index)

    def _on_acceptable(self, index: int) -> None:
        sock = self._sockets[index]
        for _ in range(ACCEPTS_PER_WAKE):
            if not descriptors.left_for_connections():
                self._rest(index)
                return
            try:
                connection, _ = sock.accept()
            except BlockingIOError:
                self._go_on()
                return
            except (InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._rest(index)
                return
            self._hand_out(connection, self.addresses[index])
            if self._closed.done():
                return

    def _rest(self, index: int) -> None:
        if not self._paused:
            self._paused = True
            _log.warning(
                "accepting paused: this process has too few descriptors left (ulimit -n, LimitNOFILE=)",
                address=self.addresses[index], limit=descriptors.limit(),
            )  # fmt: skip
        self._loop.remove_reader(self._sockets[index].fileno())
        self._resting[index] = self._loop.call_later(ACCEPT_REST_SECONDS, self._watch, index)

    def _go_on(self) -> None:
        """Nobody waits to be accepted any more."""
        if self._paused:
            self._paused = False
            _log.info("accepting again", addresses=self.addresses)

    def _hand_out(self, connection: socket.socket, address: str) -> None:
        connection.setblocking(False)
        try:
            wire = self._wire(connection, address)
        except OSError:
            return  # the peer has gone already
        try:
            self._accept(wire)
        except BaseException:
            wire.abort()
            raise

    def close(self) -> None:
        if self._closed.done():
            return
        self._closed.set_result(None)
        for timer in self._resting.values():
            timer.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        if self._place is not None:
            self._place.remove(self._identity)
            self._place.close()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)


def _bind_all(places: list[tuple[int, Any]], port: int) -> list[socket.socket]:
    """One socket per place, all on one port. A family that this machine lacks is left out if another
    is there."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, place in dict.fromkeys(places):
            try:
                sockets.append(_bind(family, (place[0], port, *place[2:])))
            except OSError as error:
                if error.errno not in _FAMILY_MISSING:
                    raise
                missing = error
                continue
            port = sockets[-1].getsockname()[1]
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _bind(family: int, place: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_buffers(sock)  # now: the window's scale is agreed on when a connection is made
        sock.bind(place)
        sock.listen(QUEUE_LENGTH)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_unix(address: UnixAddress) -> socket.socket:
    """A full queue makes the kernel say EAGAIN, and here that is no promise to connect later."""
    place = UnixPlace.at(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        while True:
            try:
                sock.connect(place.short)
                return sock
            except BlockingIOError:
                await asyncio.sleep(UNIX_RETRY_SECONDS)
    except BaseException:
        sock.close()
        raise
    finally:
        place.close()


def _peer(sock: socket.socket, address: str) -> Peer:
    if sock.family == socket.AF_UNIX:
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return Peer("unix", address, uid=uid, loopback=True)
    host, port = sock.getpeername()[:2]
    return Peer("tcp", str(TcpAddress(host, port)), loopback=_is_loopback(host))


def _is_loopback(host: str) -> bool:
    ip = ipaddress.ip_address(host)
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


def listen_error(address: str, error: OSError) -> RevolumeError:
    """One sentence for what went wrong, one for what to do."""
    if isinstance(error, socket.gaierror):
        return RevolumeError("address-unknown", f"{address}: the host name is not known.", "Write an IP.")
    code, cause, hint = _LISTEN_ERRORS.get(
        error.errno or 0, ("address-failed", f"cannot be listened on: {error.strerror or error}.", "")
    )
    return RevolumeError(code, f"{address} {cause}", hint)


_NOT_PERMITTED = (
    "address-not-permitted",
    "may not be listened on by this user.",
    "Choose a port above 1023, or a directory of your own.",
)
_LISTEN_ERRORS: dict[int, tuple[str, str, str]] = {
    errno.EADDRINUSE: ("address-in-use", "is in use already.", "Stop its holder, or choose another."),
    errno.EACCES: _NOT_PERMITTED,
    errno.EPERM: _NOT_PERMITTED,
    errno.EROFS: ("address-failed", "is on a read-only file system.", "Choose another directory."),
    errno.EADDRNOTAVAIL: ("address-not-here", "is not an address of this machine.", "See `ip address`."),
    errno.ENOENT: ("address-no-directory", "lies in a directory that does not exist.", "Create it first."),
    errno.ENOTDIR: ("address-no-directory", "lies in something that is not a directory.", ""),
}
