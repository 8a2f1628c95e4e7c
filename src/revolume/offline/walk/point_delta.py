"""What a point changed, as its record says it: the references looked up, the partial blocks, the zeroes.

A volume that is or was a mirror has its log from elsewhere: references that don't hold are dropped, as they
were when it agreed to the point, and blocks that it was sent whole take their place.
"""

from __future__ import annotations

from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import DeltaMap
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.chain.point import Part
from revolume.chain.reference_resolver import resolve_record, stated_zeroes, zeroed_at
from revolume.log.format.columns import Columns
from revolume.offline.walk.log_walk import LogRecords
from revolume.offline.walk.references import TransferIndex

Parts = list[tuple[Part, Columns]]
"""A point's record, part by part, and where each lies."""


def own_delta(parts: Parts, table: TransferIndex) -> DeltaMap | str:
    """What a point that was made here changed, from its record; a sentence if the record is wrong."""
    pieces: list[DeltaMap] = []
    named = 0
    for part, columns in parts:
        found = table.resolve(part)
        if found is None:
            return "a reference names a transfer or a block that is not in the log"
        carried = columns.versions()
        pieces += [found, DeltaMap.of(carried.blocks, carried.words, carried.digests)]
        named += int(part.references.runs.sum()) + len(carried.blocks)
    delta = DeltaMap.joined(pieces)
    if len(delta) != named:
        return "it names a block more than once"
    firsts, counts = stated_zeroes([part for part, _ in parts])
    zeroes = BlockSet.of_intervals(firsts, firsts + counts)
    if zeroes != BlockSet(firsts, firsts + counts):
        return "its zero runs are not sorted, or touch each other"
    return delta.with_zeroes(zeroed_at(zeroes, Address(0)))


def received_delta(
    parts: Parts, records: LogRecords, table: TransferIndex, before: tuple[Position, WriteNumber]
) -> DeltaMap | str:
    """What a point that came over the link changed, from its record; a sentence if the record is wrong.
    ``before``: (position, write) of the point before it."""
    positions = [Position(int(columns.rows["position"][0])) for _, columns in parts]
    pieces = [c for c in records.pieces if _overlaps(c, before[0], positions[-1])]
    got = resolve_record([part for part, _ in parts], pieces, table.view(), before, positions)
    if got.wrong:
        return got.wrong
    refused = BlockSet.of_blocks(got.refused)
    fixed = _sent_whole(records.fixed.get(parts[0][0].number, [])).within(refused)
    if len(fixed) != len(got.refused):
        return "blocks have no reference that holds, and did not come whole either"
    return fixed.over(got.carried).over(got.delta)


def put_right(parts: Parts, records: LogRecords, delta: DeltaMap) -> DeltaMap:
    """The blocks that a mirror stored with a point because its copy was found to differ: none that the point
    changed. The root counts already what they are."""
    return _sent_whole(records.fixed.get(parts[0][0].number, [])).without(delta.changed())


def _sent_whole(fixed: list[Columns]) -> DeltaMap:
    """The blocks that were sent whole; of a block that was sent twice, the last version."""
    versions = [columns.versions() for columns in fixed]
    return DeltaMap.joined(DeltaMap.of(v.blocks, v.words, v.digests) for v in versions)


def _overlaps(columns: Columns, first: Position, last: Position) -> bool:
    positions = columns.rows["position"]
    return bool(len(positions)) and int(positions[0]) <= last and first <= int(positions[-1])
