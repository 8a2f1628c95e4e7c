"""The links of a primary to its mirrors, by their names: begun for each that is known, and changed by order.

Each order is durable before it is answered. What a mirror is and when answers wait for it is
``volume/members/mirrors.py``'s business, a link is ``mirror/source/mirror_source.py``'s.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from typing import Final

from revolume.errors import Refused
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.mirror_status import MirrorState, MirrorStatus
from revolume.mirror.recorded_status import recorded_status, with_verified
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.mirror.source.volume_source import VolumeSource
from revolume.node.mirror_to import MirrorTo, as_recorded
from revolume.pace.limits import BulkLimits
from revolume.pace.pacer import Pacer
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.replace import given_up, known_of, replacing_loses
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.primary import Volume
from revolume.volume.primary_status import kept_status

TOLD_S: Final = 2.0
_NO_ADDRESS: Final = "It is not known where it is: name it with --mirror-to, or with 'revolume mirror set'."


class MirrorLinks:
    """Of one open primary. ``context``: for TLS, None without certificates; ``bulk``: what bulk is allowed."""

    def __init__(
        self,
        host: Host,
        volume: Volume,
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
        bulk: BulkLimits | None = None,
    ) -> None:
        self._host = host
        self._volume = volume
        self._context = context
        self._tell = tell
        self._sources: dict[str, MirrorSource] = {}
        self.pacer = Pacer(host.clock, bulk, lambda: volume.position + volume.reader.rounds)

    def __iter__(self) -> Iterator[MirrorSource]:
        return iter(self._sources.values())

    def __bool__(self) -> bool:
        return bool(self._sources)

    def get(self, name: str) -> MirrorSource | None:
        """None: there is no link to a mirror of that name."""
        return self._sources.get(name)

    async def begin(self, asked: MirrorTo) -> None:
        """Know this mirror, durably, connect to it, and go on doing so. Refused: it would cease to be
        required."""
        mirror = await self._registered(asked)
        encrypted = None if asked.address.startswith("unix:") else self._context
        source = MirrorSource(
            self._host,
            VolumeSource(self._volume, mirror.state.history),
            mirror,
            asked.address,
            node=self._volume.manifest.state.node,
            context=encrypted,
            tell=self._tell,
            note=self._volume.events.tell,
            pacer=self.pacer,
        )
        self._sources[asked.name] = source
        source.start()

    async def move(self, name: str) -> None:
        """The mirror is at another address now, which is recorded: end the link, and begin one there."""
        source = self._sources.pop(name, None)
        if source is not None:
            await source.stop()
        await self.begin(as_recorded(self._volume.mirrors.get(name).state))

    async def _registered(self, asked: MirrorTo) -> Mirror:
        """A required mirror becomes async only by being given up first."""
        mirrors = self._volume.mirrors
        known = next((mirror for mirror in mirrors if mirror.name == asked.name), None)
        if known is not None and known.required and asked.mode == MirrorMode.ASYNC:
            raise Refused(
                "mirror-required",
                f"Mirror {asked.name} is a sync mirror, which answers rest on.",
                f"Give it up with 'revolume detach DIR {asked.name}' first; then it may come back as async.",
            )
        mode = asked.mode or (MirrorMode.SYNC if known is None else known.mode)
        return await mirrors.register(asked.name, mode, asked.peer, asked.address, asked.history, asked.lost)

    async def detach(self, name: str) -> None:
        """Give a mirror up, durably, and its link. NotFound: there is none of that name."""
        mirror, source = self._volume.mirrors.get(name), self._sources.pop(name, None)
        await self._volume.mirrors.detach(name)
        if source is not None:
            if source.heard:
                await self._told_of_it(mirror)
            await source.stop()
        self._tell(f"Mirror {name} was detached.")

    async def _told_of_it(self, mirror: Mirror) -> None:
        """The log says that it is no member any more: it gets so much of it still, if it takes it soon."""
        await self._volume.membership.stated()
        position, clock = self._volume.position, self._host.clock

        async def received() -> None:
            while mirror.received < position:
                await clock.sleep(0.01)

        with contextlib.suppress(TimeoutError):
            await within(clock, TOLD_S, received())

    async def replace(self, name: str, yes: bool) -> str:
        """Forget, durably, which copy a mirror is: the next one that joins is the mirror. Refused without ``yes``
        if answers rest on a copy that is not connected."""
        mirror, source = self._volume.mirrors.get(name), self.get(name)
        away = source is None or not source.connected
        if mirror.required and away and not yes:
            raise replacing_loses(name, known_of(mirror.state))
        told = given_up(name, mirror.state)
        await self._volume.mirrors.replace(name)
        if source is not None:
            await source.again()
        self._tell(told)
        return told

    def status(self) -> list[MirrorStatus]:
        """Of each mirror that the volume knows, now."""
        known = self._volume.manifest.state.verified
        return [with_verified(self._status(mirror), known) for mirror in self._volume.mirrors]

    def _status(self, mirror: Mirror) -> MirrorStatus:
        volume, source = self._volume, self.get(mirror.name)
        snapshots, oldest = volume.manifest.state.snapshots, volume.oldest.write
        if source is None:
            kept = kept_status(volume, mirror)
            return recorded_status(mirror.state, MirrorState.NOT_SERVED, _NO_ADDRESS, snapshots, oldest, kept)
        return source.status(volume.position, snapshots, oldest)

    def hears(self, name: str) -> bool:
        """Whether this mirror has been heard of lately."""
        source = self.get(name)
        return source is not None and source.heard

    async def all_level(self) -> None:
        """Return once every mirror that is connected has received everything."""
        while any(not self._is_level(name) for name in self._sources):
            await self._host.clock.sleep(0.01)

    def _is_level(self, name: str) -> bool:
        return not self.hears(name) or self._volume.mirrors.get(name).received >= self._volume.position

    async def stop(self) -> None:
        """End every link in order: what was sent arrives."""
        for source in self:
            await source.stop()
