"""A delta map out of a consistency point's record as it was *received*, and what is wrong with it.

The record names no place: it says which transfers carried the blocks that changed, and which blocks of them.
This node looks each reference up in storage of its own: its transfer table gives the place where it stored that
transfer, its own columns say which block of the volume lies there, with which digest. The delta map is built from
the places found so. As the cross-check it is held against what the log itself says was written in the interval:

    newest version whole      a reference must lead to exactly that version, else the block is asked for
    modified in part          the record must carry the block, else it is asked for
    zeroes                    the record must state exactly these runs, else it is not this log's record
    not written               nothing is needed; a block that came whole all the same is taken (a primary tries
                              again with a block that it could not read at the point before)
    whole or zeroed, and the  the record is refused: only blocks modified in part go whole, and whoever read the
    record carries the block  record later would have to choose between two versions

So a reference to a transfer that is not here, to a block that it does not have, to a version that is not the
newest, to another block, is dropped, and costs a question only where it leaves a block without one that holds.

Pure: columns and record in, values out. Whether the whole is right is for the interval digest and the volume root
to say; that comparison is the caller's. ``point_deltas.py`` resolves the same records again, many at once, for
views, base maps and folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.block_location import ADDRESS_MASK, DATA, ZERO, kinds, pack, pack_all
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.extents import merged_intervals, numbers_in
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.blocks.ordering import among, first_of_each
from revolume.blocks.ranges import Ranges
from revolume.chain.point import Part, References
from revolume.chain.versions import NewestVersions, newest
from revolume.log.format.columns import Columns, Versions, select
from revolume.log.format.transfer import Kind
from revolume.log.format.transfer_table import TableView

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)
MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class ResolvedRecord:
    """What a record amounts to here. ``delta``: resolved references that hold, and the zero runs. ``carried``: the
    blocks that came whole with the record. ``refused``: blocks to be asked for, ascending. ``dropped``: blocks
    referenced to no purpose. ``cut_address``: where the cut lies here. ``wrong``: why this is not a record of this
    log at all, "" if it is."""

    delta: DeltaMap
    carried: DeltaMap
    refused: U64
    dropped: int
    cut_address: Address
    wrong: str


def resolve_record(
    parts: Sequence[Part],
    columns: Sequence[Columns],
    table: TableView,
    before: tuple[Position, WriteNumber],
    record: Sequence[Position],
) -> ResolvedRecord:
    """What a point's record, all ``parts`` of it, amounts to in this node's log; nothing is changed by asking.

    ``columns``: of everything from the cut before to the record's end, in order. ``table``: where this node stored
    the transfers of that range. ``before``: position and write number of the cut before. ``record``: positions of
    the record's parts, in order. A record that is not of this log is said to be wrong, not raised.
    """
    cut = parts[0]
    written = [select(c, c.rows["kind"] == Kind.WRITES) for c in columns]
    versions = [c.versions() for c in written]
    own = newest(versions, before[1], cut.write)
    records = [select(c, (c.rows["kind"] == Kind.POINT) & np.isin(c.rows["position"], record)) for c in columns]
    carried = carried_whole(records)
    most = sum(int(c.rows["blocks"].sum()) for c in written)
    starts, stops, _ = places_of(_references(parts), table, table.ends(), most)
    found = resolve(own, versions, numbers_in(*merged_intervals(starts, stops)), carried.blocks)
    zeroes = zero_runs(own)
    wrong = _not_one_cut(parts, written, before, record[0]) or not_these_zeroes(stated_zeroes(parts), zeroes)
    if not wrong and len(found.excess):
        wrong = f"it carries block {int(found.excess[0])} whole, which was not modified in part"
    cut_address = _address_behind(columns, cut.position)
    return ResolvedRecord(
        found.delta.with_zeroes(zeroed_at(zeroes, cut_address)), carried, found.refused,
        _stated_blocks(parts) - len(found.delta), cut_address, wrong,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resolution:
    """What references lead to.

    ``delta``: the wholly modified blocks, where the references found them. ``refused``, ascending: blocks for
    which no reference holds and that were not carried whole; of each, ``own``, the location of the log's newest
    version, and ``led``, that of a place to which a reference led all the same (0: none). ``excess``: blocks
    carried whole that were whole already.
    """

    delta: DeltaMap
    refused: U64
    own: U64
    led: U64
    excess: U64


def resolve(
    own: NewestVersions,
    versions: Sequence[Versions],
    addresses: U64,
    carried: U64,
    owners: npt.NDArray[np.int64] | None = None,
    stride: int = 1,
) -> Resolution:
    """Build the delta map from the ``addresses`` to which the references lead, and compare it with ``own``, the
    newest versions by the log itself. ``carried``: blocks that came whole. ``owners``: for records of many points
    at once, the point that named each address; its blocks are those from owner · ``stride`` on."""
    in_part = _partial_blocks(own)
    expected, expected_locations = _whole(own, in_part)
    at, digests, reached = _led_to(versions, addresses)
    if owners is not None:
        mine = at // np.uint64(stride) == owners[reached].astype(np.uint64)
        at, digests, reached = at[mine], digests[mine], reached[mine]
    locations = pack_all(DATA, addresses[reached])
    index = np.searchsorted(expected, at)
    index[index == len(expected)] = 0
    known = expected[index] == at if len(expected) else np.zeros(len(at), bool)
    index, locations, digests = index[known], locations[known], digests[known]
    led, led_digests = np.zeros(len(expected), np.uint64), np.zeros(len(expected), np.uint64)
    led[index] = locations
    holds = locations == expected_locations[index]
    led[index[holds]], led_digests[index[holds]] = locations[holds], digests[holds]
    good = (led == expected_locations) & (led != 0)
    lacking = np.setdiff1d(in_part, carried, assume_unique=True)
    refused = _union(expected[~good], lacking)
    of_own, of_led = np.zeros(len(refused), np.uint64), np.zeros(len(refused), np.uint64)
    if len(refused):
        place = np.searchsorted(refused, expected[~good])
        of_own[place], of_led[place] = expected_locations[~good], led[~good]
    excess = carried[~among(carried, in_part) & _touched(own, carried)]
    return Resolution(DeltaMap(expected[good], led[good], led_digests[good]), refused, of_own, of_led, excess)


def _not_one_cut(
    parts: Sequence[Part], written: list[Columns], before: tuple[Position, WriteNumber], record: Position
) -> str:
    """Every part speaks of one cut, which lies between the point before and the record, and between writes."""
    cut = parts[0]
    if any(_totals(part) != _totals(cut) for part in parts):
        return "its parts do not agree with each other"
    if not (before[0] <= cut.position < record and before[1] <= cut.write):
        return "its cut does not lie between the point before and its record"
    for rows in (c.rows for c in written):
        below = rows["position"] <= np.uint64(cut.position)
        if ((rows["write"] + rows["entries"] - 1)[below] > np.uint64(cut.write)).any():
            return "its cut leaves out writes that lie below it"
        if (rows["write"][~below] <= np.uint64(cut.write)).any():
            return "its cut takes in writes that lie behind it"
    return ""


def _totals(part: Part) -> tuple[object, ...]:
    return (
        part.number, part.previous, part.position, part.write, part.time_ns, part.parts, part.referenced,
        part.partials, part.zero_runs, part.digest, part.root, part.chain,
    )  # fmt: skip


def _led_to(versions: Sequence[Versions], addresses: U64) -> tuple[U64, U64, npt.NDArray[np.int64]]:
    """What lies at the addresses, by the columns: blocks and digests, and which of the addresses they lie at. At
    the others no block of a write begins."""
    locations = np.concatenate([NOTHING, *(v.words for v in versions)])
    data = kinds(locations) == DATA
    places = locations[data] & MASK
    if not len(places):
        return NOTHING, NOTHING, np.zeros(0, np.int64)
    blocks = np.concatenate([NOTHING, *(v.blocks for v in versions)])[data]
    digests = np.concatenate([NOTHING, *(v.digests for v in versions)])[data]
    at = np.searchsorted(places, addresses)
    at[at == len(places)] = 0
    reached = np.flatnonzero(places[at] == addresses)
    return blocks[at[reached]], digests[at[reached]], reached


def _references(parts: Sequence[Part]) -> References:
    columns = ("epochs", "positions", "blocks", "runs")
    return References(*(np.concatenate([getattr(p.references, column) for p in parts]) for column in columns))


def places_of(
    references: References, table: TableView, ends: U64, most: int
) -> tuple[U64, U64, npt.NDArray[np.int64]]:
    """Where the referenced blocks lie here, as far as the transfers are here and have so many blocks: places
    [start, stop), and which reference each is of. ``ends``: where each transfer of the table ends at the latest;
    none has more than ``most`` blocks."""
    if not len(table.positions):
        return NOTHING, NOTHING, np.zeros(0, np.int64)
    row = np.searchsorted(table.positions, references.positions)
    row[row == len(table.positions)] = 0
    here = (table.positions[row] == references.positions) & (table.epochs[row] == references.epochs)
    starts = table.addresses[row] + references.blocks
    stops = np.minimum(starts + np.minimum(references.runs, np.uint64(most)), ends[row])
    index = np.flatnonzero(here & (starts < stops))
    return starts[index], stops[index], index


def _stated_blocks(parts: Sequence[Part]) -> int:
    return sum(sum(part.references.runs.tolist()) for part in parts)


def _whole(own: NewestVersions, in_part: U64) -> tuple[U64, U64]:
    """The blocks whose newest version is a whole one, and where it lies."""
    delta = own.delta
    chosen = kinds(delta.locations) == DATA
    if len(in_part):
        chosen &= ~among(delta.blocks, in_part)
    return delta.blocks[chosen], delta.locations[chosen]


def _touched(own: NewestVersions, blocks: U64) -> npt.NDArray[np.bool_]:
    """Which of these blocks the interval wrote or zeroed whole."""
    touched: npt.NDArray[np.bool_] = among(blocks, own.delta.blocks) | (own.delta.zeroes.get(blocks) != 0)
    return touched


def _partial_blocks(own: NewestVersions) -> U64:
    return np.array(sorted({f.block for f in own.fragments}), np.uint64)


def _union(one: U64, other: U64) -> U64:
    """Of two sets of blocks, ascending. (Almost always one of them is empty.)"""
    if not len(one) or not len(other):
        return np.sort(one if len(one) else other)
    return np.union1d(one, other)


def carried_whole(records: Sequence[Columns]) -> DeltaMap:
    """The blocks that records carry, given their transfers' columns. Of a block that stands there twice the first
    counts."""
    found = [columns.versions() for columns in records if len(columns.digests)]
    blocks = np.concatenate([NOTHING, *(v.blocks for v in found)])
    locations = np.concatenate([NOTHING, *(v.words for v in found)])
    digests = np.concatenate([NOTHING, *(v.digests for v in found)])
    first = first_of_each(blocks)
    return DeltaMap(blocks[first], locations[first], digests[first])


def stated_zeroes(parts: Sequence[Part]) -> tuple[U64, U64]:
    """The zero runs of a record as it states them, whatever that is: (first blocks, counts)."""
    return np.concatenate([p.zeroes[0] for p in parts]), np.concatenate([p.zeroes[1] for p in parts])


def zero_runs(own: NewestVersions) -> BlockSet:
    """What the interval zeroed, as a record has to state it. Of the blocks that were zeroed one by one, those that
    were then written in part go whole instead."""
    zeroed = own.delta.entries(~among(own.delta.blocks, _partial_blocks(own)))
    return zeroed.with_zeroes(own.delta.zeroes).zero_runs()


def not_these_zeroes(stated: tuple[U64, U64], expected: BlockSet) -> str:
    """The record must state the runs that the log has, as its digest covers them: sorted, each as long as can be.
    What is wrong with it, "" if nothing is."""
    if np.array_equal(stated[0], expected.starts) and np.array_equal(stated[1], expected.counts):
        return ""
    return "it does not state the zeroes that the log has"


def zeroed_at(zeroes: BlockSet, cut_address: Address) -> Ranges:
    """A point's zero runs with a location: just below its cut."""
    location = pack(ZERO, max(0, cut_address - 1))
    return Ranges(zeroes.starts, zeroes.ends, np.full(len(zeroes), location, np.uint64))


def _address_behind(columns: Sequence[Columns], position: Position) -> Address:
    """The address of the first transfer behind a position."""
    for each in columns:
        behind = np.flatnonzero(each.rows["position"] > position)
        if len(behind):
            return Address(each.base + int(each.rows["block"][behind[0]]))
    return Address(0)  # not a cut of this log
