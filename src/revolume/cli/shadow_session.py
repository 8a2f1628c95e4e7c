"""A stopped volume's content, read and not touched: it is opened over a shadow, and served from there.

Whatever opening it writes (the end of its log anew, an epoch, maps) goes to a temporary directory and is gone
afterwards (``host/shadow_disk.py``). So it may lie on a medium that can't be written, its required mirrors need
not be asked, and a mirror can be read as well: as of its last agreed point.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from revolume.api.control import Look
from revolume.cli.addresses import own_address
from revolume.cli.door import ALL_ROOM, Door
from revolume.cli.mirror_shapes import base_sentence
from revolume.errors import Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.history.moments import SPAN_SECONDS_MAX
from revolume.host import Host, real_host
from revolume.host.shadow_disk import ShadowDisk, ShadowWork
from revolume.nbd.export import Exports
from revolume.nbd.limits import Limits
from revolume.nbd.server import Server
from revolume.volume.manifest import Role, State, load
from revolume.volume.opening import open_secondary, open_volume
from revolume.volume.options import OpenOptions
from revolume.volume.secondary import Secondary
from revolume.volume.volume import Volume

_GRACE_S = 5.0


@asynccontextmanager
async def looked_into(directory: str) -> AsyncIterator[Door]:
    """The stopped volume in ``directory``. Refused while it runs, or while it is no whole copy."""
    async with AsyncExitStack() as ends:
        place = ends.enter_context(tempfile.TemporaryDirectory(prefix="revolume-"))
        host = _shadow_host(place, ends)
        volume = await _opened(host, directory)
        ends.push_async_callback(_closed, volume)
        exports = VolumeExports(volume, None)
        server = Server(host, cast(Exports, exports), Limits(), None, tls_required=False)
        ends.callback(exports.close)
        ends.push_async_callback(server.stop, _GRACE_S)
        await server.listen(own_address(place))
        yield Door(host, place, _Asked(volume, exports))


def _shadow_host(place: str, ends: AsyncExitStack) -> Host:
    room = os.path.join(place, "shadow")
    os.mkdir(room)
    disk, real = ShadowDisk(room), real_host()
    ends.callback(disk.close)
    ends.push_async_callback(real.work.close)
    return Host(real.clock, real.entropy, disk, ShadowWork(real.work, disk), real.network)


async def _opened(host: Host, path: str) -> Volume | Secondary:
    state = _state(host, path)
    options = OpenOptions(
        keep_s=SPAN_SECONDS_MAX, budget_bytes=ALL_ROOM, budget_once=True, spare_bytes=0, reserve_bytes=0,
        mirrors=tuple(mirror.name for mirror in state.mirrors),
    )  # fmt: skip
    if state.role == Role.PRIMARY:
        return await open_volume(host, path, options)
    secondary = await open_secondary(host, path, options)
    if secondary.base is not None:
        cause = base_sentence(secondary)
        await _closed(secondary)
        raise Refused("base-incomplete", cause, "Wait until its source has sent the rest.")
    return secondary


def _state(host: Host, path: str) -> State:
    directory = host.disk.open(path)
    try:
        return load(directory).state
    finally:
        directory.close()


async def _closed(volume: Volume | Secondary) -> None:
    """What a clean stop would say is not kept anyway."""
    with contextlib.suppress(RevolumeError, OSError):
        await volume.close()


class _Asked:
    """``door.Questions``."""

    def __init__(self, volume: Volume | Secondary, exports: VolumeExports) -> None:
        self._volume = volume
        self._look = Look(cast(Any, volume), exports.timeline.resolve)

    async def oldest(self) -> int:
        return self._volume.folder.retired_write

    async def points(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(point) for point in self._look.points().points]

    async def moment(self, text: str) -> dict[str, Any]:
        at = self._look.points(text).at
        assert at is not None
        return dataclasses.asdict(at)
