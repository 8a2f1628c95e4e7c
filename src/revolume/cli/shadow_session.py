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

from revolume.api.control import ReadApi
from revolume.cli.volume_session import VolumeSession
from revolume.errors import Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.history.origin_view import OriginView, open_origin, record_of
from revolume.host import Host, real_host
from revolume.host.shadow_disk import ShadowDisk, ShadowWork
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.export import Exports
from revolume.nbd.server.server import Server
from revolume.node.addresses import own_address
from revolume.node.mirror_schemas import base_sentence
from revolume.node.service_options import history_preserving, open_options
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.open.directory_state import stated
from revolume.volume.open.open import open_secondary, open_volume
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary

_GRACE_S = 5.0


@asynccontextmanager
async def shadow_session(directory: str) -> AsyncIterator[VolumeSession]:
    """The stopped volume in ``directory``. Refused while it runs, or while it is no whole copy."""
    async with AsyncExitStack() as ends:
        place = ends.enter_context(tempfile.TemporaryDirectory(prefix="revolume-"))
        host = _shadow_host(place, ends)
        volume = await _opened(host, directory, ends)
        exports = VolumeExports(volume, None)
        server = Server(host, cast(Exports, exports), Limits(), None, tls_required=False)
        ends.callback(exports.close)
        ends.push_async_callback(server.stop, _GRACE_S)
        await server.listen(own_address(place))
        yield VolumeSession(host, place, _ShadowQuestions(volume, exports))


def _shadow_host(place: str, ends: AsyncExitStack) -> Host:
    room = os.path.join(place, "shadow")
    os.mkdir(room)
    disk, real = ShadowDisk(room), real_host()
    ends.callback(disk.close)
    ends.push_async_callback(real.work.close)
    return Host(real.clock, real.entropy, disk, ShadowWork(real.work, disk), real.network)


async def _opened(host: Host, path: str, ends: AsyncExitStack) -> Volume | Secondary:
    """Open; it is closed with ``ends``, and so is a clone's parent, which is opened before it."""
    state = stated(host.disk, path)
    mirrors = tuple(mirror.name for mirror in state.mirrors)
    options = open_options(history_preserving(path), reserve_bytes=0, mirrors=mirrors)
    if state.role == Role.PRIMARY:
        view = await _origin(host, state, ends)
        volume = await open_volume(host, path, dataclasses.replace(options, origin=view))
        ends.push_async_callback(_closed, volume)
        return volume
    secondary = await open_secondary(host, path, options)
    ends.push_async_callback(_closed, secondary)
    if secondary.base is not None:
        cause = base_sentence(secondary)
        raise Refused("base-incomplete", cause, "Wait until its source has sent the rest.")
    return secondary


async def _origin(host: Host, state: State, ends: AsyncExitStack) -> OriginView | None:
    """Of a clone, its parent as of the point over which it lies."""
    origin = state.clones.origin
    if origin is None:
        return None
    parent = await _opened(host, origin.directory, ends)
    view = await open_origin(parent, record_of(parent.manifest.state, origin, state.name))
    ends.callback(view.close)
    return view


async def _closed(volume: Volume | Secondary) -> None:
    """What a clean stop would say is not kept anyway."""
    with contextlib.suppress(RevolumeError, OSError):
        await volume.close()


class _ShadowQuestions:
    """``volume_session.VolumeQuestions`` of a volume that is open over a shadow."""

    def __init__(self, volume: Volume | Secondary, exports: VolumeExports) -> None:
        self._volume = volume
        self._look = ReadApi(cast(Any, volume), exports.resolver.resolve)

    async def oldest(self) -> int:
        return self._volume.folder.retired_write

    async def points(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(point) for point in self._look.points().points]

    async def moment(self, text: str) -> dict[str, Any]:
        at = self._look.points(text).at
        assert at is not None
        return dataclasses.asdict(at)
