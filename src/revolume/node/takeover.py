"""The addresses that a promoted mirror takes over, so that clients find the new primary where the old one was.

They are bound before anything is changed: while the old primary still listens there, that fails and nothing has
happened. They are served once the promotion is done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from revolume.nbd.server.bound_listener import BoundListener
from revolume.nbd.server.server import Server
from revolume.nbd.wire.uri import parse_uri, uri
from revolume.node.addresses import is_tcp, refuse_plaintext
from revolume.node.service_options import ServiceOptions


class Takeover:
    """Bound addresses. Either ``open`` or ``close`` comes next."""

    def __init__(self, reserved: Sequence[BoundListener]) -> None:
        self._reserved = reserved

    def open(self, name: str) -> tuple[str, ...]:
        """Serve them; the URIs of the volume ``name`` there."""
        for each in self._reserved:
            each.open()
        places = [parse_uri(each.uri) for each in self._reserved]
        return tuple(uri(place.address, name, tls=place.tls) for place in places)

    def close(self) -> None:
        """Give them back."""
        for each in self._reserved:
            each.close()


async def reserve(server: Server, options: ServiceOptions, addresses: Sequence[str]) -> Takeover:
    """Bind all of them or none. UsageError, Refused (other machines reach it, no TLS), RevolumeError (taken)."""
    refuse_plaintext(addresses, allowed=options.plaintext_allowed)
    bound: list[BoundListener] = []
    with ExitStack() as undo:
        for address in addresses:
            required = options.tls_dir is not None and is_tcp(address)
            bound.append(await server.bind(address, tls_required=required))
            undo.callback(bound[-1].close)
        undo.pop_all()
    return Takeover(bound)
