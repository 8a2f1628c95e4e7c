"""The delta maps of a mirror's log, built from the records of its agreed points.

A mirror's views, base maps and folds read this and nothing else up to the last point that they need. Each record
is read again and resolved in this node's own log, as it was when the point was sealed (``reference_resolver.py``):

    (epoch, position) of a transfer → where that transfer lies here → the block within it

Partially modified blocks come from the record's own payload, blocks that were asked for whole from the local
records (LOCAL_BLOCKS) of that point, zeroes from its zero runs. What the log itself holds as the newest version is
computed beside it as the cross-check: where the two disagree, and no local record makes up for it, the job ends
with ``Damaged`` naming both places, and serves neither. Behind the last point the log itself is read.

One sort and one lookup serve many points: block b of the k-th point of a batch is treated as block k · stride + b,
in which form the log's versions and the records of different points can't meet. Memory is bounded by one batch and
by the interval that is still open when it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, ZERO, pack_all
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.extents import merged_intervals, numbers_in
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Part, References, unpack_part
from revolume.chain.reference_resolver import (
    Resolution,
    carried_whole,
    not_these_zeroes,
    places_of,
    resolve,
    stated_zeroes,
    zero_runs,
)
from revolume.chain.versions import (
    EVERY_WRITE,
    GATHER,
    NO_WRITE,
    LogRange,
    NewestVersions,
    Span,
    load_range,
    load_segments,
    newest,
    newest_in,
)
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.log.format.columns import RANGE_BLOCKS, Columns, Versions, select
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import LENGTH_MASK, Flag, Kind
from revolume.log.format.transfer_table import TableView
from revolume.log.read.scan import FoundTransfer, SegmentReader

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)
WINDOW = 1 << 14
"""Records lie far apart: reading much around each would be for nothing."""
BLOCKS_BITS = 52
"""Block numbers of a batch, strides included, stay below 2 to this: their byte offsets fit 64 bits."""
NO_LIMIT = (1 << 63) - 1


def changed(
    log: Directory, log_range: LogRange, volume: bytes, after: WriteNumber, upto: WriteNumber
) -> NewestVersions:
    """The newest version of every block that was changed behind write ``after`` and up to write ``upto``: from
    the records of the range's agreed points if it names any (a mirror's does), else from the log itself."""
    if log_range.agreed is None:
        return newest_in(load_range(log, log_range, volume), after, upto)
    walk = _RecordWalk(volume, log_range.agreed, log_range.after)
    maps = walk.point_deltas(load_segments(log, log_range, volume))
    return newest(chain(maps, walk.rest()), NO_WRITE, upto)


def point_deltas(
    pieces: Iterable[tuple[Segment, Columns]], volume: bytes, span: Span, position: Position
) -> Iterator[Versions]:
    """The delta maps of the points in ``span``, versions as of their points' cuts. ``position``: of the cut before
    the first; ``pieces``: the log from there on. Damaged: a record is missing, or disagrees with the log."""
    return _RecordWalk(volume, span, position).point_deltas(pieces)


@dataclass(frozen=True, slots=True)
class _Record:
    """A point's record: its parts, and their positions."""

    parts: Sequence[Part]
    positions: Sequence[Position]

    @property
    def cut(self) -> Part:
        return self.parts[0]


@dataclass(frozen=True, slots=True)
class _Owed:
    """Blocks for which no reference of a point holds: they must have been sent whole. ``own``: the word of the
    log's newest version of each, ``led``: of the place that a reference names instead; 0 = none."""

    number: int
    blocks: U64
    own: U64
    led: U64


class _RecordWalk:
    """The log behind a cut: transfers that no point has covered yet, and the records met."""

    def __init__(self, volume: bytes, span: Span, position: Position) -> None:
        self._volume = volume
        self._span = span
        self._next = span.after + 1
        self._position = position
        self._held: list[Columns] = []
        self._parts: list[tuple[Part, Position]] = []
        self._records: list[_Record] = []
        self._owed: list[_Owed] = []
        self._sent_whole: list[tuple[int, Versions]] = []
        self._whole: dict[int, list[U64]] = {}
        self._gathered = 0

    def point_deltas(self, pieces: Iterable[tuple[Segment, Columns]]) -> Iterator[Versions]:
        """The delta maps of the points met in ``pieces``, the log from the cut before the first on. Damaged, at
        the end too: a record or a block is missing."""
        for segment, columns in pieces:
            self._take(segment, columns)
            if self._gathered >= GATHER:
                yield from self._resolve()
        yield from self._resolve()
        self._complete()

    def rest(self) -> Iterator[Versions]:
        """The log behind the last point, once the delta maps are through."""
        for columns in self._held:
            yield select(columns, columns.rows["kind"] == Kind.WRITES).versions()

    # Walking

    def _take(self, segment: Segment, columns: Columns) -> None:
        reader, kinds = SegmentReader(segment, self._volume, WINDOW), columns.rows["kind"]
        behind = columns.rows["position"] > self._position
        if self._next <= self._span.upto:
            for row in np.flatnonzero((kinds == Kind.POINT) & behind).tolist():
                self._part(_read(reader, columns, row))
        for row in np.flatnonzero(kinds == Kind.LOCAL_BLOCKS).tolist():
            self._fixup(_read(reader, columns, row), columns, row)
        held = select(columns, behind & (kinds != Kind.LOCAL_BLOCKS))
        if len(held.rows):
            self._held.append(held)
            self._gathered += len(held.digests)

    def _part(self, found: FoundTransfer) -> None:
        part = unpack_part(found.transfer.body)
        if part is None:
            raise _unreadable(found.segment, found.block)
        this = (part, found.transfer.position)
        self._parts = [*self._parts, this] if part.part else [this]
        if not found.transfer.flags & Flag.SEALS or len(self._parts) != part.parts:
            return
        if self._next <= part.number <= self._span.upto:
            if part.number != self._next:
                raise _missing(self._next)
            self._records.append(_Record([p for p, _ in self._parts], [at for _, at in self._parts]))
            self._next += 1

    def _fixup(self, found: FoundTransfer, columns: Columns, row: int) -> None:
        number = int.from_bytes(found.transfer.body, "little")
        if self._span.after < number <= self._span.upto:
            chosen = np.zeros(len(columns.rows), bool)
            chosen[row] = True
            versions = select(columns, chosen).versions()
            self._whole.setdefault(number, []).append(versions.blocks)
            self._sent_whole.append((number, versions))

    def _complete(self) -> None:
        """Every point's record was met, and every block that had no reference was sent whole."""
        if self._next <= self._span.upto:
            raise _missing(self._next)
        for owed in self._owed:
            lacks = ~np.isin(owed.blocks, _joined(self._whole.get(owed.number, [])))
            if lacks.any():
                raise _no_version(owed, int(np.argmax(lacks)))

    # Resolving

    def _resolve(self) -> Iterator[Versions]:
        """The delta maps of the records that were met, and what was sent whole for them. What lies behind the last
        one's cut is still held then."""
        while self._records:
            stride = _stride(self._held)
            records = self._records[: (1 << BLOCKS_BITS) // stride]
            yield _Batch(records, self._held, stride).versions(self._owed)
            del self._records[: len(records)]
            self._position = records[-1].cut.position
            held = (select(c, c.rows["position"] > self._position) for c in self._held)
            self._held = [columns for columns in held if len(columns.rows)]
        self._gathered = sum(len(columns.digests) for columns in self._held)
        yield from (versions for number, versions in self._sent_whole if number < self._next)
        self._sent_whole = [each for each in self._sent_whole if each[0] >= self._next]


class _Batch:
    """Some points whose records were met; see the module's text."""

    def __init__(self, records: Sequence[_Record], held: Sequence[Columns], stride: int) -> None:
        self._records = records
        self._held = held
        self._stride = np.uint64(stride)
        self._cuts = np.array([record.cut.position for record in records], np.uint64)
        self._writes = np.array([record.cut.write for record in records], np.uint64)

    def versions(self, owed: list[_Owed]) -> Versions:
        """The delta maps. ``owed`` learns of blocks without a reference that holds."""
        carried = carried_whole(self._carried())
        zeroes = [stated_zeroes(record.parts) for record in self._records]
        shifted = [(starts + np.uint64(i) * self._stride, counts) for i, (starts, counts) in enumerate(zeroes)]
        found = self._resolved(carried, (_joined([s for s, _ in shifted]), _joined([c for _, c in shifted])))
        owed += self._refused(found)
        return self._delta(found, carried, zeroes)

    def _resolved(self, carried: DeltaMap, zeroes: tuple[U64, U64]) -> Resolution:
        written, table, ends = self._written()
        versions = [columns.versions() for columns in written]
        own = newest(versions, NO_WRITE, EVERY_WRITE)
        if not_these_zeroes(zeroes, zero_runs(own)):
            numbers = f"cp{self._records[0].cut.number} to cp{self._records[-1].cut.number}"
            raise _disagrees(f"One of the points {numbers} states other zeroes than the log holds.")
        references, owners = self._of_their_intervals(*self._references())
        starts, stops, index = places_of(references, table, ends, NO_LIMIT)
        places = _by_owner(starts, stops, owners[index])
        owners = np.repeat(places[2], (places[1] - places[0]).astype(np.int64))
        found = resolve(own, versions, numbers_in(*places[:2]), carried.blocks, owners, int(self._stride))
        if len(found.excess):
            number, block = self._named(int(found.excess[0]))
            raise _disagrees(f"Point cp{number} carries block {block} whole, which the log holds whole.")
        return found

    def _written(self) -> tuple[list[Columns], TableView, U64]:
        """The writes up to the last cut, each moved to its point's blocks; their transfers and where those end."""
        last = self._cuts[-1]
        chosen = [select(c, (c.rows["kind"] == Kind.WRITES) & (c.rows["position"] <= last)) for c in self._held]
        addresses = _joined(
            [np.uint64(c.base) + c.rows["block"].astype(np.uint64) + c.rows["header_blocks"] for c in chosen]
        )
        positions = _joined([c.rows["position"].astype(np.uint64) for c in chosen])
        epochs = _joined([c.rows["epoch"].astype(np.uint64) for c in chosen])
        ends = addresses + _joined([c.rows["blocks"].astype(np.uint64) for c in chosen])
        moved = [self._moved(c, np.searchsorted(self._cuts, c.rows["position"])) for c in chosen]
        return moved, TableView(addresses, positions, epochs), ends

    def _carried(self) -> list[Columns]:
        positions = np.array([at for record in self._records for at in record.positions], np.uint64)
        owners = np.repeat(np.arange(len(self._records)), [len(record.positions) for record in self._records])
        found = []
        for columns in self._held:
            rows = columns.rows
            chosen = select(columns, (rows["kind"] == Kind.POINT) & np.isin(rows["position"], positions))
            found.append(self._moved(chosen, owners[np.searchsorted(positions, chosen.rows["position"])]))
        return found

    def _moved(self, columns: Columns, owners: npt.NDArray[np.int64]) -> Columns:
        """With every transfer's blocks where those of its point are."""
        by = np.repeat(owners.astype(np.uint64) * self._stride * np.uint64(BLOCK), columns.rows["entries"])
        return replace(columns, offsets=columns.offsets + by)

    def _references(self) -> tuple[References, npt.NDArray[np.int64]]:
        parts = [part.references for record in self._records for part in record.parts]
        owners = np.repeat(
            np.arange(len(self._records)),
            [sum(len(part.references.runs) for part in record.parts) for record in self._records],
        )
        columns = ("epochs", "positions", "blocks", "runs")
        return References(*(_joined([getattr(p, column) for p in parts]) for column in columns)), owners

    def _of_their_intervals(
        self, references: References, owners: npt.NDArray[np.int64]
    ) -> tuple[References, npt.NDArray[np.int64]]:
        """Those that name a transfer of their point's own interval. Others never hold, and a record may state
        any number of them: each of many points could name all blocks of the batch."""
        own = np.searchsorted(self._cuts, references.positions) == owners
        columns = (references.epochs, references.positions, references.blocks, references.runs)
        return References(*(column[own] for column in columns)), owners[own]

    def _refused(self, found: Resolution) -> Iterator[_Owed]:
        owners = found.refused // self._stride
        for owner in np.unique(owners).tolist():
            of = owners == owner
            number = self._records[owner].cut.number
            yield _Owed(number, found.refused[of] % self._stride, found.own[of], found.led[of])

    def _named(self, block: int) -> tuple[int, int]:
        owner, block = divmod(block, int(self._stride))
        return self._records[owner].cut.number, block

    # The result

    def _delta(self, found: Resolution, carried: DeltaMap, zeroes: list[tuple[U64, U64]]) -> Versions:
        """Zeroes first: of versions as of the same cut, what stands behind counts."""
        words = self._zero_words()
        owners = np.repeat(np.arange(len(zeroes)), [len(starts) for starts, _ in zeroes])
        starts, counts = _joined([s for s, _ in zeroes]), _joined([c for _, c in zeroes])
        large = counts >= RANGE_BLOCKS
        small = counts[~large]
        single = numbers_in(starts[~large], starts[~large] + small)
        single_owner = np.repeat(owners[~large], small.astype(np.int64))
        whole = found.delta
        blocks = np.concatenate([whole.blocks, carried.blocks])
        none = NOTHING
        return Versions(
            np.concatenate([single, blocks % self._stride]),
            self._writes[np.concatenate([single_owner, (blocks // self._stride).astype(np.int64)])],
            np.concatenate([words[single_owner], whole.locations, carried.locations]),
            np.concatenate([np.zeros(len(single), np.uint64), whole.digests, carried.digests]),
            starts[large], starts[large] + counts[large], self._writes[owners[large]], words[owners[large]],
            none, none, none, none, none, none, none,
        )  # fmt: skip

    def _zero_words(self) -> U64:
        """Zeroes of a point stand just below its cut, as in the live map."""
        positions = _joined([c.rows["position"].astype(np.uint64) for c in self._held])
        addresses = _joined([np.uint64(c.base) + c.rows["block"].astype(np.uint64) for c in self._held])
        behind = addresses[np.searchsorted(positions, self._cuts, "right")]
        return pack_all(ZERO, behind - np.uint64(1))


def _by_owner(starts: U64, stops: U64, owners: npt.NDArray[np.int64]) -> tuple[U64, U64, npt.NDArray[np.int64]]:
    """The places that each point names, each once. Records that nobody lies in name none twice."""
    if (starts[1:] >= stops[:-1]).all():
        return starts, stops, owners
    each = [
        (owner, *merged_intervals(starts[owners == owner], stops[owners == owner])) for owner in np.unique(owners)
    ]
    counts = [len(starts) for _, starts, _ in each]
    joined = _joined([starts for _, starts, _ in each]), _joined([stops for _, _, stops in each])
    return *joined, np.repeat(np.array([owner for owner, _, _ in each]), counts)


def _stride(held: Sequence[Columns]) -> int:
    """Beyond every block that these transfers touch, and one more: runs of two points never meet."""
    ends = [int((c.offsets + (c.lengths & np.uint64(LENGTH_MASK))).max()) for c in held if len(c.offsets)]
    return max(ends, default=0) // BLOCK + 2


def _joined(parts: Sequence[U64]) -> U64:
    return np.concatenate([NOTHING, *parts])


def _read(reader: SegmentReader, columns: Columns, row: int) -> FoundTransfer:
    block = int(columns.rows["block"][row])
    found = reader.at(block)
    if found is None:
        raise _unreadable(reader.segment, block)
    return found


HINT = "Run 'revolume check' on the stopped mirror for the whole extent."


def _unreadable(segment: Segment, block: int) -> Damaged:
    cause = f"A consistency point's record in segment file {segment.index}, block {block}, is damaged."
    return Damaged("point-damaged", cause, HINT)


def _missing(number: int) -> Damaged:
    return Damaged("point-damaged", f"The record of point cp{number} is not where the log has to have it.", HINT)


def _no_version(owed: _Owed, index: int) -> Damaged:
    own, led = int(owed.own[index]) & ADDRESS_MASK, int(owed.led[index]) & ADDRESS_MASK
    held = f"the log holds its newest version at {own}" if own else "the log holds parts of it"
    named = f"leads to {led}" if led else "leads nowhere"
    return _disagrees(
        f"The record of point cp{owed.number} {named} for block {int(owed.blocks[index])}, {held}, and it was not "
        "sent whole."
    )


def _disagrees(cause: str) -> Damaged:
    return Damaged("record-disagrees", cause, HINT)


__all__ = ["changed", "point_deltas"]
