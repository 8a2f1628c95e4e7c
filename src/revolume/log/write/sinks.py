"""Who takes note of what the writer has appended: the live map, and the buffer of partially modified blocks."""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Takes note of what was written: the live map. Notes of whole blocks are appended to the lists, one of each
    for a write: first block, number of blocks, location of the first, step from location to location, and a digest
    for every block."""

    first: list[int]
    count: list[int]
    word: list[int]
    step: list[int]
    digest: list[int]

    def absorb(self) -> None: ...

    def put_range(self, start: int, end: int, word: int) -> None: ...

    def put_partials(self, blocks: dict[int, int]) -> None: ...


class Fragments(Protocol):
    """Holds the content of partially modified blocks."""

    def __len__(self) -> int: ...

    def write_all(self, pieces: list[tuple[int, int, bytes, int]]) -> None: ...

    def overwritten(self, first: int, count: int) -> None: ...
