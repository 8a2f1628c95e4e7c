"""What arrives of a jump, put beside the old state: the content in one file that only grows, tables that name it.

Nothing of it touches the image, so the copy stays what it was until the flip. Progress is made durable (content
synced, table written, JUMP edit) by size and by time, one stretch while the next one arrives, and when a link is
lost (``settle``). So a link that breaks again and again sends little twice, and a power cut costs two stretches.

A stretch's rows become a table. Tables that are no larger than twice what comes behind them are taken into the new
one, so their number grows with the logarithm of what has arrived, and beyond ``TABLE_ENTRIES`` with its size.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import DATA_WORD, ZERO_WORD
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.digest import ZERO_DIGEST, digest_array
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address
from revolume.chain.map_file import MapMeta, write_map
from revolume.errors import NoSpace, Poisoned, Refused, RevolumeError
from revolume.host.disk import Buffer, Directory, out_of_room
from revolume.volume.context import VolumeContext
from revolume.volume.jump.jump_tables import pieces
from revolume.volume.metadata import layout
from revolume.volume.metadata.jump_edits import pack_jump
from revolume.volume.metadata.jump_table import JumpTable
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Jump, JumpTarget
from revolume.volume.metadata.manifest_writer import ManifestWriter

U64 = npt.NDArray[np.uint64]
STRETCH_BYTES = 64 << 20
STRETCH_ENTRIES = 1 << 20
STRETCH_S = 0.5
TABLE_ENTRIES = 1 << 20
"""Of tables larger than this no new one is made."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows behind the last durable ones, and how far content and blocks go with them."""

    rows: Sequence[DeltaMap]
    blocks: int
    next_block: int


class StagedJump:
    """Of one copy whose manifest has a jump. ``kept_free``: bytes of the disk that are somebody else's. After a
    stretch that failed nothing more is taken until ``settle``: everything behind the last durable block has to be
    sent again."""

    def __init__(self, context: VolumeContext, manifest: ManifestWriter, kept_free: int = 0) -> None:
        self._clock = context.host.clock
        self._work = context.host.work
        self._volume = context.volume_id
        self._path = context.directory
        self._manifest = manifest
        self._kept_free = kept_free
        self._directory = context.directory.child(layout.JUMP, create=True)
        try:
            self._file = self._directory.open(layout.JUMP_BLOCKS, create=True)
        except BaseException:
            self._directory.close()
            raise
        self._since_ns = self._clock.monotonic_ns()
        self._turn = asyncio.Lock()
        self._committing: asyncio.Task[None] | None = None
        self._failure: OSError | RevolumeError | None = None
        self._begin_behind(self.durable)

    @property
    def durable(self) -> Jump:
        """What survives a power cut."""
        jump = self._manifest.state.jump
        assert jump is not None
        return jump

    def _begin_behind(self, durable: Jump) -> None:
        self._rows: list[DeltaMap] = []
        self._entries = self._unsynced = 0
        self._changed = False
        self._blocks = durable.blocks
        self.next_block = durable.next_block

    async def put(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Blocks, ascending, with the content of those whose digest is not 0; everything below ``next_block`` has
        then been sent. Refused: they are not what they should be. NoSpace: there is no room for them."""
        async with self._turn:
            self._raise_failure()
            try:
                await self._work.call(self._put, blocks, digests, memoryview(payload), next_block)
            except OSError as error:
                raise not_kept(self._path.path, error) from error
            if self._stretch_ends():
                await self._committed()  # a disk that is slower than the link sets the pace
                self._committing = asyncio.create_task(self._commit(self._taken()))

    def _stretch_ends(self) -> bool:
        now_ns = self._clock.monotonic_ns()
        full = self._unsynced >= STRETCH_BYTES or self._entries >= STRETCH_ENTRIES
        if not full and (now_ns - self._since_ns < STRETCH_S * 1e9 or not self._changed):
            return False
        self._since_ns = now_ns
        return True

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _put(self, blocks: U64, digests: U64, payload: memoryview, next_block: int) -> None:
        data = digests != 0
        count = int(data.sum())
        self._judge(blocks, digests[data], payload, next_block)
        if count:
            if self._path.free_bytes() < len(payload) + self._kept_free:
                raise full(self._path.path)
            self._file.pwritev([payload], self._blocks * BLOCK)
        if len(blocks):
            locations = np.full(len(blocks), ZERO_WORD, np.uint64)
            locations[data] = np.uint64(DATA_WORD | self._blocks) + np.arange(count, dtype=np.uint64)
            self._rows.append(DeltaMap(blocks.copy(), locations, digests.copy()))
        self._blocks += count
        self._entries += len(blocks)
        self._unsynced += len(payload)
        self._changed = self._changed or next_block > self.next_block
        self.next_block = next_block

    def _judge(self, blocks: U64, digests: U64, payload: memoryview, next_block: int) -> None:
        """Refused unless they go on where the last ones ended, and the content is what the digests say."""
        end = -(-self.durable.target.point.size // BLOCK)
        if not self.next_block <= next_block <= end:
            raise refused("it goes back, or beyond the end of the volume")
        if len(blocks) and (
            int(blocks[0]) < self.next_block
            or int(blocks[-1]) >= next_block
            or not (blocks[1:] > blocks[:-1]).all()
        ):
            raise refused("blocks are out of order or outside the volume")
        if len(payload) != len(digests) * BLOCK:
            raise refused("blocks and their content do not add up")
        found = digest_array(payload, len(digests))
        unreadable = found == ZERO_DIGEST  # what is lost or damaged there travels as zeroes, with its digest
        found[unreadable] = digests[unreadable]
        if not np.array_equal(found, digests):
            raise refused("blocks are not what their digests say")

    async def settle(self) -> None:
        """Between two links: what has been put survives a power cut; where that failed it has not been put. Once a
        sync of the manifest has failed nobody can tell what it names: nothing is written any more."""
        async with self._turn:
            with contextlib.suppress(OSError, RevolumeError):
                await self._commit_rest()
            if self._failure is not None and not isinstance(self._failure, Poisoned):
                self._failure = None
                self._begin_behind(self.durable)

    async def complete(self) -> None:
        """All of it has been sent, and is durable. Refused: it ends before the volume does."""
        async with self._turn:
            await self._commit_rest()
            if self.durable.next_block < -(-self.durable.target.point.size // BLOCK):
                raise refused("it ends before the volume does")

    async def retarget(self, target: JumpTarget) -> None:
        """The same point, of which other things are known by now."""
        async with self._turn:
            await self._commit_rest()
            await self._record(replace(self.durable, target=target))

    async def flip(self) -> None:
        """All is there and proved: from now on it is the copy's state."""
        async with self._turn:
            await self._record(replace(self.durable, flipped=True))

    async def _record(self, jump: Jump) -> None:
        await self._manifest.record((EditKind.JUMP, pack_jump(jump)))

    async def _commit_rest(self) -> None:
        await self._committed()
        if self._changed:
            await self._commit(self._taken())

    async def _committed(self) -> None:
        """The stretch before this one."""
        committing, self._committing = self._committing, None
        if committing is not None:
            await committing
        self._raise_failure()

    def _taken(self) -> _Stretch:
        """The stretch up to here. Nothing is being put at the moment."""
        stretch = _Stretch(self._rows, self._blocks, self.next_block)
        self._rows, self._entries, self._unsynced, self._changed = [], 0, 0, False
        return stretch

    async def _commit(self, stretch: _Stretch) -> None:
        try:
            await self._commit_stretch(stretch)
        except OSError as error:
            self._failure = not_kept(self._path.path, error)
            raise self._failure from error
        except RevolumeError as error:
            self._failure = error
            raise

    async def _commit_stretch(self, stretch: _Stretch) -> None:
        before = self.durable
        await self._work.call_sync(self._file.datasync)
        tables = await self._work.call_sync(self._write_table, before.tables, stretch.rows)
        now = replace(before, next_block=stretch.next_block, blocks=stretch.blocks, tables=tables)
        await self._record(now)
        await self._work.call(self._remove, {table.number for table in before.tables} - {t.number for t in tables})

    def _write_table(self, tables: tuple[JumpTable, ...], rows: Sequence[DeltaMap]) -> tuple[JumpTable, ...]:
        """The tables once these rows stand in one; durable, names too."""
        entries = sum(map(len, rows))
        if not entries:
            return tables
        kept = list(tables)
        while kept and kept[-1].entries <= min(2 * entries, TABLE_ENTRIES - entries):
            entries += kept.pop().entries
        number = 1 + max((table.number for table in tables), default=0)
        point, name = self.durable.target.point, layout.jump_table_name(number)
        if self._directory.exists(name):
            self._directory.remove(name)
        taken = pieces(self._directory, self._volume, [table.number for table in tables[len(kept) :]])
        with closing(self._directory.open(name, create=True, exclusive=True)) as file:
            write_map(file, self._volume, MapMeta(point.write, Address(0), point.point), chain(taken, rows))
        self._directory.sync()
        return (*kept, JumpTable(number, entries))

    def _remove(self, numbers: set[int]) -> None:
        for number in numbers:
            with contextlib.suppress(OSError):  # what the disk does not let go of now goes with the others
                self._directory.remove(layout.jump_table_name(number))

    async def close(self) -> None:
        """What was put and not committed is sent again."""
        if self._committing is not None:
            await asyncio.wait([self._committing])
        self._file.close()
        self._directory.close()


def sweep(directory: Directory, jump: Jump | None) -> None:
    """Remove what lies in ``jump/`` and belongs to no jump, or not to this one. What the disk does not let go of
    now goes another time."""
    if not directory.exists(layout.JUMP):
        return
    named: set[str] = set()
    if jump is not None:
        named = {layout.JUMP_BLOCKS, *(layout.jump_table_name(table.number) for table in jump.tables)}
    with closing(directory.child(layout.JUMP)) as staged:
        for name in staged.names():
            if name not in named:
                with contextlib.suppress(OSError):
                    staged.remove(name)


def not_kept(path: str, error: OSError) -> RevolumeError:
    """The disk of the copy in ``path`` does not take what changed."""
    if out_of_room(error):
        return full(path)
    cause = f"What changed since the common point can't be kept in {path}: {error.strerror}."
    return RevolumeError("jump-not-kept", cause, "Look at the disk; the copy is what it was.")


def full(path: str) -> NoSpace:
    """There is no room for it."""
    return NoSpace(
        "jump-no-space",
        f"What changed since the common point does not fit on the disk of {path} beside the copy.",
        "Free room there, and it goes on; the copy is what it was, and what has arrived is kept.",
    )


def refused(why: str) -> Refused:
    """What arrives is not what it should be."""
    return Refused(
        "jump-not-equal",
        f"What changed since the common point is refused: {why}.",
        "It is sent again from its beginning; the copy is what it was.",
    )
