"""D2, D15: the map that a mirror builds from references, read: what lies, what came late, what is wrong in it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.mirror.scripted import Claim, Stage, content, stage

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
