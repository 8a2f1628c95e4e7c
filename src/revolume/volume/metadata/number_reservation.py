"""Write numbers are reserved in the manifest before they are given out, so that no crash gives one out again."""

from __future__ import annotations

import asyncio

from revolume.blocks.numbers import WriteNumber
from revolume.errors import RevolumeError
from revolume.log.write.appender import Appender
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.metadata.manifest_writer import ManifestWriter


class NumberReservation:
    """``upto``: no write gets this number or a higher one. ``step``: how many are reserved at a time; behind
    ``extend_above``, with half of them left, the next ones shall be."""

    def __init__(self, manifest: ManifestWriter, appender: Appender, step: int) -> None:
        self._manifest = manifest
        self._appender = appender
        self._step = step
        self._recording: asyncio.Task[None] | None = None
        self._failure: RevolumeError | None = None
        self.upto = manifest.state.reserved
        self.extend_above = self.upto - step // 2

    def extend(self) -> None:
        """Begin to reserve more, unless that is under way."""
        self._recording = self._recording or asyncio.create_task(self._record())

    async def wait_for(self, count: int) -> None:
        """Return once so many more writes can be numbered. RevolumeError: the manifest can't be written."""
        while self._appender.write + count >= self.upto:
            self.extend()
            assert self._recording is not None
            await asyncio.wait([self._recording])
            if self._failure is not None:
                raise self._failure

    async def _record(self) -> None:
        try:
            upto = WriteNumber(self._appender.write + self._step)
            await self._manifest.record((EditKind.RESERVE, pack_number(upto)))
            self.upto, self.extend_above = upto, upto - self._step // 2
            self._failure = None
        except RevolumeError as error:
            self._failure = error
        finally:
            self._recording = None
