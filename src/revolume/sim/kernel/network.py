"""``host.Network`` between simulated machines: listeners, and connections from one machine to another."""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable

from revolume.errors import RevolumeError
from revolume.host.address import UnixAddress, parse_address
from revolume.host.network import Activated
from revolume.sim.kernel.fabric import Fabric
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.wire import SimWire

CONNECT_S = 20.0


class SimListener:
    """``host.Listener``."""

    def __init__(
        self, fabric: Fabric, process: Process, address: str, key: str, accept: Callable[[SimWire], None]
    ) -> None:
        self._fabric = fabric
        self._key = key
        self.process = process
        self.accept = accept
        self.addresses = [address]

    def close(self) -> None:
        """Take no more connections; those that it handed out stay."""
        if self._fabric.listeners.get(self._key) is self:
            del self._fabric.listeners[self._key]

    async def wait_closed(self) -> None:
        """At once."""


class SimNetwork:
    """One process's view of it: ``host.Network``. Addresses are ``MACHINE:PORT``, or ``unix:PATH``, which this
    process alone reaches: each has a disk of its own."""

    def __init__(self, fabric: Fabric, process: Process) -> None:
        self._fabric = fabric
        self._process = process

    def _key(self, address: str) -> str:
        return f"{self._process.name}/{address}" if address.startswith("unix:") else address

    async def listen(self, address: str, accept: Callable[[SimWire], None]) -> SimListener:
        """Take connections to ``address`` from every process of the fabric."""
        parse_address(address)
        key = self._key(address)
        if key in self._fabric.listeners:
            raise RevolumeError("address-in-use", f"{address} is in use already.", "Choose another.")
        listener = SimListener(self._fabric, self._process, address, key, accept)
        self._fabric.listeners[key] = listener
        return listener

    def activated(self) -> list[Activated]:
        """Nothing is."""
        return []

    def adopt(self, activated: Activated, accept: Callable[[SimWire], None]) -> SimListener:
        """Nothing can be."""
        raise NotImplementedError("no service manager is simulated")

    async def connect(
        self, address: str, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> SimWire:
        """Connect to a simulated address. TLS contexts are ignored: TLS is tested on real wires."""
        assert tls is None, "TLS is not simulated"
        fabric, key = self._fabric, self._key(address)
        parsed = parse_address(address)
        there = self._process.machine if isinstance(parsed, UnixAddress) else parsed.host
        await self._reach(there)
        listener = fabric.listeners.get(key)
        if listener is None or not listener.process.alive:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused", address)
        if (self._process.machine, address) == fabric.overheard:
            fabric.heard.clear()
        ours, theirs = SimWire.pair(fabric, self._process, listener.process, address)
        fabric.loop.call_soon(listener.accept, theirs, context=listener.process.context)
        return ours

    async def _reach(self, there: str) -> None:
        """Both ways once; a cut is waited out for a while."""
        fabric, here = self._fabric, self._process.machine
        to, fro = fabric.path(here, there), fabric.path(there, here)
        waited = 0.0
        while not (to.up and fro.up):
            if waited >= CONNECT_S:
                raise TimeoutError(errno.ETIMEDOUT, "timed out", there)
            await asyncio.sleep(0.5)
            waited += 0.5
        await asyncio.sleep(fabric.chance.delay(to.latency_s + fro.latency_s))
