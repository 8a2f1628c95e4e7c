"""The service: host, volume, exports, NBD server and control socket, put together and taken apart.

This is assembly and nothing else. What starts later stands on what started earlier, so everything is taken
apart in the opposite order, however it ends: the control socket first, then the NBD server (what is in
flight is answered), the views, then the volume (a consistency point, a clean stop).

TLS: where there are certificates TCP requires it, unix sockets offer it, and clients must show a certificate
of the same authority.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, cast

import structlog

from revolume.api.control import Control
from revolume.cli.addresses import is_tcp, leaves_the_machine, own_address
from revolume.cli.logs import configure
from revolume.cli.serving import Serving
from revolume.errors import Refused
from revolume.history.exports import VolumeExports
from revolume.history.moments import Moment
from revolume.host import Host, real_host
from revolume.nbd.export import Exports
from revolume.nbd.limits import Limits
from revolume.nbd.server import Server
from revolume.nbd.session import Connection
from revolume.nbd.uri import parse_uri, uri
from revolume.volume.opening import open_volume
from revolume.volume.options import OpenOptions
from revolume.volume.volume import Volume

_GRACE_S = 10.0
log = structlog.get_logger("revolume")


@dataclass(frozen=True, slots=True)
class Service:
    """A volume being served."""

    volume: Volume
    control: Control
    announced: tuple[str, ...]  # the URIs of the addresses that were asked for


def run(asked: Serving, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is called with each address's URI once all are served."""
    configure()
    asyncio.run(_run(asked, ready))


async def _run(asked: Serving, ready: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with served(asked) as service:
        gc.collect()
        gc.freeze()
        for found in service.announced:
            ready(found)
        log.info("serving", volume=service.volume.name, size=service.volume.size)
        await stop.wait()
        log.info("stopping", volume=service.volume.name)
    log.info("stopped", volume=service.volume.name)


@asynccontextmanager
async def served(asked: Serving) -> AsyncIterator[Service]:
    """The service, for the time of the context."""
    async with AsyncExitStack() as ends:
        context = _tls_context(asked)
        host = real_host()
        ends.push_async_callback(host.work.close)
        volume = await open_volume(host, asked.directory, _options(asked))
        ends.push_async_callback(volume.close)
        exports = VolumeExports(volume, volume)
        ends.callback(exports.close)
        limits = Limits(connections_max=asked.connections_max)
        offered = cast(Exports, exports)  # they get back only what they opened
        server = Server(host, offered, limits, context, tls_required=context is not None)
        ends.push_async_callback(server.stop, _GRACE_S)
        announced = await _listen(host, server, asked, volume.name)
        control = Control(volume, lambda moment: _resolved(exports, moment), lambda: _serving(server, announced))
        if asked.control:
            await _serve_control(control, asked.directory, ends)
        yield Service(volume, control, announced)


def _options(asked: Serving) -> OpenOptions:
    """What was asked for; the volume's own defaults for the rest."""
    given = {
        "name": asked.name,
        "size": asked.size,
        "cp_interval_s": asked.cp_interval_s,
        "keep_s": asked.keep_s,
        "budget_bytes": asked.budget_bytes,
        "budget_once": asked.budget_once,
        "map_memory_bytes": asked.map_memory_bytes,
        "segment_bytes": asked.segment_bytes,
        "spare_bytes": asked.spare_bytes,
    }
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return OpenOptions(**chosen)


def _tls_context(asked: Serving) -> ssl.SSLContext | None:
    if asked.tls_dir is None:
        return None
    from revolume.host.tls import server_context

    return server_context(asked.tls_dir, verify_peer=True)


async def _listen(host: Host, server: Server, asked: Serving, name: str) -> tuple[str, ...]:
    """Listen wherever it was asked for, and on the directory's own socket; the URIs of the former."""
    own = own_address(asked.directory)
    announced = _adopt(host, server, asked, name) if asked.addresses == (own,) else []
    if announced:
        await _listen_at(server, own, asked, name)
    else:
        announced = [await _listen_at(server, address, asked, name) for address in asked.addresses]
        if own not in asked.addresses:
            await _listen_at(server, own, asked, name)
    return tuple(announced)


async def _listen_at(server: Server, address: str, asked: Serving, name: str) -> str:
    place = parse_uri(await server.listen(address, tls_required=asked.tls_dir is not None and is_tcp(address)))
    return uri(place.address, name, tls=place.tls)


def _adopt(host: Host, server: Server, asked: Serving, name: str) -> list[str]:
    """Sockets that a service manager opened for us take the place of the default address."""
    announced = []
    for activated in host.network.activated():
        if is_tcp(activated.address) and leaves_the_machine(activated.address) and not asked.plaintext_allowed:
            cause = f"The socket {activated.address} can be reached from other machines, and there is no TLS."
            raise Refused("plaintext", cause, "Give --tls-dir, or --allow-plaintext if the network is trusted.")
        server.adopt(host.network.adopt(activated, server.accept))
        announced.append(uri(activated.address, name, tls=asked.tls_dir is not None))
    return announced


async def _serve_control(control: Control, directory: str, ends: AsyncExitStack) -> None:
    from revolume.api.app import application
    from revolume.api.server import ControlServer

    server = ControlServer(directory, application(control))
    ends.push_async_callback(server.stop)
    await server.start()


# --- what control tells of the service -----------------------------------------------------------------


def _resolved(exports: VolumeExports, moment: Moment) -> tuple[int, int]:
    spot = exports.timeline.resolve(moment)
    return spot.write, spot.time_ns


def _serving(server: Server, announced: tuple[str, ...]) -> dict[str, Any]:
    return {"nbd": list(announced), "connections": [_connection(each) for each in server.connections()]}


def _connection(connection: Connection) -> dict[str, Any]:
    told = asdict(connection)
    peer = told.pop("peer")
    return {"peer": peer.pop("address"), **peer, **told}
