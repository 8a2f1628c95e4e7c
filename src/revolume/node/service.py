"""The service: a volume in one of its two roles, its exports, the NBD server and the control socket.

What starts later stands on what started earlier, so everything is taken apart in the opposite order, however it
ends: the control socket first, then the NBD server (what is in flight is answered), the views, then the volume (a
consistency point, a clean stop).

    ``open``    addresses are bound, the volume is opened in its role; clients wait
    ``serve``   clients are served, and so is the control socket
    ``close``   a clean stop

The volume is served as ``primary_role.py`` or ``secondary_role.py`` say; a promotion or a demotion exchanges the
two behind the same listeners. The machine is reached through ``Host`` alone; what the process has to do with
(signals, its log, memory that clients leave behind) is the business of whoever opens the service.

TLS: where there are certificates TCP requires it, unix sockets offer it, and clients must show a certificate
of the same authority.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from revolume.api.control import AdminApi
from revolume.host import Host
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.server.server import Server
from revolume.nbd.server.session import Connection
from revolume.nbd.wire.uri import Place, parse_uri, uri
from revolume.node.completed_options import completed
from revolume.node.demotion import Demotion
from revolume.node.event_log import Observer
from revolume.node.export_switch import ExportSwitch
from revolume.node.listening import Listening
from revolume.node.primary_role import open_primary
from revolume.node.promotion import Promotion
from revolume.node.restore import Restore
from revolume.node.role import Role
from revolume.node.role_changes import RoleChanges
from revolume.node.secondary_role import SecondaryRole, open_secondary_role
from revolume.node.service_options import ServiceOptions
from revolume.node.switchover import Switchover
from revolume.node.tls_contexts import nbd_context
from revolume.volume.metadata.manifest_state import Role as ManifestRole

_GRACE_S: Final = 10.0


class Service:
    """A volume being served, in the role that it has now. Made by ``open``."""

    def __init__(
        self,
        host: Host,
        options: ServiceOptions,
        server: Server,
        exports: ExportSwitch,
        listening: Listening,
        observer: Observer,
        role: Role,
    ) -> None:
        self.server = server
        self.role = role
        self._options = options
        self.exports = exports
        self._listening = listening
        self._observer = observer
        self._places: list[Place] = []  # the addresses that were asked for
        self._ends = AsyncExitStack()
        changes = RoleChanges(
            host=host, options=options, server=server, exports=exports, become=self._become,
            announce=self._announce, tell=observer.tell,
        )  # fmt: skip
        self._changes = changes
        self._promotion = Promotion(changes)
        self.promote = partial(self._promotion.promote, lambda: self.role)
        self.demote = partial(Demotion(changes).demote, lambda: self.role)
        self.switch_over = partial(Switchover(changes).switch_over, lambda: self.role)
        self._restore = Restore(changes)
        self.restore = partial(self._restore.restore, lambda: self.role)
        self.control = AdminApi(role, role.resolve, self._serving, self)
        self._become(role)

    @classmethod
    async def open(
        cls,
        host: Host,
        options: ServiceOptions,
        observer: Observer,
        client_left: Callable[[], None] = lambda: None,
    ) -> Service:
        """Bind the addresses and open the volume. ``client_left`` is called after each connection's end.
        RevolumeError, OSError: it can't be served, and nothing is held."""
        found = await host.work.call(completed, host.disk, options)
        options = found.options
        for sentence in found.told:
            observer.tell(sentence)
        async with AsyncExitStack() as ends:
            exports, context = ExportSwitch(), nbd_context(options)
            server = Server(
                host, exports, options.limits or Limits(), context, tls_required=context is not None,
                left=client_left,
            )  # fmt: skip
            listening = await Listening.bind(host, server, options)
            ends.callback(listening.close)
            open_role = open_primary if found.role == ManifestRole.PRIMARY else open_secondary_role
            role: Role = await open_role(host, options, observer.tell)
            service = cls(
                host=host, options=options, server=server, exports=exports, listening=listening, observer=observer,
                role=role,
            )  # fmt: skip
            ends.push_async_callback(service._close_role)
            ends.push_async_callback(server.stop, _GRACE_S, lambda: service.role.waits_in_vain)
            service._ends = ends.pop_all()
            return service

    async def serve(self) -> None:
        """Let clients in, and answer the control socket. OSError: that can't be made; ``close`` the service."""
        self._announce(await self._listening.open())
        if self._options.control:
            await self._serve_control()

    async def close(self) -> None:
        """A clean stop. Idempotent."""
        await self._ends.aclose()

    @property
    def announced(self) -> tuple[str, ...]:
        """The URIs of the addresses that were asked for, with the name that the volume has now."""
        return tuple(uri(place.address, self.role.name, tls=place.tls) for place in self._places)

    def _become(self, role: Role) -> None:
        self.role = role
        self.exports.switch_to(role)
        role.follow(self._observer)
        if isinstance(role, SecondaryRole):
            role.on_handover(partial(self._promotion.take_over, lambda: self.role))
        self.control.follow(role, role.resolve)

    def _announce(self, uris: Sequence[str]) -> None:
        self._places += map(parse_uri, uris)

    async def _close_role(self) -> None:
        async with self._changes.turn:  # a change of role comes to its end
            await self.role.close()

    async def _serve_control(self) -> None:
        from revolume.api.app import application
        from revolume.api.server import ControlServer

        server = ControlServer(self._options.directory, application(self.control))
        self._ends.push_async_callback(server.stop)
        await server.start()

    def _serving(self) -> dict[str, Any]:
        """What the control socket tells of the service, besides the volume's status."""
        return {
            **self.role.mirroring(),
            "restore": self._restore.status,
            "nbd": list(self.announced),
            "connections": [_connection(each) for each in self.server.connections()],
            "refused": dict(self.server.refusals.counts),
        }


@asynccontextmanager
async def served(
    host: Host, options: ServiceOptions, observer: Observer, client_left: Callable[[], None] = lambda: None
) -> AsyncIterator[Service]:
    """The service, for the time of the context."""
    service = await Service.open(host, options, observer, client_left)
    async with AsyncExitStack() as ends:
        ends.push_async_callback(service.close)
        await service.serve()
        yield service


def _connection(connection: Connection) -> dict[str, Any]:
    told = asdict(connection)
    peer = told.pop("peer")
    return {"peer": peer.pop("address"), **peer, **told}
