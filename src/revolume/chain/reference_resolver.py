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
to say; that comparison is the caller's. ``delta_maps.py`` resolves the same records again, many at once, for
views, base maps and folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks.ranges import Ranges
from revolume.blocks.word import ADDRESS_MASK, DATA, ZERO, kinds
from revolume.chain.point import Part, References
from revolume.chain.versions import Newest, newest, under_ranges
from revolume.log.columns import Columns, Versions, only, ramp
from revolume.log.table import TableView
from revolume.log.transfer import Kind

U64 = npt.NDArray[np.uint64]
NOTHING = np.zeros(0, np.uint64)
MASK = np.uint64(ADDRESS_MASK)


@dataclass(frozen=True, slots=True)
class Received:
    """What a record amounts to here. ``blocks`` (ascending), their ``words`` and ``digests``: resolved references
    that hold. ``partial_blocks`` came whole with the record. ``refused``: blocks to be asked for. ``dropped``:
    blocks referenced to no purpose. ``cut_address``: where the cut lies here. ``wrong``: why this is not a record
    of this log at all, "" if it is."""

    blocks: U64
    words: U64
    digests: U64
    partial_blocks: U64
    partial_words: U64
    partial_digests: U64
    zeroes: tuple[U64, U64]
    refused: U64
    dropped: int
    cut_address: int
    wrong: str


def received(
    parts: Sequence[Part],
    columns: Sequence[Columns],
    table: TableView,
    before: tuple[int, int],
    record: Sequence[int],
) -> Received:
    """See the module's text. ``columns`` hold everything from the cut before to the record's end; ``before`` is
    position and write number of the cut before; ``record``: positions of the record's parts, in order."""
    cut = parts[0]
    written = [only(c, c.rows["kind"] == Kind.WRITES) for c in columns]
    versions = [c.versions() for c in written]
    own = under_ranges(newest(versions, before[1], cut.write))
    zeroes = stated_zeroes(parts)
    records = [only(c, (c.rows["kind"] == Kind.POINT) & np.isin(c.rows["position"], record)) for c in columns]
    partial = carried_whole(records)
    most = sum(int(c.rows["blocks"].sum()) for c in written)
    starts, stops, _ = places_of(_references(parts), table, table.ends(), most)
    found = resolved(own, versions, each_of(*disjoint(starts, stops)), partial[0])
    wrong = _not_one_cut(parts, written, before, record[0]) or not_these_zeroes(zeroes, own)
    if not wrong and len(found.excess):
        wrong = f"it carries block {int(found.excess[0])} whole, which was not modified in part"
    return Received(
        found.blocks, found.words, found.digests, *partial, zeroes, found.refused,
        _stated_blocks(parts) - len(found.blocks), _address_behind(columns, cut.position), wrong,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Resolved:
    """What references lead to. ``blocks`` (ascending), ``words``, ``digests``: the delta map's wholly modified
    blocks, where the references found them. ``refused``: blocks for which no reference holds and that were not
    carried whole; of each, ``own``, the word of the log's newest version, and ``led``, the word of a place to
    which a reference led all the same (0: none). ``excess``: blocks carried whole that were whole already."""

    blocks: U64
    words: U64
    digests: U64
    refused: U64
    own: U64
    led: U64
    excess: U64


def resolved(
    own: Newest,
    versions: Sequence[Versions],
    addresses: U64,
    carried: U64,
    owners: npt.NDArray[np.int64] | None = None,
    stride: int = 1,
) -> Resolved:
    """Build the delta map from the ``addresses`` to which the references lead, and compare it with ``own``, the
    newest versions by the log itself. ``carried``: blocks that came whole. ``owners``: for records of many points
    at once, the point that named each address; its blocks are those from owner · ``stride`` on."""
    in_part = _partial_blocks(own)
    expected, expected_words = _whole(own, in_part)
    at, digests, reached = _led_to(versions, addresses)
    if owners is not None:
        mine = at // np.uint64(stride) == owners[reached].astype(np.uint64)
        at, digests, reached = at[mine], digests[mine], reached[mine]
    words = addresses[reached] | np.uint64(DATA << 62)
    index = np.searchsorted(expected, at)
    index[index == len(expected)] = 0
    known = expected[index] == at if len(expected) else np.zeros(len(at), bool)
    index, words, digests = index[known], words[known], digests[known]
    led, led_digests = np.zeros(len(expected), np.uint64), np.zeros(len(expected), np.uint64)
    led[index] = words
    holds = words == expected_words[index]
    led[index[holds]], led_digests[index[holds]] = words[holds], digests[holds]
    good = (led == expected_words) & (led != 0)
    lacking = np.setdiff1d(in_part, carried, assume_unique=True)
    refused = _union(expected[~good], lacking)
    of_own, of_led = np.zeros(len(refused), np.uint64), np.zeros(len(refused), np.uint64)
    if len(refused):
        place = np.searchsorted(refused, expected[~good])
        of_own[place], of_led[place] = expected_words[~good], led[~good]
    excess = carried[~_among(carried, in_part) & _touched(own, carried)]
    return Resolved(expected[good], led[good], led_digests[good], refused, of_own, of_led, excess)


def _not_one_cut(parts: Sequence[Part], written: list[Columns], before: tuple[int, int], record: int) -> str:
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
    words = np.concatenate([NOTHING, *(v.words for v in versions)])
    data = kinds(words) == DATA
    places = words[data] & MASK
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


def disjoint(starts: U64, stops: U64) -> tuple[U64, U64]:
    """The same places, each once, ascending: however often a record repeats itself."""
    if (starts[1:] >= stops[:-1]).all():
        return starts, stops
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    begins = np.ones(len(starts), bool)
    begins[1:] = starts[1:] > reach[:-1]
    first = np.flatnonzero(begins)
    return starts[first], reach[np.append(first[1:], len(starts)) - 1]


def each_of(starts: U64, stops: U64) -> U64:
    """All numbers in these intervals, one interval behind the other."""
    found: U64 = np.repeat(starts, (stops - starts).astype(np.int64)) + ramp(stops - starts)
    return found


def _stated_blocks(parts: Sequence[Part]) -> int:
    return sum(sum(part.references.runs.tolist()) for part in parts)


def _whole(own: Newest, in_part: U64) -> tuple[U64, U64]:
    """The blocks whose newest version is a whole one, and their words."""
    chosen = kinds(own.words) == DATA
    if len(in_part):
        chosen &= ~_among(own.blocks, in_part)
    return own.blocks[chosen], own.words[chosen]


def _touched(own: Newest, blocks: U64) -> npt.NDArray[np.bool_]:
    """Which of these blocks the interval wrote or zeroed whole."""
    touched = _among(blocks, own.blocks)
    for start, end, _, _ in own.ranges:
        touched |= (blocks >= np.uint64(start)) & (blocks < np.uint64(end))
    return touched


def _among(blocks: U64, known: U64) -> npt.NDArray[np.bool_]:
    """Which of these blocks are in ``known``, which ascends."""
    if not len(known):
        return np.zeros(len(blocks), bool)
    at = np.searchsorted(known, blocks)
    at[at == len(known)] = 0
    found: npt.NDArray[np.bool_] = known[at] == blocks
    return found


def _partial_blocks(own: Newest) -> U64:
    return np.array(sorted({f.block for f in own.fragments}), np.uint64)


def _union(one: U64, other: U64) -> U64:
    """Of two sets of blocks, ascending. (Almost always one of them is empty.)"""
    if not len(one) or not len(other):
        return np.sort(one if len(one) else other)
    return np.union1d(one, other)


def carried_whole(records: Sequence[Columns]) -> tuple[U64, U64, U64]:
    """The blocks that records carry, given their transfers' columns, by block: block, word, digest."""
    found = [columns.versions() for columns in records if len(columns.digests)]
    blocks = np.concatenate([NOTHING, *(v.blocks for v in found)])
    words = np.concatenate([NOTHING, *(v.words for v in found)])
    digests = np.concatenate([NOTHING, *(v.digests for v in found)])
    blocks, first = np.unique(blocks, return_index=True)
    return blocks, words[first], digests[first]


def stated_zeroes(parts: Sequence[Part]) -> tuple[U64, U64]:
    return np.concatenate([p.zeroes[0] for p in parts]), np.concatenate([p.zeroes[1] for p in parts])


def not_these_zeroes(stated: tuple[U64, U64], own: Newest) -> str:
    """The record states the runs that the log has, as its digest covers them: sorted, each as long as can be."""
    starts = np.array([start for start, _, _, _ in own.ranges], np.uint64)
    ends = np.array([end for _, end, _, _ in own.ranges], np.uint64)
    single = np.setdiff1d(own.blocks[kinds(own.words) == ZERO], _partial_blocks(own), assume_unique=True)
    starts, ends = _painted(np.append(starts, single), np.append(ends, single + np.uint64(1)))
    if np.array_equal(stated[0], starts) and np.array_equal(stated[1], ends - starts):
        return ""
    return "it does not state the zeroes that the log has"


def _painted(starts: U64, ends: U64) -> tuple[U64, U64]:
    """The union of intervals as sorted, disjoint, maximal ones."""
    ranges = [(start, end, 1) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    begins, stops, _ = Ranges().with_ranges(ranges).arrays()
    if not len(begins):
        return begins, stops
    apart = np.ones(len(begins), bool)
    apart[1:] = begins[1:] > stops[:-1]
    index = np.flatnonzero(apart)
    return begins[index], stops[np.append(index[1:], len(begins)) - 1]


def _address_behind(columns: Sequence[Columns], position: int) -> int:
    """The address of the first transfer behind a position."""
    for each in columns:
        behind = np.flatnonzero(each.rows["position"] > position)
        if len(behind):
            return each.base + int(each.rows["block"][behind[0]])
    return 0  # not a cut of this log


def zeroed_elsewhere(zeroes: tuple[U64, U64], blocks: U64) -> tuple[U64, U64]:
    """Zero runs (first, count) as intervals (start, end) without these blocks (ascending)."""
    starts, ends = zeroes[0], zeroes[0] + zeroes[1]
    if not len(starts):
        return starts, ends
    at = np.searchsorted(starts, blocks, "right")
    inside = blocks[(at > 0) & (blocks < ends[np.maximum(at, 1) - 1])]
    left = np.sort(np.append(starts, inside + np.uint64(1)))
    right = np.sort(np.append(ends, inside))
    some = left < right
    return left[some], right[some]
