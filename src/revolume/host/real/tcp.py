"""TCP below the wires: what a name stands for, connecting to it, and the options of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

SOCKET_BUFFER = 4 << 20
USER_TIMEOUT_MS = 30_000
"""After this long without a sign from the peer of what was sent, the connection is dead."""
SILENT_SECONDS = 0.5
"""After this long without an answer from one address of a name, the next is tried beside it."""

Place = tuple[int, Any]
"""Family and address, as the kernel takes them."""


async def places_of(host: str | None, port: int, flags: int = 0) -> list[Place]:
    """What a name stands for; None: this machine. OSError: it is not known. A silent name server is not waited for
    by whoever has given up, nor by the end of the process: the lookup's thread ends with it."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[list[Place]] = loop.create_future()

    def settle(places: list[Place], error: Exception | None) -> None:
        if found.done():
            return
        if error is None:
            found.set_result(places)
        else:
            found.set_exception(error)

    def look_up() -> None:
        places, failure = list[Place](), None
        try:
            infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
            places = [(info[0], info[4]) for info in infos]
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(settle, places, failure)

    threading.Thread(target=look_up, name="revolume-name", daemon=True).start()
    return await found


async def connect_tcp(host: str, port: int) -> socket.socket:
    """A connection to the first address of the name that answers. One that is silent does not keep the next from
    being tried. OSError: the last one's, if none answers."""
    attempts: list[asyncio.Task[socket.socket]] = []
    try:
        for place in await places_of(host, port):
            attempts.append(asyncio.create_task(_connect_to(place)))
            if connected := await _first(attempts, SILENT_SECONDS):
                return connected
        if connected := await _first(attempts, None):
            return connected
        for attempt in reversed(attempts):
            await attempt  # raises its error
        raise ConnectionError(f"{host} has no address")
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_drop)


async def _first(attempts: list[asyncio.Task[socket.socket]], seconds: float | None) -> socket.socket | None:
    """The first of these connections that is made, which is the caller's; None if all have failed, or none is made
    in time."""
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    while True:
        made = [attempt for attempt in attempts if attempt.done() and attempt.exception() is None]
        if made:
            attempts.remove(made[0])
            return made[0].result()
        waiting = [attempt for attempt in attempts if not attempt.done()]
        left = None if end is None else end - loop.time()
        if not waiting or (left is not None and left <= 0):
            return None
        await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)


def _drop(attempt: asyncio.Task[socket.socket]) -> None:
    """One that was too late."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect_to(place: Place) -> socket.socket:
    family, address = place
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        set_buffers(sock)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket) -> None:
    """Answers leave at once, dead peers are noticed, a whole large request fits the kernel."""
    set_buffers(sock)
    if sock.family == socket.AF_UNIX:
        return
    for level, option, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS),
    ):
        with contextlib.suppress(OSError):
            sock.setsockopt(level, option, value)


def set_buffers(sock: socket.socket) -> None:
    """A TCP socket whose buffer is set is no longer tuned by the kernel, so one that may not be set large
    is left alone: it would be stuck at the small size that is allowed."""
    for option, limit in ((socket.SO_SNDBUF, "wmem_max"), (socket.SO_RCVBUF, "rmem_max")):
        if sock.family == socket.AF_UNIX or _kernel_limit(limit) >= SOCKET_BUFFER:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)


def _kernel_limit(name: str) -> int:
    if name not in _limits:
        try:
            with open(f"/proc/sys/net/core/{name}") as file:
                _limits[name] = int(file.read())
        except (OSError, ValueError):
            _limits[name] = 0
    return _limits[name]


_limits: dict[str, int] = {}
