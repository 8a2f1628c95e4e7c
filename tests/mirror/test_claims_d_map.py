"""D2, D15: the map that a mirror builds from references, read: what lies, what came late, what is wrong in it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest

from revolume.blocks.block_location import ADDRESS_MASK, DATA, ZERO, kinds
from revolume.chain import point_deltas as point_deltas_module
from revolume.chain.point_deltas import U64, changed, point_deltas
from revolume.chain.versions import LogRange, NewestVersions, Span, load_segments
from revolume.errors import Damaged
from revolume.log.format.columns import Columns, select
from revolume.log.format.segment import Segment
from revolume.log.format.transfer import Kind
from tests.mirror.scripted import VOLUME, Claim, Stage, content, honest, stage

Scenario = Callable[[Stage], Awaitable[None]]


def on_stage(scenario: Scenario) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), stage() as made:
            await scenario(made)

    asyncio.run(run())


def without(block: int) -> Callable[[Claim], None]:
    def lie(claim: Claim) -> None:
        del claim.rows[block]

    return lie


def test_d15_a_block_sent_whole_after_the_next_point_had_come_is_older_than_that_point() -> None:
    """It is stored behind the transfers of the points that follow: its place says nothing about its age."""

    async def scenario(made: Stage) -> None:
        script = made.script
        script.whole(11, 1)
        script.whole(12, 1)
        script.whole(13, 1)
        script.point(without(11))
        script.zero(0, 300)  # a range
        script.point()
        script.whole(12, 3)
        script.point()
        await made.ship()
        await made.settle()
        assert made.secondary.failure is None, made.secondary.failure
        assert made.asked == [[11]]
        await made.holds()
        script.whole(11, 4)
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


def test_d15_a_block_sent_whole_after_the_next_point_had_come_counts_when_it_is_overwritten() -> None:
    async def scenario(made: Stage) -> None:
        script = made.script
        script.whole(11, 1)
        script.whole(12, 1)
        script.point(without(11))
        script.whole(12, 2)
        script.point()
        await made.ship()
        await made.settle()
        assert made.asked == [[11]]
        script.whole(11, 4)
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


def test_d15_a_block_sent_whole_segments_behind_the_next_points_record_is_found_by_every_job() -> None:
    async def scenario(made: Stage) -> None:
        script = made.script
        script.whole(11, 1)
        script.whole(12, 1)
        script.point(without(11))
        script.whole(12, 2)
        script.point()
        for seed in range(12):
            script.whole(40 + seed * 4, seed, 4)
        arrived = script.sent[made._shipped :]
        await made.secondary.room(made.secondary.need(arrived))
        made.secondary.keep(arrived)  # all of it, before anything is asked for
        made._shipped = len(script.sent)
        await made.settle()
        second, third = made.secondary.points()[-2:]
        blocks = made.secondary.segment_blocks
        assert made.asked == [[11]] and second.record // blocks > third.record // blocks
        await made.holds()
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


def test_d15_the_same_after_a_restart_and_at_its_promotion() -> None:
    async def scenario(made: Stage) -> None:
        script = made.script
        script.whole(11, 1)
        script.whole(12, 1)
        script.point(without(11))
        script.whole(12, 2)
        script.point()
        await made.ship()
        await made.settle()
        await made.crash()
        script.whole(11, 4)
        await made.ship()
        await made.copy_promoted()
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


def test_d7_d13_a_block_wholly_written_and_sent_whole_is_no_point_of_this_log() -> None:
    """Two versions of it would lie in the record, and whoever reads that later would have to choose."""

    async def scenario(made: Stage) -> None:
        made.script.whole(10, 1, 4)
        await made.agreed()
        made.script.whole(10, 2, 4)

        def both(claim: Claim) -> None:
            claim.partials[11] = content(4711)

        made.script.point(both)
        await made.ship()
        await made.settle()
        failure = made.secondary.failure
        assert failure is not None and "block 11 whole" in failure.cause
        assert made.secondary.agreed.number == 2 and made.asked == []
        await made.holds()

    on_stage(scenario)


# The jobs' own way: records resolved, the log's newest beside them


def some_history(made: Stage, seed: int) -> None:
    """Whole blocks, parts, zeroes and large zeroes, over each other."""
    chance = random.Random(seed)
    for _ in range(12):
        at, kind = chance.randrange(8, 500), chance.randrange(10)
        if kind < 5:
            made.script.whole(at, chance.randrange(10**6), chance.randrange(1, 5))
        elif kind < 7:
            made.script.part(at, chance.randrange(4000), b"part %d" % chance.randrange(10**6))
        elif kind < 9:
            made.script.zero(at, chance.randrange(1, 5))
        else:
            made.script.zero(at, 300)


def one_lie(claim: Claim) -> None:
    """A reference is left out, another leads to where a third does."""
    blocks = sorted(claim.rows)
    if len(blocks) > 2:
        claim.rows[blocks[1]] = claim.rows[blocks[2]]
        del claim.rows[blocks[0]]


async def pieces_of(made: Stage, log_range: LogRange) -> list[tuple[Segment, Columns]]:
    secondary = made.secondary
    await secondary.log.footers.written()
    return [
        (secondary.log.pool.by_use[segment.use], columns)
        for segment, columns in load_segments(secondary.context.log_directory, log_range, VOLUME)
    ]


def same_map(one: NewestVersions, other: NewestVersions) -> None:
    """The same blocks at the same places, the same zeroes."""
    ours, theirs = (found.delta.entries(kinds(found.delta.locations) == DATA) for found in (one, other))
    for column in ("blocks", "locations", "digests"):
        assert np.array_equal(getattr(ours, column), getattr(theirs, column)), column
    assert zeroes_of(one) == zeroes_of(other)
    assert [f.place for f in one.fragments] == [f.place for f in other.fragments]


def zeroes_of(found: NewestVersions) -> set[int]:
    held = found.delta.blocks[kinds(found.delta.locations) == DATA]
    return set(found.delta.zero_runs().blocks().tolist()) - set(held.tolist())


@pytest.mark.parametrize(("gather", "bits"), [(1 << 18, 52), (1, 52), (60, 12)])
def test_d2_d15_the_map_out_of_records_is_the_logs_own_newest(
    gather: int, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty points, some lied about and cured; as of each of them, and between; in batches of every size."""
    monkeypatch.setattr(point_deltas_module, "GATHER", gather)
    monkeypatch.setattr(point_deltas_module, "BLOCKS_BITS", bits)

    async def scenario(made: Stage) -> None:
        for seed in range(40):
            some_history(made, seed)
            await made.agreed(one_lie if seed % 4 == 3 else honest)
        secondary = made.secondary
        points = secondary.points()
        await secondary.log.footers.written()
        assert len(made.asked) > 5
        for index in range(0, 40, 3):
            log_range = secondary.ranges.up_to_point(None, points[index])
            assert log_range.agreed == Span(1, points[index].number)
            for write in (points[index].write + 5, points[index].write):
                ours = changed(secondary.context.log_directory, log_range, VOLUME, 10, write)
                own = changed(secondary.context.log_directory, replace(log_range, agreed=None), VOLUME, 10, write)
                same_map(ours, own)
            locations = ours.delta.locations
            single = locations[kinds(locations) == ZERO].tolist()
            cuts = [at & ADDRESS_MASK for at in [*single, *(at for *_, at in ours.delta.zeroes)]]
            assert max(cuts, default=0) < points[index].address, "a fold to this point takes them up"

    on_stage(scenario)


def all_of(pieces: list[tuple[Segment, Columns]], span: Span) -> None:
    for _ in point_deltas(pieces, VOLUME, span, 5):
        pass


def leaving_out(pieces: list[tuple[Segment, Columns]], kind: Kind) -> list[tuple[Segment, Columns]]:
    return [(segment, select(columns, columns.rows["kind"] != kind)) for segment, columns in pieces]


def test_d15_points_that_name_each_others_transfers_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such references are dropped when the point is sealed. Of many points at once each could name everything."""
    named: list[int] = []
    numbers_in = point_deltas_module.numbers_in

    def counted(starts: U64, stops: U64) -> U64:
        found = numbers_in(starts, stops)
        named.append(len(found))
        return found

    monkeypatch.setattr(point_deltas_module, "numbers_in", counted)

    async def scenario(made: Stage) -> None:
        before: list[tuple[int, int, int]] = []

        def all_before(claim: Claim) -> None:
            claim.rows[200] = list(before)

        for point in range(6):
            made.script.whole(10 + point, 1, 4)
            await made.agreed(all_before)
            before += [(made.script.epoch, made.script.position - 1, row) for row in range(4)]
        assert not made.asked
        log_range = made.secondary.ranges.up_to_point(None, made.secondary.agreed)
        all_of(await pieces_of(made, log_range), Span(1, 7))
        assert sum(named) == 6 * 4

    on_stage(scenario)


def test_d15_a_record_that_disagrees_with_the_log_is_damage_and_both_are_named() -> None:
    """Sealing had the block sent whole; a log without it serves neither what is named nor what is newest."""

    async def scenario(made: Stage) -> None:
        script = made.script
        script.whole(10, 1, 4)
        script.whole(12, 2)
        await made.agreed(lambda claim: claim.rows.update({12: [(1, 6, 2)]}))
        assert made.asked == [[12]]
        pieces = await pieces_of(made, made.secondary.ranges.up_to_point(None, made.secondary.agreed))
        all_of(pieces, Span(1, 2))
        with pytest.raises(Damaged) as damaged:
            all_of(leaving_out(pieces, Kind.LOCAL_BLOCKS), Span(1, 2))
        assert damaged.value.code == "record-disagrees"
        rows = np.concatenate([columns.rows for _, columns in pieces])
        written = rows[rows["kind"] == Kind.WRITES]
        base = pieces[0][1].base
        led = base + int(written["block"][0] + written["header_blocks"][0]) + 2
        own = base + int(written["block"][1] + written["header_blocks"][1])
        assert f"cp2 leads to {led} for block 12, the log holds its newest version at {own}" in damaged.value.cause

    on_stage(scenario)


def test_d15_a_record_that_is_not_there_is_damage() -> None:
    async def scenario(made: Stage) -> None:
        made.script.whole(10, 1, 4)
        await made.agreed()
        made.script.part(10, 7, b"in part")
        await made.agreed()
        pieces = await pieces_of(made, made.secondary.ranges.up_to_point(None, made.secondary.agreed))
        all_of(pieces, Span(1, 3))
        for span in (Span(1, 4), Span(1, 5)):
            with pytest.raises(Damaged, match="The record of point cp4"):
                all_of(pieces, span)
        with pytest.raises(Damaged, match="The record of point cp2"):
            all_of(leaving_out(pieces, Kind.POINT), Span(1, 3))

    on_stage(scenario)


def test_d15_a_view_between_two_points_takes_what_follows_from_the_log() -> None:
    """At a mirror every write up to the agreed point can be opened, also those between two points."""

    async def scenario(made: Stage) -> None:
        script = made.script
        for seed in range(4):
            script.whole(20, seed, 3)
            script.part(21, 9, b"%d in part" % seed)
            script.zero(22, 1)
            await made.agreed()
        between = [write for write in script.moments if write % 4 != 2 and write > 10]
        assert len(between) > 5
        await made.holds()

    on_stage(scenario)
