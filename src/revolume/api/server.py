"""The control socket: the HTTP face on ``DIR/control.sock``, served by uvicorn inside the volume's own loop.

The socket is bound and reached through a descriptor of the directory (``/proc/self/fd/N/control.sock``),
because a socket's path holds 107 bytes at most and a volume's directory may lie deeper. It belongs to its
user alone (mode 0600, set before anything can connect). Whoever starts a server holds the volume's lock,
so a socket file that is there already was left behind and is replaced.

Uvicorn must leave the process alone: it takes no signals and configures no logging.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn
from fastapi import FastAPI

from revolume.api.bounds import LIMITS, Bounded, ControlLimits, patient
from revolume.host.owner import like_directory
from revolume.volume.metadata.layout import CONTROL_SOCKET

QUEUE_LENGTH: Final = 16
"""Connections that wait. Asyncio also accepts so many at a time, and logs each that finds no descriptor."""


class _Quiet(uvicorn.Server):
    """Uvicorn without its hands on the process's signals, and without its tick of a tenth of a second, which only
    served to notice that it shall end and to date its answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._ending.wait()

    def end(self) -> None:
        """Answer what is being asked, then end."""
        self.should_exit = True
        self._ending.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class ControlServer:
    """An application being served on a directory's control socket."""

    def __init__(self, directory: str, app: FastAPI, limits: ControlLimits = LIMITS) -> None:
        self._directory = directory
        self._server = _Quiet(
            uvicorn.Config(
                Bounded(app, limits),
                http=patient(limits),
                ws="none",
                lifespan="off",
                timeout_graceful_shutdown=2,
                log_config=None,
                access_log=False,
                backlog=QUEUE_LENGTH,
                date_header=False,
            )
        )
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve. Raises OSError if the socket cannot be made."""
        listener = _listener(self._directory)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="control")
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Answer what is being asked, then remove the socket. Idempotent."""
        if self._task is None:
            return
        self._server.end()
        await self._task
        self._task = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._directory, CONTROL_SOCKET))


def _listener(directory: str) -> socket.socket:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = f"/proc/self/fd/{descriptor}/{CONTROL_SOCKET}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        like_directory(descriptor, CONTROL_SOCKET)
        listener.listen(QUEUE_LENGTH)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener
