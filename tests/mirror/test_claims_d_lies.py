"""D2, D3, D4, D7, D13, D15: a source that lies about its log, and what a mirror makes of it.

Lies that leave the truth within reach (a reference that leads elsewhere, a block left out) cost one question: the
mirror asks for exactly the blocks that it lacks, stores them, agrees, and holds the right bytes for good. Lies
about what the truth is cost the point: it is refused with a sentence, and the mirror stays at the one before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest

from revolume.blocks.delta_map import stated_digest
from revolume.blocks.digest import fragment_digest
from revolume.blocks.extents import merged_intervals, numbers_in
from revolume.chain.point import References
from revolume.chain.reference_resolver import places_of
from revolume.errors import Refused
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.transfer import unpack_shared_header
from revolume.log.format.transfer_table import TableView
from tests.mirror.scripted import Claim, Lie, Stage, content, stage, stated

Scenario = Callable[[Stage], Awaitable[None]]


def on_stage(scenario: Scenario) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), stage() as made:
            await scenario(made)

    asyncio.run(run())


def history(made: Stage) -> None:
    """Blocks 10 to 13 in one transfer, 12 again in another; 20 whole, then in part; 5 of the base in part; 50
    whole, then zeroed; a large stretch of zeroes, and 310 written in it. The first at position 6."""
    script = made.script
    script.whole(10, 1, 4)
    script.whole(12, 2)
    script.whole(20, 3)
    script.part(20, 8, b"twenty")
    script.part(5, 4000, b"at the end of five")
    script.whole(50, 4)
    script.zero(50, 1)
    script.zero(300, 300)
    script.whole(310, 5)


def omitted(claim: Claim) -> None:
    del claim.rows[11]


def all_omitted(claim: Claim) -> None:
    claim.rows.clear()


def swapped(claim: Claim) -> None:
    claim.rows[10], claim.rows[310] = claim.rows[11], claim.rows[12]


def stale(claim: Claim) -> None:
    claim.rows[12] = [(1, 6, 2)]


def never_was(claim: Claim) -> None:
    claim.rows[12] = [(1, 4711, 0)]


def not_written_yet(claim: Claim) -> None:
    claim.rows[12] = [(1, claim.position + 1, 0)]  # the record's own position


def beyond_the_transfer(claim: Claim) -> None:
    claim.rows[12] = [(1, 7, 1)]


def far_beyond_the_transfer(claim: Claim) -> None:
    claim.rows[12] = [(1, 7, (1 << 32) - 1)]


def of_another_epoch(claim: Claim) -> None:
    claim.rows[12] = [(2, 7, 0)]


def stretched(claim: Claim) -> None:
    """One reference whose run goes on over the transfers behind its own."""
    claim.rows = {10: [(1, 6, 0)]}
    claim.runs = 12


def endless(claim: Claim) -> None:
    claim.rows = {block: rows * 200 for block, rows in claim.rows.items()}
    claim.runs = (1 << 32) - 1


def by_reference_what_was_written_in_part(claim: Claim) -> None:
    claim.rows[20] = [(1, 8, 0)]
    del claim.partials[20]


def partial_left_out(claim: Claim) -> None:
    del claim.partials[5]


def all_partials_left_out(claim: Claim) -> None:
    claim.partials.clear()


CURED: list[tuple[Lie, list[int]]] = [
    (omitted, [11]),
    (all_omitted, [10, 11, 12, 13, 310]),
    (swapped, [10, 310]),
    (stale, [12]),
    (never_was, [12]),
    (not_written_yet, [12]),
    (beyond_the_transfer, [12]),
    (far_beyond_the_transfer, [12]),
    (of_another_epoch, [12]),
    (stretched, [12, 310]),
    (by_reference_what_was_written_in_part, [20]),
    (partial_left_out, [5]),
    (all_partials_left_out, [5, 20]),
]


@pytest.mark.parametrize(("lie", "asked"), CURED, ids=lambda value: getattr(value, "__name__", ""))
def test_d2_a_bad_reference_costs_one_question_for_exactly_its_block(lie: Lie, asked: list[int]) -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed(lie)
        assert made.asked == [asked]
        assert made.secondary.point_applier.asked_blocks == len(asked)
        await made.lives_on()
        assert made.asked == [asked]  # never again: it is stored here

    on_stage(scenario)


def to_what_did_not_change(claim: Claim) -> None:
    claim.rows[700] = [(1, 7, 0)]  # 12 a second time
    claim.rows[701] = [(1, 6, 2)]  # 12 as it was
    claim.rows[702] = [(1, 12, 0)]  # 50 as it was before it was zeroed


def test_d2_references_to_no_purpose_are_dropped_without_a_question() -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed(to_what_did_not_change)
        assert made.asked == []
        assert any("lead nowhere" in text for text in made.secondary.events.texts())
        await made.lives_on()

    on_stage(scenario)


def test_d2_a_record_without_end_is_heard_out_in_bounded_memory() -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed(endless)
        await made.lives_on()

    on_stage(scenario)


def test_d2_no_record_makes_more_addresses_than_there_are_blocks() -> None:
    many = [np.full(1000, number, np.uint64) for number in (1, 6, 0, (1 << 32) - 1)]
    table = TableView(*(np.array([number], np.uint64) for number in (100, 6, 1)))
    starts, stops, _ = places_of(References(*many), table, table.ends(), 5000)
    assert 0 < len(numbers_in(*merged_intervals(starts, stops))) <= 5000


def test_d2_honest_references_cost_no_question() -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed()
        assert made.asked == []
        assert made.secondary.point_applier.referenced_blocks == 5
        await made.lives_on()

    on_stage(scenario)


def test_d2_what_is_written_behind_the_cut_is_no_part_of_the_point() -> None:
    """A reference to a version newer than the cut is as wrong as one to an older version."""

    async def scenario(made: Stage) -> None:
        history(made)
        claim = made.script.claim()
        made.script.whole(12, 77)
        made.script.part(13, 9, b"newer than the cut")

        def newer(bent: Claim) -> None:
            bent.rows[12] = [(1, bent.position + 1, 0)]

        made.script.point(newer, claim)
        await made.ship()
        await made.settle()
        assert made.secondary.failure is None
        assert made.asked == [[12]]
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


# The point is refused


def wrong_digest(claim: Claim) -> None:
    claim.digest ^= 1


def wrong_root(claim: Claim) -> None:
    claim.root = (claim.root[0] ^ 1, claim.root[1])


def zeroes_left_out(claim: Claim) -> None:
    claim.zeroes = claim.zeroes[:-1]


def zeroes_added(claim: Claim) -> None:
    claim.zeroes = [*claim.zeroes, (800, 3)]


def zeroes_of_what_is_zero_already(claim: Claim) -> None:
    """The volume would be the same: but it is not what the log says."""
    zeroes_added(claim)
    claim.digest = digest_of(claim)


def zeroes_in_pieces(claim: Claim) -> None:
    (first, count), *_ = claim.zeroes[-1:]
    claim.zeroes = [*claim.zeroes[:-1], (first, 10), (first + 10, count - 10)]
    claim.digest = digest_of(claim)


def cut_elsewhere(claim: Claim) -> None:
    claim.position -= 1


def cut_before_the_last_write(claim: Claim) -> None:
    claim.write -= 1


def cut_behind_the_record(claim: Claim) -> None:
    claim.position += 50


def cut_of_another_log(claim: Claim) -> None:
    claim.chain = b"another log....."


def partial_content_of_its_own(claim: Claim) -> None:
    claim.partials[5] = content(1234)


def number_skipped(claim: Claim) -> None:
    claim.number += 1


def number_before_skipped(claim: Claim) -> None:
    claim.previous -= 1


def digest_of(claim: Claim) -> int:
    held = sorted([*claim.rows, *claim.partials])
    digests = [fragment_digest(claim.content[block]) for block in held]
    return stated_digest(np.array(held, np.uint64), np.array(digests, np.uint64), stated(claim.zeroes))


REFUSED: list[tuple[Lie, str]] = [
    (wrong_digest, "its changes don't have the digest that was stated"),
    (zeroes_left_out, "it does not state the zeroes that the log has"),
    (zeroes_added, "it does not state the zeroes that the log has"),
    (zeroes_of_what_is_zero_already, "it does not state the zeroes that the log has"),
    (zeroes_in_pieces, "it does not state the zeroes that the log has"),
    (cut_elsewhere, "its cut takes in writes that lie behind it"),
    (cut_before_the_last_write, "its cut leaves out writes that lie below it"),
    (cut_behind_the_record, "its cut does not lie between"),
    (cut_of_another_log, "its cut is not one of this log"),
    (partial_content_of_its_own, "its changes don't have the digest that was stated"),
    (number_skipped, "does not follow on"),
    (number_before_skipped, "does not follow on"),
]


async def stays(made: Stage, number: int, why: str) -> None:
    """The mirror stands at a point and says why; killed, reopened, stopped; it is not promoted."""
    for _ in range(2):
        assert made.secondary.agreed.number == number
        failure = made.secondary.failure
        assert failure is not None and why in failure.cause, failure
        assert failure.hint
        await made.holds()
        await made.crash()
        await made.settle()
    made.script.whole(60, 66)
    await made.ship()  # the log goes on being kept
    assert made.secondary.received == made.script.position
    await made.close()
    made.check()
    with pytest.raises(Refused) as refused:
        await made.promoted()
    assert refused.value.code == "not-promotable" and why in refused.value.cause
    made.check()
    await made.open()
    await made.settle()
    assert made.secondary.agreed.number == number
    await made.holds()


@pytest.mark.parametrize(("lie", "why"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_d2_a_record_that_is_not_of_this_log_is_refused(lie: Lie, why: str) -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed()
        history(made)

        def bent(claim: Claim) -> None:
            claim.content = dict(made.script.content)
            lie(claim)

        made.script.point(bent)
        await made.ship()
        await made.settle()
        await stays(made, 2, why)

    on_stage(scenario)


@pytest.mark.parametrize("answer", ["another block", "nothing", "too little", "zeroes"])
def test_d15_a_wrong_answer_is_not_believed(answer: str) -> None:
    """What is asked for whole counts only if the interval digest comes out; until then no moment shows it."""

    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed()
        history(made)
        answers: dict[str, dict[int, bytes | None]] = {
            "another block": {11: content(4321)},
            "nothing": {},
            "too little": {11: b"short"},
            "zeroes": {11: None},
        }
        made.answer = lambda point, blocks: answers[answer]
        made.script.point(omitted)
        await made.ship()
        await made.settle()
        assert made.asked == [[11]]
        sentences = {
            "nothing": "did not send the blocks", "too little": "something that is not a block",
        }  # fmt: skip
        why = sentences.get(answer, "its changes don't have the digest that was stated")
        assert made.secondary.failure is not None and why in made.secondary.failure.cause
        assert made.secondary.agreed.number == 2
        await made.holds()
        made.answer = made.script.whole_at  # another try, with a source that has come to its senses
        await made.crash()
        await made.settle()
        assert made.secondary.agreed.number == 3
        assert made.asked == [[11], [11]]
        await made.lives_on()

    on_stage(scenario)


def test_d15_without_a_source_to_ask_it_waits_and_is_not_promoted() -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed()
        history(made)
        made.script.point(omitted)

        def gone(point: object, blocks: list[int]) -> dict[int, bytes | None]:
            raise ConnectionResetError

        made.answer = gone
        await made.ship()
        await asyncio.sleep(0.2)
        assert made.secondary.failure is None and made.secondary.agreed.number == 2
        await made.holds()
        await made.close()
        with pytest.raises(Refused, match="its source would have to be asked"):
            await made.promoted()
        made.answer = made.script.whole_at
        await made.open()
        await made.settle()
        assert made.secondary.agreed.number == 3
        await made.lives_on()

    on_stage(scenario)


def test_d15_what_was_sent_whole_stands_in_the_logs_own_epoch() -> None:
    """In its header and in the footer of its segment, which is sealed here and read by ``check``."""

    async def scenario(made: Stage) -> None:
        history(made)
        await made.agreed(omitted)
        first = made.secondary.log.appender.segment
        while made.secondary.log.appender.segment is first:
            made.script.whole(60, made.script.write + 100, 8)
            await made.ship()
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


# Nothing is stored that does not continue the log, whole


def corrupted(carried: ReceivedTransfer) -> ReceivedTransfer:
    payload = bytearray(carried.payload)
    payload[5000 % len(payload)] ^= 0x10
    return replace(carried, payload=bytes(payload))


def bent_header(carried: ReceivedTransfer) -> ReceivedTransfer:
    shared_header = bytearray(carried.shared_header)
    shared_header[140] ^= 1  # an offset
    transfer = unpack_shared_header(memoryview(bytes(shared_header)))
    assert transfer is None, "the chain checksum must not hold"
    return replace(
        carried, transfer=replace(carried.transfer, previous=b"?" * 16), shared_header=bytes(shared_header)
    )


def of_another_volume(carried: ReceivedTransfer) -> ReceivedTransfer:
    return replace(carried, transfer=replace(carried.transfer, volume=b"other volume...."))


def of_an_epoch_that_is_over(carried: ReceivedTransfer) -> ReceivedTransfer:
    return replace(carried, transfer=replace(carried.transfer, epoch=0))


def of_the_same_epoch_under_another_reign(carried: ReceivedTransfer) -> ReceivedTransfer:
    return replace(carried, transfer=replace(carried.transfer, reign=b"somebody else..."))


def shortened(carried: ReceivedTransfer) -> ReceivedTransfer:
    return replace(carried, payload=bytes(carried.payload)[:-1])


@pytest.mark.parametrize(
    "bend",
    [corrupted, bent_header, of_another_volume, of_an_epoch_that_is_over,
     of_the_same_epoch_under_another_reign, shortened],
)  # fmt: skip
def test_d8_a_transfer_that_came_otherwise_than_it_left_is_not_stored(
    bend: Callable[[ReceivedTransfer], ReceivedTransfer],
) -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.ship()
        before = made.secondary.end
        sent = made.script.whole(70, 70, 3)
        await made.secondary.room(made.secondary.need([sent]))
        with pytest.raises(Refused):
            made.secondary.keep([bend(sent)])
        assert made.secondary.end == before
        await made.agreed()  # as it left, it is stored
        await made.lives_on()

    on_stage(scenario)


def test_d10_positions_neither_repeat_nor_skip() -> None:
    async def scenario(made: Stage) -> None:
        history(made)
        await made.ship()
        before = made.secondary.end
        last = made.script.sent[-1]
        for wrong in ([last], [made.script.sent[0]], [made.script.whole(70, 1), made.script.whole(71, 2)][1:]):
            await made.secondary.room(made.secondary.need(wrong))
            with pytest.raises(Refused) as refused:
                made.secondary.keep(wrong)
            assert refused.value.code == "log-does-not-follow"
            assert made.secondary.end == before
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


def test_d10_the_same_position_of_another_log_is_not_taken_for_the_next() -> None:
    """Chain checksums tell logs apart that agree on every number."""

    async def scenario(made: Stage) -> None:
        history(made)
        await made.ship()
        before, chain = made.secondary.end, made.script.chain
        made.script.chain = b"x" * 16
        forged = made.script.whole(70, 1)
        await made.secondary.room(made.secondary.need([forged]))
        with pytest.raises(Refused) as refused:
            made.secondary.keep([forged])
        assert refused.value.code == "log-does-not-follow" and made.secondary.end == before
        made.script.sent.pop()
        made.script.position, made.script.chain, made.script.write = before.position, chain, before.write
        made.script.whole(70, 1)
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)
