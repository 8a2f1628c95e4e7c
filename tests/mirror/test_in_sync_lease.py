"""The in-sync lease at both ends, by clocks of their own."""

from __future__ import annotations

import asyncio

from revolume.blocks.numbers import WriteNumber
from revolume.host.clock import Elapsed
from revolume.mirror.target.in_sync_lease import InSyncLease
from revolume.sim.kernel.clock import SimClock
from revolume.volume.members.mirror import Mirror, with_margin
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState
from revolume.volume.metadata.on_lost import LEASE_MS_MAX, OnLost

S = 10**9


class _Loop:
    """What a simulated clock goes by."""

    now_ns = 0


def clock() -> tuple[SimClock, _Loop]:
    loop = _Loop()
    return SimClock(loop), loop  # type: ignore[arg-type]


def test_time_is_the_larger_of_what_two_clocks_say() -> None:
    time, loop = clock()
    elapsed = Elapsed(time)
    loop.now_ns = 3 * S
    assert elapsed.ns == 3 * S
    time.paused_ns = 2 * S  # the machine stood still, and its wall clock was set right
    assert (time.boot_ns(), elapsed.ns) == (S, 3 * S)
    time.offset_ns = -50 * S  # set back
    assert elapsed.ns == S
    time.offset_ns = 50 * S
    assert elapsed.ns == 53 * S


def test_it_counts_from_the_question_and_only_an_answer_to_one_counts() -> None:
    time, loop = clock()
    lease = InSyncLease(time)
    assert lease.left_s == 0
    first = lease.ask()
    loop.now_ns = 4 * S  # the answer was under way
    lease.granted(first, 10_000)
    assert lease.left_s == 6
    lease.granted(first, 10_000)
    lease.granted(99, 10_000)
    loop.now_ns = 9 * S
    assert lease.left_s == 1
    loop.now_ns = 10 * S
    assert lease.left_s == 0
    lease.granted(lease.ask(), 10_000)
    assert lease.left_s == 10
    lease.drop()
    assert lease.left_s == 0


def test_a_question_that_is_answered_much_later_is_forgotten() -> None:
    time, _ = clock()
    lease = InSyncLease(time)
    first = lease.ask()
    for _ in range(8):
        lease.ask()
    lease.granted(first, 10_000)
    assert lease.left_s == 0


def mirror(on_lost: OnLost, *, joined: bool = True) -> Mirror:
    return Mirror(MirrorState("m", MirrorMode.SYNC, joined, 1, WriteNumber(1), on_lost=on_lost))


def test_who_may_have_one() -> None:
    policy = OnLost(True, 20_000)
    assert policy.lease_ms == 10_000 and OnLost(False).lease_ms == 0
    assert OnLost(True, 3_600_000).lease_ms == LEASE_MS_MAX
    assert mirror(policy).may_have_lease
    assert not mirror(OnLost(False)).may_have_lease
    assert not mirror(policy, joined=False).may_have_lease
    assert not mirror(OnLost(True, 20_000, True, 5)).may_have_lease, "detached"
    late = mirror(policy)
    late.lease.late_ns = 9 * S  # it would hold one beyond its deadline
    assert not late.may_have_lease
    stopped = mirror(policy)
    stopped.lease.stopped = True
    assert not stopped.may_have_lease


def test_the_source_waits_longer_than_the_mirror_holds_it() -> None:
    class Waits(SimClock):
        async def sleep(self, seconds: float) -> None:
            loop.now_ns += round(seconds * S)

    loop = _Loop()
    time = Waits(loop)  # type: ignore[arg-type]
    lease = mirror(OnLost(True, 20_000)).lease
    asyncio.run(lease.ran_out(time))
    assert loop.now_ns == 0, "nothing was granted"
    lease.granted(time.boot_ns(), 10_000)
    asyncio.run(lease.ran_out(time))
    assert loop.now_ns == with_margin(10_000) * 10**6 > 11 * S
