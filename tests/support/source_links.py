"""Sessions with a mirror's source that stand in for a link: one that answers for blocks, one that only listens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from revolume.chain.point import Point
from revolume.volume.members.source_link import NoSource

Fetch = Callable[[Point, list[int]], Awaitable[dict[int, bytes | None]]]


class Asked(NoSource):
    """``fetch`` is asked for blocks."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    async def fetch_blocks(self, point: Point, blocks: list[int]) -> dict[int, bytes | None]:
        return await self._fetch(point, blocks)


class Follower(NoSource):
    """``told``: each durable position that it was told."""

    def __init__(self, told: list[int]) -> None:
        self._told = told

    def on_durable(self, position: int) -> None:
        self._told.append(position)
