"""A moment of an open primary's own past, brought from another copy that has it still.

It becomes an isolated moment, as a snapshot is that the horizon has left: the blocks in which it differs from the
next newer pinned moment, or from the image. That one is held meanwhile, so that what folds overwrite of it is
rescued. Until the last block is there nothing of it is: a crash leaves files that nobody names, and the next
opening removes them.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.digest import LOST_DIGEST
from revolume.blocks.numbers import WriteNumber
from revolume.blocks.root import Root
from revolume.errors import NoSpace, Refused
from revolume.host.disk import Buffer
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.metadata.manifest_state import Horizon, PinnedSnapshot, Rescue
from revolume.volume.metadata.rescue_edits import pack_rescue
from revolume.volume.primary import Volume
from revolume.volume.rescue.moment_files import MomentFiles
from revolume.volume.space.holder import HolderKind

U64 = npt.NDArray[np.uint64]
NUMBERS: Final = 1 << 11
"""File numbers that are set apart for one moment, half of them for the older one: a table takes one, and holds a
million blocks or more."""
SLACK_BYTES: Final = 1 << 20


class NewerMoment(Protocol):
    """The next newer moment, held open."""

    async def read(self, blocks: U64) -> tuple[U64, memoryview]:
        """The digests of these blocks, ascending, and the content of those whose digest is not 0."""


class FetchedMoment:
    """Of one ``moment`` on its way. ``above``: the next newer moment, which is here, and stays until this is
    closed. Made by ``begin``; ``close`` it.

    An older moment that was fetched itself names no block that it has in common with the newer one. Where the
    moment between them differs, such a block is kept for the older one too."""

    def __init__(self, volume: Volume, moment: Horizon, above: Horizon, number: int, held: ExitStack) -> None:
        """Files get numbers from ``number`` on, so many as are set apart."""
        self.above = above
        self._volume = volume
        self._files = MomentFiles(volume.context.directory, volume.volume_id, moment, number)
        self._held = held
        self._root = roots.EMPTY
        older = _older(volume, moment.write)
        self._older = None
        if older is not None:
            self._older = MomentFiles(volume.context.directory, volume.volume_id, older, number + NUMBERS // 2)
        self.lost = False
        """The node that has it lost blocks of it."""
        arriving = _names(number)
        volume.rescued.arriving |= arriving
        held.callback(volume.rescued.arriving.difference_update, arriving)

    @classmethod
    async def begin(cls, volume: Volume, moment: Horizon) -> FetchedMoment:
        """Hold what is newer, and set file numbers apart. Refused: the moment is here already."""
        with ExitStack() as held:
            async with volume.folder.paused():  # no table is given to another moment from here on
                above = _above(volume, moment.write)
                holder = f"w{moment.write} being fetched"
                held.callback(volume.holders.lease(HolderKind.UNDER_WAY, holder, above.write, pinned=True))
                held.enter_context(volume.rescued.in_use())
            number = volume.manifest.state.next_rescue
            await volume.manifest.record((EditKind.RESCUE_NUMBERS, pack_number(number + NUMBERS)))
            return cls(volume, moment, above, number, held.pop_all())

    def same(self, total: Root) -> None:
        """Blocks that are what the newer moment has: their part of the volume root."""
        self._root = roots.combine(self._root, total)

    async def put(self, blocks: U64, digests: U64, payload: Buffer, newer: NewerMoment) -> None:
        """Blocks, ascending from call to call, in which the moment differs from the ``newer`` one, with the
        content of those whose digest is not 0. NoSpace: the disk has no room for them."""
        self._refuse_without_room(len(payload))
        if self._older is not None:
            await self._keep_for_older(self._older, blocks, newer)
        await self._volume.log.work.call_sync(self._files.put, blocks, digests, memoryview(payload), False)
        self._root = roots.add(self._root, blocks, digests)
        self.lost = self.lost or bool((digests == np.uint64(LOST_DIGEST)).any())

    async def _keep_for_older(self, older: MomentFiles, blocks: U64, newer: NewerMoment) -> None:
        write, work = older.moment.write, self._volume.log.work
        named = await work.call(self._volume.rescued.changed, write, self._files.moment.write, blocks)
        if named.all():
            return
        shared = blocks[~named]
        digests, content = await newer.read(shared)
        self._refuse_without_room(len(content))
        await work.call_sync(older.put, shared, digests, content, False)

    def _refuse_without_room(self, size: int) -> None:
        room = self._volume.disk_room.for_image
        if room < size + SLACK_BYTES:
            raise NoSpace(
                "moment-no-space",
                f"The blocks of w{self._files.moment.write} do not fit on this disk, which has room for {room} "
                "bytes more.",
                "Make room on the disk, and fetch it again; nothing of it is kept.",
            )

    async def finish(self, pin: PinnedSnapshot) -> None:
        """All has been put: the moment is here from now on, by this name, durably. Refused: it does not sum up to
        its root, or the name is taken."""
        moment = self._files.moment
        if not self.lost and self._root != (moment.root_low, moment.root_high):
            raise Refused(
                "moment-not-equal", f"w{moment.write}, as it was sent, does not sum up to its volume root.",
                "That copy is not what its log says: verify it; another copy may have that moment.",
            )  # fmt: skip
        volume, made = self._volume, [await self._whole(self._files)]
        if self._older is not None:
            more = await self._whole(self._older)
            known = next(r for r in volume.manifest.state.rescues if r.moment.write == more.moment.write)
            made += [_together(known, more)] if more.tables else []
        # No fold touches them meanwhile: what is newer is held, and is what folds rescue for.
        following = volume.manifest.state.next_rescue
        await volume.names.bring(pin, *((EditKind.RESCUE, pack_rescue(each, following)) for each in made))
        async with volume.image.exchange():
            volume.rescued.adopt(volume.manifest.state.rescues)

    async def _whole(self, files: MomentFiles) -> Rescue:
        """What has come, durable; no files where nothing has."""
        nothing = np.zeros(0, np.uint64)
        await self._volume.log.work.call_sync(files.put, nothing, nothing, memoryview(b""), True)
        return files.rescue if files.rescue.tables else Rescue(files.moment)

    async def close(self) -> None:
        """Let go of what is held; what is not part of the volume goes."""
        self._held.close()
        async with self._volume.folder.paused():
            await self._volume.log.work.call(self._volume.rescued.sweep)


def _together(known: Rescue, more: Rescue) -> Rescue:
    """What is known of a moment, then more. The file that still grows stays the last."""
    return replace(known, tables=known.tables + more.tables, files=more.files + known.files)


def _names(first: int) -> set[str]:
    """Of the files that a moment may get."""
    tables = {layout.rescue_table_name(number) for number in range(first, first + NUMBERS)}
    return tables | {layout.rescue_file_name(number) for number in (first, first + NUMBERS // 2)}


def _above(volume: Volume, write: WriteNumber) -> Horizon:
    """The next newer moment that stays here, while it is held. Refused: there is none."""
    refuse_here(volume, write)
    newer = [each.moment for each in volume.manifest.state.rescues if each.moment.write > write]
    return min([*newer, volume.folder.horizon], key=lambda moment: moment.write)


def refuse_here(volume: Volume, write: WriteNumber) -> None:
    """Refused: the volume has this moment itself; or its image has only just left it."""
    state, horizon = volume.manifest.state, volume.folder.horizon
    if write >= horizon.write or any(each.moment.write == write for each in state.rescues):
        raise Refused("moment-is-here", f"{volume.name} has w{write} itself.", f"Open it: {volume.name}@w{write}.")


def _older(volume: Volume, write: WriteNumber) -> Horizon | None:
    """The next older moment that something was rescued for."""
    older = [each.moment for each in volume.manifest.state.rescues if each.moment.write < write]
    return max(older, key=lambda moment: moment.write, default=None)
