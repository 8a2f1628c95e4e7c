"""A view: a retained moment opened for reading, fixed when it is opened.

Its maps are the rungs of the ladder that lead to the moment, and one of the rest, which the helper process makes
from the log's columns (``view_map.py``): read like any other map, paged, checked. One that turns out to be damaged
is left aside while the view lives, and the log says what it said. Blocks that were partially modified at that
instant are put together once, when the view is opened. What the map does not know lies in the image; a lease keeps
the horizon from passing the moment while the view lives.

A view gives way when the log has no other room (``volume/space/holders.py``): its lease ends at once, and whoever
has it gets GaveWay from then on. A read that is under way when that happens is not answered with what it finds,
because the image may move on beneath it; the view's files are closed when the last such read is over.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from revolume.blocks.digest import fragment_digest
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.versions import Fragment
from revolume.errors import Damaged, GaveWay, NotFound, RevolumeError
from revolume.history.branch_source import BranchSource, BranchStore
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.view_map import made_view_map, note_damaged
from revolume.history.view_source import ViewSource, nothing_to_mend
from revolume.volume.branches.branch_files import BranchFiles
from revolume.volume.branches.names import branch_named, moment_named
from revolume.volume.livemap.reader import ATTEMPTS, Reader, Store, block_numbers
from revolume.volume.space.holder import HolderKind
from revolume.volume.state.damage import Damage
from revolume.volume.volume_base import OpenVolume

MAPS_TRIED: Final = 3
"""Maps may be found damaged so often while a view is being opened."""


class ViewLease:
    """Keeps a view's moment from being folded away, from before its map is made. The volume may revoke the lease
    to make room; ``on_end`` is called then."""

    def __init__(self, volume: OpenVolume, holder: str, write: WriteNumber, kind: HolderKind) -> None:
        self.where = f"{volume.name}@w{write}"
        self.ended = False
        self.on_end: list[Callable[[], None]] = []
        self.held_bytes: Callable[[], int] = lambda: 0
        pinned = write in volume.holders.pinned_writes()
        self.release = volume.holders.lease(kind, holder, write, self._revoke, lambda: self.held_bytes(), pinned)

    def _revoke(self) -> None:
        self.ended = True
        ended = self.on_end
        self.close()
        for notify in ended:
            notify()

    def close(self) -> None:
        """Release the lease, and drop the callbacks: they refer back to this object, and a view's memory must not
        wait for the garbage collector."""
        self.release()
        self.on_end = []
        self.held_bytes = lambda: 0

    def check(self) -> None:
        """Raise GaveWay if the lease was revoked."""
        if self.ended:
            raise GaveWay(
                "view-ended",
                f"{self.where} was ended: the volume needed the room that it kept.",
                "Open a newer moment; a larger --budget keeps more.",
            )


class View:
    """A retained moment opened for reading. ``close`` it once, also after it has given way."""

    def __init__(
        self,
        volume: OpenVolume,
        moment: ResolvedMoment,
        source: ViewSource,
        lease: ViewLease,
        closing: list[Callable[[], None]],
        store: Store | None = None,
    ) -> None:
        """``closing``: what lets go of the view's files. ``store``: where its blocks lie, if that is not the
        volume's."""
        self.volume = volume
        self.moment = moment
        self.size = size_of(volume, moment)
        self.source = source
        self.lease = lease
        damaged = partial(_met_damage, volume.damage, lease, moment.write)
        self.reader = ViewReader(store or volume.store, source, volume.log.work, damaged, volume.healer.contents)
        self.reader.view = weakref.proxy(self)
        self.closing = closing
        self._users = 0
        self._closed = False
        self._mending = asyncio.Lock()
        source.mend = self._mended
        lease.on_end.append(self.close)

    @contextmanager
    def using(self) -> Iterator[None]:
        """A context around reads that may wait: the view's files stay open meanwhile. GaveWay on entry or on exit
        if the view has been ended."""
        self.lease.check()
        self._users += 1
        try:
            yield
            self.lease.check()
        except RevolumeError:  # what is read beneath an ended view fails its digests: that is no damage
            self.lease.check()
            raise
        finally:
            self._users -= 1
            self._close_files()

    async def _mended(self) -> bool:
        """Whether the maps were damaged, and others are in their place now. The old ones stay open: others may be
        reading them."""
        async with self._mending:
            if not self.source.damaged:
                return False
            with self.using():
                note_damaged(self.volume)
                made = await made_view_map(self.volume, self.moment.write, self.lease.check)
                self.source.exchange(made.files if made is not None else None)
                if made is not None:
                    self.closing.append(made.close)
            return True

    def close(self) -> None:
        """Release the lease at once, and the map file as soon as no read uses it."""
        self._closed = True
        self.lease.close()
        self._close_files()

    def _close_files(self) -> None:
        if self._closed and not self._users:
            self.source.mend = nothing_to_mend  # which refers back to this object
            closing, self.closing = self.closing, []
            for close in closing:
                close()


def _met_damage(damage: Damage, lease: ViewLease, write: WriteNumber, blocks: list[int]) -> None:
    if not lease.ended:
        damage.met_in_past(write, lease.where, blocks)


class ViewReader(Reader):
    """A ``Reader`` of a view that raises GaveWay once the view has been ended."""

    view: View

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """Fill every buffer that can be filled from memory; the indexes of the others. GaveWay: the view has been
        ended."""
        self.view.lease.check()
        return super().read_now(reads)

    async def read(self, offset: int, view: memoryview) -> None:
        """Fill ``view``, waiting for the disk where needed. Damaged: a block is not what was written. GaveWay: the
        view has been ended, also while the read waited."""
        with self.view.using():
            await super().read(offset, view)

    def fill(self, first: int, view: memoryview, words: list[int], digests: list[int], *, nowait: bool) -> bool:
        """Fill ``view`` with blocks that have been resolved already. False: that would have to wait, or one is not
        what was written. KeyError, OSError: it lies elsewhere by now."""
        self.view.lease.check()
        return self._fill(first, view, words, digests, nowait)

    def read_waiting(self, first: int, view: memoryview) -> bool:
        """Fill ``view`` with the whole blocks from ``first`` on, in a thread. False: one is not what was written,
        and nobody was asked for it. What is only in memory (partial blocks) must be at hand."""
        blocks = block_numbers(first, len(view) // BLOCK)
        for _ in range(ATTEMPTS):
            generation = self._source.generation
            words, digests = self._source.lookup(blocks)
            try:
                settled = self._source.settle(blocks, words, digests, False)
                if settled and self._fill(first, view, words.tolist(), digests.tolist(), False):
                    return True
            except (KeyError, OSError, Damaged):
                pass  # recycled or closed meanwhile, or not readable: the generation tells
            if self._source.generation == generation:
                break
        return False


async def open_view(
    volume: OpenVolume, moment: ResolvedMoment, holder: str, kind: HolderKind = HolderKind.VIEW
) -> View:
    """Open the view of a resolved moment. ``holder``: the name under which status shows what keeps its history.
    NotFound: the moment has passed the horizon meanwhile. GaveWay: the lease was revoked before the view was
    ready. NoSpace: no room on the disk for its map. The caller closes the view."""
    if moment.write < volume.folder.retired_write and not volume.isolated(moment.write):
        raise NotFound(
            "moment-not-retained",
            f"Write w{moment.write} of {volume.name} has just passed the horizon.",
            "See 'revolume points' for what is retained.",
        )
    with ExitStack() as held:
        lease = ViewLease(volume, holder, moment.write, kind)
        held.callback(lease.release)
        source, closing = await _source(volume, moment, lease, held)
        store = None
        if moment.branch:
            source, store = await _branched(volume, moment, source, held)
            closing = [*closing, source.close]
        view = View(volume, moment, source, lease, closing, store)
        held.pop_all()
        return view


async def _source(
    volume: OpenVolume, moment: ResolvedMoment, lease: ViewLease, held: ExitStack
) -> tuple[ViewSource, list[Callable[[], None]]]:
    """What the view reads from, and what lets go of its files; ``held`` does the same if this fails."""
    for last in (*[False] * (MAPS_TRIED - 1), True):
        made = await made_view_map(volume, moment.write, lease.check)
        lease.check()
        if made is None:
            return ViewSource(volume, moment.write, None), []
        held.callback(made.close)
        source = ViewSource(volume, moment.write, made.files)
        reader = Reader(volume.store, source, volume.log.work, mend=volume.healer.contents)
        partials = await _partials(volume, reader, made.fragments)
        lease.check()
        if last or not source.damaged:
            source.hold(partials, made.fragments)
            return source, [made.close]
        note_damaged(volume)
        made.close()
    raise AssertionError


async def _branched(
    volume: OpenVolume, moment: ResolvedMoment, below: ViewSource, held: ExitStack
) -> tuple[BranchSource, BranchStore]:
    """The branch over the common point; its files are open, and a drop that comes meanwhile does not take them."""
    branch = branch_named(volume.manifest.state, moment.branch)
    table = moment_named(branch, moment.branch_moment).table if moment.branch_moment else branch.table
    files = await volume.log.work.call(BranchFiles, volume.context.directory, volume.volume_id, branch, table)
    held.callback(files.close)
    return BranchSource(volume, below, files), BranchStore(volume.store, files)


def size_of(volume: OpenVolume, moment: ResolvedMoment) -> int:
    """The volume's size in bytes as of a moment, or as a branch has it."""
    if moment.branch:
        branch = branch_named(volume.manifest.state, moment.branch)
        return moment_named(branch, moment.branch_moment).size if moment.branch_moment else branch.size
    return volume.size_at(moment.write)


async def _partials(
    volume: OpenVolume, reader: Reader, fragments: tuple[Fragment, ...]
) -> dict[int, bytes | Damaged]:
    """The content of every partially modified block: the whole version below with the fragments over it, in order.
    A block that is damaged has its error in the place of its content; the others are not affected."""
    whole: dict[int, bytearray] = {}
    damaged: dict[int, Damaged] = {}
    for fragment in fragments:
        if fragment.block in damaged:
            continue
        try:
            if fragment.block not in whole:
                whole[fragment.block] = bytearray(await reader.read_version(fragment.block, 0, 0))
            piece = await volume.log.work.call(_piece, volume, fragment)
            whole[fragment.block][fragment.at : fragment.at + fragment.length] = piece
        except Damaged as error:
            damaged[fragment.block] = error
    return {block: bytes(content) for block, content in whole.items()} | damaged


def _piece(volume: OpenVolume, fragment: Fragment) -> bytes:
    piece = bytearray(fragment.length)
    if fragment.place:
        try:
            segment = volume.log.pool.segment_at(Address(fragment.place // BLOCK))
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
