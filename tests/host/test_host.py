"""The real host as a whole, and its smallest seams."""

from __future__ import annotations

import asyncio
import time

from revolume.host import Host, real_host


def test_the_clocks_are_the_kernels() -> None:
    async def main() -> None:
        host: Host = real_host()
        assert abs(host.clock.wall_ns() - time.time_ns()) < 10**9
        before = host.clock.monotonic_ns()
        await host.clock.sleep(0.01)
        assert host.clock.monotonic_ns() - before >= 9_000_000
        await host.work.close()

    asyncio.run(main())


def test_tokens_differ() -> None:
    token = real_host().entropy.token
    assert len(token(16)) == 16
    assert token(16) != token(16)
