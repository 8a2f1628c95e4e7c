"""Where a service listens: at the addresses that were asked for, at the sockets that a service manager opened, and
at the socket in the volume's own directory, which is announced if there is nothing else, or if it was asked for.

The addresses are bound before the volume is opened, so that one that can't be had is found out while nothing has
been made or changed. Who connects meanwhile waits.
"""

from __future__ import annotations

from revolume.host import Host
from revolume.nbd.server.server import Server
from revolume.nbd.wire.uri import uri
from revolume.node.addresses import own_address, refuse_plaintext
from revolume.node.service_options import ServiceOptions
from revolume.node.takeover import Takeover, reserve


class Listening:
    """Bound, and not served yet. The server closes what has been opened."""

    def __init__(self, host: Host, server: Server, options: ServiceOptions, takeover: Takeover) -> None:
        self._host = host
        self._server = server
        self._options = options
        self._takeover = takeover

    @classmethod
    async def bind(cls, host: Host, server: Server, options: ServiceOptions) -> Listening:
        """RevolumeError: an address is taken, or would be served without TLS to other machines."""
        activated = [each.address for each in host.network.activated()]
        refuse_plaintext(activated, allowed=options.plaintext_allowed)
        own = own_address(options.directory)
        elsewhere = [address for address in options.addresses if address != own]
        return cls(host, server, options, await reserve(server, options, elsewhere))

    async def open(self) -> list[str]:
        """Serve everywhere; the URIs of what is announced, without the volume's name."""
        announced = list(self._takeover.open(""))
        for activated in self._host.network.activated():
            self._server.adopt(self._host.network.adopt(activated, self._server.accept))
            announced.append(uri(activated.address, "", tls=self._options.tls_dir is not None))
        own = own_address(self._options.directory)
        there = await self._server.listen(own, tls_required=False)
        return announced if announced and self._options.addresses == (own,) else self._in_order(announced, there)

    def _in_order(self, announced: list[str], there: str) -> list[str]:
        """With the directory's own socket, where that was asked for."""
        own = own_address(self._options.directory)
        if own in self._options.addresses:
            announced.insert(self._options.addresses.index(own), there)
        return announced

    def close(self) -> None:
        """Give the addresses back, if they have not been opened."""
        self._takeover.close()
