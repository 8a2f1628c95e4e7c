"""The session with a mirror's source, as the copy uses it: told how far the copy is, asked for blocks."""

from __future__ import annotations

from typing import Protocol

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.errors import RevolumeError


class SourceLink(Protocol):
    """One session; the copy has at most one at a time."""

    def on_durable(self, position: Position) -> None:
        """Everything up to there survives a power cut here."""

    def on_agreed(self, point: Point) -> None:
        """The copy stands at this point now, durably."""

    def on_refused(self, error: RevolumeError) -> None:
        """A record of the source is refused; the copy takes no more points."""

    async def fetch_blocks(self, point: Point, blocks: list[int]) -> dict[int, bytes | None]:
        """The content of these blocks at a point; None: zeroes. ConnectionError: the session is over."""


class NoSource:
    """There is no session now."""

    def on_durable(self, position: Position) -> None:
        """Nobody is told."""

    def on_agreed(self, point: Point) -> None:
        """Nobody is told."""

    def on_refused(self, error: RevolumeError) -> None:
        """Nobody is told."""

    async def fetch_blocks(self, point: Point, blocks: list[int]) -> dict[int, bytes | None]:
        """ConnectionError."""
        raise ConnectionError("there is no source to ask")
