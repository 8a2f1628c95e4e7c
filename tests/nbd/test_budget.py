"""Bytes in flight: who waits, who is served, and that nothing is lost."""

from __future__ import annotations

import asyncio
import random

from revolume.nbd.bounds.budget import Account, Budget
from tests.nbd.harness import run


def test_first_come_first_served():
    async def scenario():
        budget = Budget(100)
        one, two = Account(budget, 100), Account(budget, 100)
        assert one.try_take(80)
        large = asyncio.ensure_future(two.take(90))
        await asyncio.sleep(0)
        assert budget.exhausted
        assert not one.try_take(10), "a small one may not overtake"
        small = asyncio.ensure_future(one.take(10))
        one.give(80)
        await large
        await small
        assert budget.used_bytes == 100

    run(scenario)


def test_one_at_its_own_limit_does_not_hold_up_the_others():
    async def scenario():
        budget = Budget(100)
        one, two = Account(budget, 30), Account(budget, 30)
        assert one.try_take(30)
        waiting = asyncio.ensure_future(one.take(10))
        await asyncio.sleep(0)
        await asyncio.wait_for(two.take(20), 60)
        assert not waiting.done()
        one.give(30)
        await waiting
        assert budget.used_bytes == 30

    run(scenario)


def test_whoever_gives_up_waiting_lets_the_next_in():
    async def scenario():
        budget = Budget(100)
        one, two = Account(budget, 100), Account(budget, 100)
        assert one.try_take(50)
        large, small = asyncio.ensure_future(two.take(90)), asyncio.ensure_future(two.take(40))
        await asyncio.sleep(0)
        large.cancel()
        await small
        assert budget.used_bytes == 90

    run(scenario)


def test_a_closed_account_gives_everything_back():
    async def scenario():
        budget = Budget(100)
        one, two = Account(budget, 100), Account(budget, 100)
        assert one.try_take(60)
        one.note_backlog(40)
        waiting = asyncio.ensure_future(two.take(100))
        await asyncio.sleep(0)
        one.close()
        one.give(60)
        one.note_backlog(10)
        await waiting
        assert budget.used_bytes == 100
        two.close()
        assert budget.used_bytes == 0

    run(scenario)


def test_at_random_nothing_is_lost_and_nobody_starves():
    async def scenario():
        chance, budget = random.Random(3), Budget(1000)
        accounts = [Account(budget, 600) for _ in range(5)]

        async def one() -> None:
            account = chance.choice(accounts)
            count = chance.randrange(1, 600)
            task = asyncio.ensure_future(account.take(count))
            if chance.random() < 0.2:
                await asyncio.sleep(0)
                task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                return
            assert budget.used_bytes <= 1000
            assert account.held_bytes <= 600
            await asyncio.sleep(0)
            account.give(count)

        await asyncio.gather(*[one() for _ in range(500)])
        assert budget.used_bytes == 0

    run(scenario)
