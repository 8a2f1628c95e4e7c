"""What every change of a running service's role works with: the listeners that stay, and the role behind them.

``promotion.py``, ``demotion.py`` and ``switchover.py`` are the changes; one goes on at a time (``turn``). A change
that fails leaves the volume in the role that its directory has then (``serve_again``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.nbd.server.server import Server
from revolume.node.completed_options import completed
from revolume.node.export_switch import ExportSwitch
from revolume.node.primary_role import open_primary
from revolume.node.role import Role
from revolume.node.secondary_role import SecondaryRole, open_secondary_role
from revolume.node.service_options import ServiceOptions
from revolume.volume.metadata.manifest_state import Role as ManifestRole
from revolume.volume.open.directory_state import stated

GRACE_S: Final = 2.0
"""How long what is in flight on the connections that are ended may take."""


@dataclass(slots=True)
class RoleChanges:
    """Of a running service's volume. ``become`` is called with the role that is served from then on, ``announce``
    with the URIs of what it listens at besides. ``options``: those of the role that it has now."""

    host: Host
    options: ServiceOptions
    server: Server
    exports: ExportSwitch
    become: Callable[[Role], None]
    announce: Callable[[tuple[str, ...]], None]
    tell: Callable[[str], None]
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def serve_again(self) -> None:
        """Serve the volume in the role that its directory has; if it can't be opened, say so."""
        try:
            self.become(await self._opened())
        except (OSError, RevolumeError) as error:
            reason = f"It could not be opened: {error}"
            self.become(SecondaryRole(self.host, self.options, self.tell, reason))

    async def _opened(self) -> Role:
        host, options = self.host, replace(self.options, size=None)
        state = await host.work.call(stated, host.disk, options.directory)
        if state.role == ManifestRole.SECONDARY:
            return await open_secondary_role(host, options, self.tell)
        mirrors = (await host.work.call(completed, host.disk, options)).options
        return await open_primary(host, mirrors, self.tell)
