"""The service: host, volume, exports, NBD server and control socket, put together and taken apart.

This is assembly and nothing else. What starts later stands on what started earlier, so everything is taken
apart in the opposite order, however it ends: the control socket first, then the NBD server (what is in
flight is answered), the views, then the volume (a consistency point, a clean stop).

The volume is served in one of two roles, ``primary.py`` or ``mirror.py``; a promotion exchanges them behind the
same listeners.

TLS: where there are certificates TCP requires it, unix sockets offer it, and clients must show a certificate
of the same authority.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import structlog

from revolume.api.control import Control
from revolume.cli.alarm import Alarm
from revolume.cli.heard import Heard
from revolume.cli.listening import Listening
from revolume.cli.logs import configure, tell_of_loop
from revolume.cli.mirror import SecondaryRole, open_mirror
from revolume.cli.offered import Offered
from revolume.cli.primary import open_primary
from revolume.cli.promotion import Promotion
from revolume.cli.role import Role
from revolume.cli.serving import Serving
from revolume.errors import RevolumeError
from revolume.host import Host, real_host
from revolume.host.command import run_command
from revolume.host.tidy import Tidy
from revolume.nbd.limits import limits_for
from revolume.nbd.server import Server
from revolume.nbd.session import Connection
from revolume.nbd.uri import Place, parse_uri, uri

_GRACE_S = 10.0
log = structlog.get_logger("revolume")


class Service:
    """A volume being served, in the role that it has now."""

    def __init__(
        self, host: Host, asked: Serving, server: Server, offered: Offered, role: Role, heard: Heard
    ) -> None:
        self.role = role
        self._heard = heard
        self._offered = offered
        self._server = server
        self._places: list[Place] = []  # the addresses that were asked for
        promotion = Promotion(host, asked, server, offered, self._become, self.announce, _tell)
        promote = partial(promotion.promote, lambda: self.role)
        self.control = Control(role, role.resolve, self._serving, promote)
        self._become(role)

    def _become(self, role: Role) -> None:
        self.role = role
        self._offered.take(role)
        role.follow(self._heard)
        self.control.follow(role, role.resolve)

    def announce(self, uris: Sequence[str]) -> None:
        """It is served there too."""
        self._places += map(parse_uri, uris)

    @property
    def announced(self) -> tuple[str, ...]:
        """The URIs of the addresses that were asked for, with the name that the volume has now."""
        return tuple(uri(place.address, self.role.name, tls=place.tls) for place in self._places)

    async def close(self) -> None:
        """A clean stop."""
        await self.role.close()

    def _serving(self) -> dict[str, Any]:
        """What control tells of the service."""
        connections = [_connection(each) for each in self._server.connections()]
        refused = dict(self._server.refusals.counts)
        return {
            **self.role.mirroring(), "nbd": list(self.announced), "connections": connections, "refused": refused
        }  # fmt: skip


def run(asked: Serving, ready: Callable[[str], None]) -> None:
    """Serve until a signal; ``ready`` is called with each address's URI once all are served."""
    configure()
    asyncio.run(_run(asked, ready))


async def _run(asked: Serving, ready: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(tell_of_loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _renew_certificates if _managed() else stop.set)
    async with served(asked) as service:
        gc.collect()
        gc.freeze()
        for found in service.announced:
            ready(found)
        if isinstance(service.role, SecondaryRole):
            ready(f"mirror {service.role.listening}")
        log.info("serving", volume=service.role.name, size=service.role.size)
        await stop.wait()
        log.info("stopping", volume=service.role.name)
    log.info("stopped", volume=service.role.name)


def _managed() -> bool:
    """Whether a service manager started us. It sends SIGHUP for a reload; a terminal sends it when it closes."""
    return any(name in os.environ for name in ("NOTIFY_SOCKET", "INVOCATION_ID"))


def _renew_certificates() -> None:
    """What is on the disk now, for connections from now on. Where that is no good, what there was stays."""
    from revolume.host.tls import renew

    try:
        log.info("certificates renewed", contexts=renew())
    except RevolumeError as error:
        log.error("certificates not renewed", reason=str(error))


def _tell(text: str) -> None:
    log.info(text)


@asynccontextmanager
async def served(asked: Serving) -> AsyncIterator[Service]:
    """The service, for the time of the context."""
    async with AsyncExitStack() as ends:
        context = _tls_context(asked)
        host = real_host(socket_mode=asked.socket_mode)
        ends.push_async_callback(host.work.close)
        offered = Offered()
        limits = limits_for(asked.connections_max)
        tidy = Tidy(host.clock, host.work)
        ends.push_async_callback(tidy.close)
        server = Server(host, offered, limits, context, tls_required=context is not None, left=tidy.note)
        listening = await Listening.bind(host, server, asked)
        ends.callback(listening.close)
        opening = open_primary if asked.mirror_listen is None else open_mirror
        alarm = Alarm(asked.on_event, run_command) if asked.on_event else None
        if alarm is not None:
            ends.push_async_callback(alarm.close)
        service = Service(host, asked, server, offered, await opening(host, asked, _tell), Heard(alarm))
        ends.push_async_callback(service.close)
        ends.push_async_callback(server.stop, _GRACE_S, lambda: service.role.waits_in_vain)
        service.announce(await listening.open())
        if asked.control:
            await _serve_control(service.control, asked.directory, ends)
        yield service


def _tls_context(asked: Serving) -> ssl.SSLContext | None:
    if asked.tls_dir is None:
        return None
    from revolume.host.tls import server_context

    return server_context(asked.tls_dir, verify_peer=True)


async def _serve_control(control: Control, directory: str, ends: AsyncExitStack) -> None:
    from revolume.api.app import application
    from revolume.api.server import ControlServer

    server = ControlServer(directory, application(control))
    ends.push_async_callback(server.stop)
    await server.start()


def _connection(connection: Connection) -> dict[str, Any]:
    told = asdict(connection)
    peer = told.pop("peer")
    return {"peer": peer.pop("address"), **peer, **told}
