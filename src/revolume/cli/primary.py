"""A volume open as primary in a service: the volume, its exports, and the links to its mirrors.

Assembly: what a mirror is and when answers wait for it is ``volume/mirrors.py``'s business, the links are
``mirror/source.py``'s.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from revolume.api.shapes import MirrorShape
from revolume.chain.point import Point
from revolume.cli.heard import Heard
from revolume.cli.mirror_shapes import lacks, mirror_shape
from revolume.cli.mirror_to import MirrorTo
from revolume.cli.role import open_options
from revolume.cli.serving import Serving
from revolume.errors import Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.history.moments import Moment
from revolume.history.spot import Spot
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.origin import VolumeOrigin
from revolume.mirror.recovery import Elsewhere, fetch_longer_tail
from revolume.mirror.source import MirrorSource
from revolume.volume.manifest import MirrorMode
from revolume.volume.mirrors import Mirror
from revolume.volume.opening import open_volume
from revolume.volume.replacing import given_up, known_of, replacing_loses
from revolume.volume.status import Snapshot, VolumeStatus
from revolume.volume.volume import Volume

_FAREWELL_S: Final = 5.0
Tell = Callable[[str], None]


async def open_primary(host: Host, asked: Serving, tell: Tell) -> PrimaryRole:
    """Open the volume and begin to feed its mirrors. Refused where that could lose what was answered."""
    context = _link_context(asked)
    options = open_options(asked, mirrors=tuple(mirror.name for mirror in asked.mirrors))
    places = [Elsewhere(mirror.name, mirror.address, mirror.peer) for mirror in asked.mirrors]
    await fetch_longer_tail(host, asked.directory, options, places, context, asked.alone, tell)
    role = PrimaryRole(host, await open_volume(host, asked.directory, options), tell)
    try:
        await role.feed(asked.mirrors, context)
    except BaseException:
        await role.close()
        raise
    return role


def _link_context(asked: Serving) -> ssl.SSLContext | None:
    if asked.tls_dir is None or not asked.mirrors:
        return None
    from revolume.host.tls import client_context

    return client_context(asked.tls_dir, only_tls13=True)


class PrimaryRole:
    """See the module's text; a ``role.Role``."""

    def __init__(self, host: Host, volume: Volume, tell: Tell) -> None:
        self._host = host
        self._volume = volume
        self._tell = tell
        self._exports = VolumeExports(volume, volume)
        self._sources: dict[str, MirrorSource] = {}
        self.name = volume.name
        self.points: Callable[[], list[Point]] = volume.points
        self.snapshots: Callable[[], list[Snapshot]] = volume.snapshots
        self.cut = volume.cut
        self.snapshot = volume.snapshot
        self.drop_snapshot = volume.drop_snapshot
        self.grow = volume.grow

    @property
    def size(self) -> int:
        """Bytes, now."""
        return self._volume.size

    def status(self) -> VolumeStatus:
        """See ``role.Role``."""
        waits = [shape.waits for shape in map(self._shape, self._volume.mirrors) if shape.waits]
        return self._volume.status(waits[0] if waits else "")

    def follow(self, heard: Heard) -> None:
        """See ``role.Role``."""
        self._volume.core.events.follow(partial(heard.event, self.name))

    @property
    def epoch(self) -> int:
        """This opening's number."""
        return self._volume.epoch

    def exports_now(self) -> VolumeExports:
        """See ``role.Role``."""
        return self._exports

    def resolve(self, moment: Moment) -> Spot:
        """See ``role.Role``."""
        return self._exports.timeline.resolve(moment)

    # Mirrors

    async def feed(self, mirrors: Sequence[MirrorTo], context: ssl.SSLContext | None) -> None:
        """Connect to these mirrors, and go on doing so."""
        for asked in mirrors:
            known = await self._registered(asked)
            encrypted = None if asked.address.startswith("unix:") else context
            node = self._volume.core.manifest.state.node
            origin = VolumeOrigin(self._volume, asked.history)
            source = MirrorSource(
                self._host, origin, known, asked.address, node, encrypted, self._tell,
                self._volume.core.events.tell,
            )  # fmt: skip
            self._sources[asked.name] = source
            source.start()

    async def _registered(self, asked: MirrorTo) -> Mirror:
        """Known durably. A required mirror becomes async only by being given up first."""
        mirrors = self._volume.mirrors
        mode = MirrorMode.SYNC if asked.sync else MirrorMode.ASYNC
        known = next((mirror for mirror in mirrors if mirror.name == asked.name), None)
        if known is not None and known.required and mode != MirrorMode.SYNC:
            raise Refused(
                "mirror-required",
                f"Mirror {asked.name} is a sync mirror, which answers rest on.",
                f"Give it up with 'revolume detach DIR {asked.name}' first; then it may come back as async.",
            )
        return await mirrors.register(asked.name, mode, asked.peer)

    async def detach(self, name: str) -> None:
        """Give a mirror up, durably, and its link. NotFound: there is none of that name."""
        await self._volume.mirrors.detach(name)
        source = self._sources.pop(name, None)
        if source is not None:
            await source.stop()
        self._tell(f"Mirror {name} was detached.")

    async def replace_mirror(self, name: str, yes: bool) -> str:
        """Forget, durably, which copy a mirror is: the next one that joins is the mirror. Refused without ``yes``
        if answers rest on a copy that is not connected."""
        mirror, source = self._volume.mirrors.get(name), self._sources.get(name)
        away = source is None or not source.connected
        if mirror.required and away and not yes:
            raise replacing_loses(name, known_of(mirror.state))
        told = given_up(name, mirror.state)
        await self._volume.mirrors.replace(name)
        if source is not None:
            await source.again()
        self._tell(told)
        return told

    def mirroring(self) -> dict[str, Any]:
        """See ``role.Role``."""
        mirrors = [self._shape(mirror) for mirror in self._volume.mirrors]
        return {"role": "primary", "mirrors": mirrors, "lacks": lacks(self._volume.core.manifest.state)}

    def _shape(self, mirror: Mirror) -> MirrorShape:
        source = self._sources.get(mirror.name)
        return mirror_shape(
            mirror, None if source is None else source.status(), self._volume.position,
            self._volume.core.manifest.state.snapshots,
        )  # fmt: skip

    # The end

    async def close(self) -> None:
        """See ``role.Role``. What was answered is at the mirrors; a last point goes there if they listen."""
        self._exports.close()
        try:
            if self._sources:
                await self._say_goodbye()
        finally:
            await self._volume.close()

    @property
    def waits_in_vain(self) -> bool:
        """See ``role.Role``."""
        return any(
            mirror.required and not self._is_heard(mirror.name)
            and (mirror.waiting or mirror.received < self._volume.position)
            for mirror in self._volume.mirrors
        )  # fmt: skip

    def _is_heard(self, name: str) -> bool:
        source = self._sources.get(name)
        return source is not None and source.heard

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(RevolumeError, OSError, TimeoutError):
            await self._volume.cut()
            await within(self._host.clock, _FAREWELL_S, self._arrived())
        for source in self._sources.values():
            await source.stop()

    async def _arrived(self) -> None:
        """Until every mirror that is connected has received everything."""
        while any(not self._has_all(name) for name in self._sources):
            await self._host.clock.sleep(0.01)

    def _has_all(self, name: str) -> bool:
        source, mirror = self._sources[name], self._volume.mirrors.get(name)
        return not source.heard or mirror.received >= self._volume.position
