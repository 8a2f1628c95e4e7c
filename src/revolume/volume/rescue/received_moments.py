"""Earlier pinned moments as they arrive at a new mirror, before its base: written straight into tables and files.

A moment is there with its last block: data, tables and names synced, then one edit of the manifest for what was
rescued and for the snapshots that stand at it. Until then nothing of it is, and it is sent again.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import LOST_DIGEST
from revolume.chain.map_file import MapFile
from revolume.errors import Refused
from revolume.host.disk import Buffer, Directory
from revolume.host.work import Work
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Horizon
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.moment_edits import pack_snapshot
from revolume.volume.metadata.rescue_edits import pack_rescue
from revolume.volume.rescue.moment_files import MomentFiles
from revolume.volume.rescue.moment_roots import rescued_pieces, root_before
from revolume.volume.rescue.rescue_job import open_tables
from revolume.volume.rescue.rescued_blocks import RescuedBlocks

U64 = npt.NDArray[np.uint64]


class ReceivedMoments:
    """Of one new copy. One moment after the other, oldest first."""

    def __init__(
        self,
        directory: Directory,
        volume: bytes,
        *,
        manifest: ManifestWriter,
        image: VolumeImage,
        rescued: RescuedBlocks,
        work: Work,
    ) -> None:
        self._directory = directory
        self._volume = volume
        self._manifest = manifest
        self._image = image
        self._rescued = rescued
        self._work = work
        self._now: MomentFiles | None = None
        self._number = 0

    async def put(self, moment: Horizon, blocks: U64, digests: U64, payload: Buffer, last: bool) -> None:
        """Blocks of a moment, ascending, with the content of those whose digest is not 0. Refused: the moment is
        not before the base."""
        if self._now is None or self._now.moment.write != moment.write:
            self._now = self._begin(moment)
        await self._work.call_sync(self._now.put, blocks, digests, memoryview(payload), last)
        self._number = self._now.number
        if last:
            await self._complete()

    def forget(self) -> None:
        """The link is lost: a moment of which only a part has come is sent again."""
        self._now = None

    def verify(self, digests: BlockDigests) -> None:
        """All blocks of the base are there, and have these digests. Refused: a moment, summed up, differs from the
        source's."""
        state = self._manifest.state
        if not state.rescues:
            return
        root, newer = (state.horizon.root_low, state.horizon.root_high), list[MapFile]()
        with ExitStack() as held:
            rescued = held.enter_context(closing(self._directory.child(layout.RESCUE)))
            for rescue in reversed(state.rescues):
                tables = open_tables(rescued, self._volume, [table.number for table in rescue.tables], held)
                for piece in rescued_pieces(tables):
                    if (piece.digests == np.uint64(LOST_DIGEST)).any():
                        return  # the source lost blocks of it: nothing to be summed up from here on
                    root = root_before(root, piece, newer, digests)
                if root != (rescue.moment.root_low, rescue.moment.root_high):
                    raise _refused(f"its moment w{rescue.moment.write}, summed up, differs from the source's")
                newer = tables + newer

    def _begin(self, moment: Horizon) -> MomentFiles:
        state = self._manifest.state
        if moment.write >= state.horizon.write:
            raise _refused(f"its moment w{moment.write} is not before its base")
        number = max(state.next_rescue, self._number + 1)
        return MomentFiles(self._directory, self._volume, moment, number)

    async def _complete(self) -> None:
        files, self._now = self._now, None
        assert files is not None
        made, self._number = files.rescue, files.number
        names = [pin for pin in self._manifest.state.lacking if pin.write == made.moment.write]
        await self._manifest.record(
            (EditKind.RESCUE, pack_rescue(made, self._number)),
            *((EditKind.SNAPSHOT, pack_snapshot(pin)) for pin in names),
        )
        async with self._image.exchange():
            self._rescued.adopt(self._manifest.state.rescues)


def _refused(why: str) -> Refused:
    return Refused(
        "base-not-equal", f"The mirror can't be brought up: {why}.", "Start again with an empty directory."
    )
