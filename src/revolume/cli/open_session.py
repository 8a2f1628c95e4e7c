"""Opens a verb's session with a volume, whether the volume runs or not.

If the volume runs, its socket is there. If not, it is opened and served here for as long as the verb works; so
copy and bisect have one way of reading and need not know which it was. A stopped volume is read without changing
anything in it (``shadow_session.py``). One that is written to keeps its whole history: nothing that its usual
options would keep is let go, whatever they are.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from revolume.cli.target import wanted_name
from revolume.cli.volume_session import VolumeSession
from revolume.host import real_host
from revolume.host.owner import trusted
from revolume.host.real.disk import RealDisk
from revolume.node.addresses import own_address
from revolume.node.service_options import ServiceOptions, history_preserving
from revolume.volume.open.directory_state import holds_volume

if TYPE_CHECKING:
    from revolume.api.client import ControlClient
    from revolume.node.service import Service

_SOCKET_PATH_BYTES_MAX: Final = 107


@asynccontextmanager
async def open_session(directory: str, *, create_size: int | None = None) -> AsyncIterator[VolumeSession]:
    """The volume in ``directory``; with ``create_size``, a new one of that size if there is none."""
    from revolume.api.client import connect

    trusted(directory)
    async with AsyncExitStack() as ends:
        host = real_host()
        ends.push_async_callback(host.work.close)
        path = ends.enter_context(short_path(directory))
        client = connect(directory)
        if client is not None:
            ends.enter_context(client)
            yield VolumeSession(host, path, RunningQuestions(client))
            return
        silence_log()
        if create_size is None:
            from revolume.cli.shadow_session import shadow_session

            yield await ends.enter_async_context(shadow_session(directory))
        else:
            from revolume.cli.local_service import local_service

            service = await ends.enter_async_context(local_service(own_service(directory, create_size)))
            yield VolumeSession(host, path, OwnQuestions(service))


def silence_log() -> None:
    """Drop what a service would log: a verb prints its result, or the error."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


@contextmanager
def short_path(directory: str) -> Iterator[str]:
    """A path to ``directory`` short enough that other programs can reach a socket in it."""
    straight = os.path.abspath(directory)
    if len(os.fsencode(own_address(straight).removeprefix("unix:"))) <= _SOCKET_PATH_BYTES_MAX:
        yield straight
        return
    with tempfile.TemporaryDirectory(prefix="revolume-") as place:
        link = os.path.join(place, "v")
        os.symlink(straight, link)
        yield link


def own_service(directory: str, create_size: int | None = None) -> ServiceOptions:
    """A service for ourselves. With ``create_size`` the volume is made if there is none."""
    if create_size is None or holds_volume(RealDisk(), directory):
        return history_preserving(directory, (own_address(directory),))
    return history_preserving(directory, (own_address(directory),), name=wanted_name(directory), size=create_size)


class RunningQuestions:
    """A volume that another process serves, asked over its control socket."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    async def oldest(self) -> int:
        return int((await asyncio.to_thread(self._client.status))["horizon_write"])

    async def points(self) -> list[dict[str, Any]]:
        return list((await asyncio.to_thread(self._client.points))["points"])

    async def moment(self, text: str) -> dict[str, Any]:
        return dict((await asyncio.to_thread(self._client.points, text))["at"])


class OwnQuestions:
    """A volume that is served here."""

    def __init__(self, service: Service) -> None:
        self._control = service.control

    async def oldest(self) -> int:
        return int(self._control.status()["horizon_write"])

    async def points(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(point) for point in self._control.points().points]

    async def moment(self, text: str) -> dict[str, Any]:
        at = self._control.points(text).at
        assert at is not None
        return dataclasses.asdict(at)
