"""A view: a retained moment opened for reading, fixed when it is opened.

Its map is made by the helper process from the log's columns, on the live map's base where that is not newer
than the moment, and is read like any other map: paged, checked. Blocks that were partially modified at
that instant are put together once, when the view is opened. What the map does not know lies in the image;
a lease keeps the horizon from passing the moment while the view lives.

A view gives way when the log has no other room (``volume/holding.py``): its lease ends at once, and whoever has it
gets GaveWay from then on. A read that is under way when that happens is not answered with what it finds, because
the image may move on beneath it; the view's files are closed when the last such read is over.
"""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import numpy as np
import numpy.typing as npt

from revolume.blocks.digest import fragment_digest
from revolume.blocks.word import ADDRESS_MASK, DATA, PARTIAL, ZERO
from revolume.chain.mapfile import MapFile
from revolume.chain.mapjob import MapSpec, make_map
from revolume.chain.versions import Fragment, SegmentSpec, Stretch
from revolume.errors import Damaged, GaveWay, NoSpace, NotFound, RevolumeError
from revolume.history.timeline import Spot
from revolume.host.disk import Directory
from revolume.volume import layout
from revolume.volume.damage import Damage
from revolume.volume.holding import HoldKind
from revolume.volume.live import over_base
from revolume.volume.reader import Reader
from revolume.volume.remembered import Remembered
from revolume.volume.stretches import agreed_span, position_below, reach_of

U64 = npt.NDArray[np.uint64]
BLOCK = 4096
MASK = np.uint64(ADDRESS_MASK)
FOREVER = ADDRESS_MASK  # the map's own entries always win over its own ranges


class ViewSource:
    """What a view reads from: its map over the image, and the partial blocks of its instant."""

    def __init__(self, volume: Remembered, made: MapFile) -> None:
        self._core = volume.core
        self._map = made
        self._ranges = made.ranges()
        self.partials: dict[int, bytes | Damaged] = {}
        self._partial_blocks = np.zeros(0, np.uint64)
        self._partial_words = np.zeros(0, np.uint64)

    @property
    def generation(self) -> int:
        """Counts folds and new bases."""
        return self._core.generation

    def hold(self, partials: dict[int, bytes | Damaged], fragments: tuple[Fragment, ...]) -> None:
        """These blocks' content at the view's instant, or why it can't be had; and the pieces, in write order, of
        which they were put together: the word of the newest is the block's."""
        self.partials = partials
        self._partial_blocks = np.array(sorted(partials), np.uint64)
        newest = {fragment.block: fragment.word for fragment in fragments}
        self._partial_words = np.array([newest[block] for block in sorted(partials)], np.uint64)

    def lookup(self, blocks: U64) -> tuple[U64, U64]:
        """Partial blocks; the rest is the map's."""
        words = np.zeros(len(blocks), np.uint64)
        if len(self._partial_blocks):
            words[np.isin(blocks, self._partial_blocks)] = PARTIAL << 62
        return words, np.zeros(len(blocks), np.uint64)

    def settle(self, blocks: U64, words: U64, digests: U64, nowait: bool) -> bool:
        """See ``volume.reader.Source``."""
        missing = np.flatnonzero(words == 0)
        found = self._map.get(blocks[missing], nowait)
        if found is None:
            return False
        over_base(self._ranges, blocks[missing], *found, FOREVER)
        words[missing], digests[missing] = found
        missing = missing[found[0] == 0]
        if len(missing):
            sums = self._core.sums.get(blocks[missing], nowait)
            if sums is None:
                return False
            digests[missing] = sums
        kinds = words >> np.uint64(62)
        zero = kinds == ZERO
        digests[zero] = 0
        words[zero | ((kinds == DATA) & ((words & MASK) < np.uint64(self._core.live.folded)))] = 0
        return True

    def words(self, blocks: U64) -> U64:
        """Raw words, of the view's map and of the blocks modified in part; 0 = in the image since before it."""
        found = self._map.get(blocks, False)
        assert found is not None
        over_base(self._ranges, blocks, *found, FOREVER)
        words = found[0]
        if len(self._partial_blocks):
            at = np.minimum(np.searchsorted(self._partial_blocks, blocks), len(self._partial_blocks) - 1)
            in_part = self._partial_blocks[at] == blocks
            words[in_part] = self._partial_words[at[in_part]]
        return words

    def partial(self, block: int) -> bytes | bytearray | None:
        """The content of a partially modified block."""
        content = self.partials.get(block)
        return None if isinstance(content, Damaged) else content

    async def merge_partial(self, block: int) -> None:
        """They are whole from the beginning, or can't be had."""
        content = self.partials.get(block)
        if isinstance(content, Damaged):
            raise Damaged(content.code, content.cause, content.hint)


class Tenure:
    """A view's right to its moment, from before its map is made: a lease that may be revoked."""

    def __init__(self, volume: Remembered, holder: str, write: int, kind: HoldKind) -> None:
        self.where = f"{volume.name}@w{write}"
        self.ended = False
        self.on_end: list[Callable[[], None]] = []
        self.held_bytes: Callable[[], int] = lambda: 0
        self.let_go = volume.core.lease(holder, write, kind, self._revoke, lambda: self.held_bytes())

    def _revoke(self) -> None:
        self.ended = True
        ended = self.on_end
        self.close()
        for told in ended:
            told()

    def close(self) -> None:
        """Let go, and of those who would have been told: they refer to this in turn, and a view's memory must not
        wait until the collector finds it."""
        self.let_go()
        self.on_end = []
        self.held_bytes = lambda: 0

    def check(self) -> None:
        """GaveWay if it is over."""
        if self.ended:
            raise GaveWay(
                "view-ended",
                f"{self.where} was ended: the volume needed the room that it kept.",
                "Open a newer moment; a larger --budget keeps more.",
            )


class View:
    """An open moment. ``close`` once, also after it has given way."""

    def __init__(
        self, volume: Remembered, spot: Spot, source: ViewSource, map_file: MapFile, map_name: str, tenure: Tenure
    ) -> None:
        core = volume.core
        self.volume = volume
        self.spot = spot
        self.size = core.size_at(spot.write)
        self.source = source
        self.tenure = tenure
        self.reader = ViewReader(core.store, source, core.host.work)
        self.reader.view = weakref.proxy(self)
        self.reader.damaged = partial(_met_damage, core.damage, tenure, spot.write)
        self.closing: list[Callable[[], None]] = [map_file.close, lambda: _removed(core.maps_directory, map_name)]
        self._users = 0
        self._closed = False
        tenure.on_end.append(self.close)

    @contextmanager
    def using(self) -> Iterator[None]:
        """Around whatever reads it and waits meanwhile. GaveWay, also where it ended during that."""
        self.tenure.check()
        self._users += 1
        try:
            yield
            self.tenure.check()
        except RevolumeError:  # what is read beneath an ended view fails its digests: that is no damage
            self.tenure.check()
            raise
        finally:
            self._users -= 1
            self._close_files()

    def close(self) -> None:
        """Give up the lease at once, and the map as soon as nobody reads it."""
        self._closed = True
        self.tenure.close()
        self._close_files()

    def _close_files(self) -> None:
        if self._closed and not self._users:
            closing, self.closing = self.closing, []
            for close in closing:
                close()


def _met_damage(damage: Damage, tenure: Tenure, write: int, blocks: list[int]) -> None:
    if not tenure.ended:
        damage.met_in_past(write, tenure.where, blocks)


class ViewReader(Reader):
    """Reads a view for as long as it has not given way."""

    view: View

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """See ``volume.reader``."""
        self.view.tenure.check()
        return super().read_now(reads)

    async def read(self, offset: int, view: memoryview) -> None:
        """See ``volume.reader``."""
        with self.view.using():
            await super().read(offset, view)


async def open_view(volume: Remembered, spot: Spot, holder: str, kind: HoldKind = HoldKind.VIEW) -> View:
    """Open the moment after write ``spot.write``, which is retained now. GaveWay: not any more."""
    core = volume.core
    if spot.write < volume.folder.retired_write:
        raise NotFound(
            "moment-not-retained",
            f"Write w{spot.write} of {volume.name} has just passed the horizon.",
            "See 'revolume points' for what is retained.",
        )
    with ExitStack() as held:
        tenure = Tenure(volume, holder, spot.write, kind)
        held.callback(tenure.let_go)
        name = layout.view_map_name(core.host.entropy.token(8).hex())
        held.callback(_removed, core.maps_directory, name)
        with core.maps_in_use():
            fragments = await _made(volume, spot, name, tenure)
        tenure.check()
        made = MapFile.open(core.maps_directory.open(name, write=False), core.volume_id)
        held.callback(made.close)
        source = ViewSource(volume, made)
        partials = await _partials(volume, Reader(core.store, source, core.host.work), fragments)
        tenure.check()
        source.hold(partials, fragments)
        view = View(volume, spot, source, made, name, tenure)
        held.pop_all()
        return view


def _removed(directory: Directory, name: str) -> None:
    with suppress(OSError):  # what the disk does not let go of now goes when the volume is opened next
        if directory.exists(name):
            directory.remove(name)


async def _made(volume: Remembered, spot: Spot, name: str, tenure: Tenure) -> tuple[Fragment, ...]:
    """Make the map. A fold that flips meanwhile gives segments back that the job still looks for; what it does
    not find there is in the image by now, and the job is given again from there."""
    while True:
        tenure.check()
        horizon = volume.folder.horizon
        try:
            return await _make(volume, spot, name)
        except Damaged:
            if volume.folder.horizon == horizon:
                raise
        except OSError as error:
            if volume.folder.horizon == horizon:
                raise _not_made(volume.name, error) from error


def _not_made(name: str, error: OSError) -> RevolumeError:
    kind = NoSpace if error.errno == errno.ENOSPC else RevolumeError
    cause = f"The map of that moment of {name} could not be made: {error.strerror}."
    return kind("view-failed", cause, "The live volume goes on; look at the disk, then open the moment again.")


async def _make(volume: Remembered, spot: Spot, name: str) -> tuple[Fragment, ...]:
    core = volume.core
    await core.footers_written()
    base = core.live.base
    if base is not None and base.meta.write > spot.write:
        base = None
    after = base.meta.write if base is not None else core.horizon.write
    spec = MapSpec(
        core.log_directory.path, core.maps_directory.path, core.volume_id, _stretch(volume, base, spot),
        core.base_name if base is not None else "", after, spot.write, core.live.folded, name, 0, 0,
    )  # fmt: skip
    return (await core.host.work.job(make_map, spec)).fragments


def _stretch(volume: Remembered, base: MapFile | None, spot: Spot) -> Stretch:
    """From ``base`` (without one, the horizon) to the first point that is not older than the moment, else to
    the log's end."""
    pool, ends = volume.core.pool, volume.core.manifest.state.ends
    begin = base.meta.address if base is not None else volume.folder.horizon.address
    end, upto = volume.core.appender.address, 0
    points = volume.points()
    for point in points:
        if point.write <= spot.write:
            upto = point.number
        if point.write >= spot.write:
            end = reach_of(points, point.number) + 1
            break
    first, last = begin // pool.segment_blocks, (end - 1) // pool.segment_blocks
    ready = {segment.use for segment in pool.ready}
    specs = tuple(
        SegmentSpec(s.index, s.use, s.blocks, ends.get(s.use))
        for s in pool.segments()
        if first <= s.use <= last and s.use not in ready
    )
    return Stretch(specs, position_below(volume.core, base), end, agreed_span(volume.core, base, upto))


async def _partials(
    volume: Remembered, reader: Reader, fragments: tuple[Fragment, ...]
) -> dict[int, bytes | Damaged]:
    """The content of every partially modified block: its whole version with the pieces over it, in order. One
    that is damaged spoils itself alone."""
    whole: dict[int, bytearray] = {}
    damaged: dict[int, Damaged] = {}
    for fragment in fragments:
        if fragment.block in damaged:
            continue
        try:
            if fragment.block not in whole:
                whole[fragment.block] = bytearray(await reader.read_version(fragment.block, 0, 0))
            piece = await volume.core.host.work.call(_piece, volume, fragment)
            whole[fragment.block][fragment.at : fragment.at + fragment.length] = piece
        except Damaged as error:
            damaged[fragment.block] = error
    return {block: bytes(content) for block, content in whole.items()} | damaged


def _piece(volume: Remembered, fragment: Fragment) -> bytes:
    piece = bytearray(fragment.length)
    if fragment.place:
        try:
            segment = volume.core.pool.segment_at(fragment.place // BLOCK)
            segment.file.preadv([piece], fragment.place - segment.base * BLOCK)
        except (KeyError, OSError):  # recycled, when the view has given way meanwhile; or the disk fails
            piece = bytearray(fragment.length)
        if fragment_digest(piece) != fragment.digest:
            raise Damaged(
                "log-block-damaged",
                f"A fragment of block {fragment.block} (write {fragment.asof}) is not what was written.",
                "Run 'revolume check' on the stopped volume; other moments may be whole.",
            )
    return bytes(piece)
