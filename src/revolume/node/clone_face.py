"""What a clone's own directory answers: a control socket, and an NBD socket whose default export is the clone.

So every verb works on the clone's directory as on any volume's that is being served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, cast

from revolume.api.control import AdminApi
from revolume.api.schemas import DemotedSchema, PromotedSchema, RestoredSchema, RestoreOrder, SwitchedSchema
from revolume.errors import Refused
from revolume.host import Host
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.export import Exports
from revolume.nbd.server.server import Server
from revolume.node.addresses import own_address
from revolume.node.role import Role
from revolume.node.service_options import ServiceOptions

_GRACE_S: Final = 10.0


async def open_face(host: Host, options: ServiceOptions, role: Role, parent: str) -> AsyncExitStack:
    """Serve ``role`` in its own directory, ``options.directory``; closing what is returned ends that. ``parent``:
    the name of the volume with which it is served. OSError: a socket can't be made."""
    from revolume.api.app import application
    from revolume.api.server import ControlServer

    async with AsyncExitStack() as ends:
        server = Server(host, cast(Exports, role.exports_now()), options.limits or Limits(), None, False)
        ends.push_async_callback(server.stop, _GRACE_S, lambda: role.waits_in_vain)
        await server.listen(own_address(options.directory))
        control = AdminApi(role, role.resolve, _serving(role, server), _NoOtherRole(role.name, parent))
        sockets = ControlServer(options.directory, application(control))
        ends.push_async_callback(sockets.stop)
        await sockets.start()
        return ends.pop_all()


def _serving(role: Role, server: Server) -> Callable[[], dict[str, Any]]:
    def serving() -> dict[str, Any]:
        return {**role.mirroring(), "nbd": [], "connections": [], "refused": dict(server.refusals.counts)}

    return serving


class _NoOtherRole:
    """The ``RoleOrders`` of a clone, which stays a primary beside its parent: every order is refused."""

    def __init__(self, name: str, parent: str) -> None:
        self._name = name
        self._parent = parent

    async def promote(
        self, addresses: Sequence[str], others: Sequence[str] = (), yes: bool = False
    ) -> PromotedSchema:
        raise Refused("is-primary", f"{self._name} is a primary already.", "There is nothing to be done.")

    async def demote(self, listen: str | None, yes: bool) -> DemotedSchema:
        raise self._refusal()

    async def switch_over(self, name: str, listen: str | None) -> SwitchedSchema:
        raise self._refusal()

    async def restore(self, order: RestoreOrder) -> RestoredSchema:
        raise Refused(
            "is-clone", f"{self._name} is a clone, and not restored in place.",
            "Make another clone, of that moment of this one: 'revolume clone DIR@MOMENT NAME'.",
        )  # fmt: skip

    def _refusal(self) -> Refused:
        return Refused(
            "is-clone", f"{self._name} is served together with {self._parent}, and can't become a mirror.",
            "Make it independent with 'revolume detach-clone', and serve it by itself.",
        )  # fmt: skip
