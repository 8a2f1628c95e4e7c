"""Who may be asked for the right bytes: the other ends of the mirror links that are open at this moment.

A primary has its mirrors, a mirror its source. Each session attaches itself here while it can be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from revolume.blocks.digest import fragment_digest
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Position
from revolume.volume.heal.transfer_slice import WantedSlice

WANTED_MAX = 256
"""Blocks that a sibling is asked for at once."""
Contents = dict[tuple[int, int], bytes]
"""Block and digest -> content."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A block as a sibling is asked for it. ``position`` and ``index``: the transfer in which it travelled, and
    which of its whole blocks it is; position 0: not known, so any version of the block that has the digest."""

    block: int
    digest: int
    position: Position = Position(0)
    index: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Block and digest."""
        return self.block, self.digest


class Sibling(Protocol):
    """Another copy of the volume, over a link."""

    @property
    def name(self) -> str:
        """For sentences."""

    async def ask(self, wanted: Sequence[Wanted]) -> Contents | None:
        """Those of the wanted blocks, at most WANTED_MAX, that it has; None: it did not answer, and may do so
        later. It is not believed: whoever takes one looks at its digest. Whatever goes wrong, nothing is raised,
        and nothing is waited for without end."""

    async def ask_slice(self, wanted: WantedSlice) -> bytes | None:
        """What it has there of a transfer, fewer bytes where the transfer ends, none where it does not have it;
        None: it did not answer. It is not believed either."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The content of a block, which has its digest, and the name of the sibling that it came from."""

    content: bytes
    source: str


class Siblings:
    """Those of one open volume. ``on_attached`` is called when one more can be asked."""

    def __init__(self, on_attached: Callable[[], None] = lambda: None) -> None:
        self._siblings: list[Sibling] = []
        self._on_attached = on_attached
        self.generation = 0
        """Changes when there is somebody new to ask."""

    def __bool__(self) -> bool:
        return bool(self._siblings)

    def attach(self, sibling: Sibling) -> Callable[[], None]:
        """It can be asked, until the function that is returned is called."""
        self._siblings.append(sibling)
        self.generation += 1
        self._on_attached()

        def detach() -> None:
            if sibling in self._siblings:
                self._siblings.remove(sibling)

        return detach

    def attached(self) -> tuple[Sibling, ...]:
        """Those that can be asked now."""
        return tuple(self._siblings)

    async def fetch(self, wanted: Sequence[Wanted]) -> tuple[dict[tuple[int, int], Fetched], bool]:
        """As many of these as any sibling has, by block and digest; and whether all siblings have answered."""
        found: dict[tuple[int, int], Fetched] = {}
        answered = True
        for sibling in list(self._siblings):
            missing = [each for each in wanted if each.key not in found]
            for at in range(0, len(missing), WANTED_MAX):
                part = missing[at : at + WANTED_MAX]
                contents = await sibling.ask(part)
                if contents is None:
                    answered = False
                    break
                found.update({key: Fetched(content, sibling.name) for key, content in genuine(part, contents)})
        return found, answered


def genuine(wanted: Sequence[Wanted], contents: Contents) -> list[tuple[tuple[int, int], bytes]]:
    """Those of the contents that were wanted and have the digest that was stated when the block was written."""
    return [
        (each.key, content)
        for each in wanted
        if (content := contents.get(each.key)) is not None and holds(content, each.digest)
    ]


def holds(content: bytes | bytearray | memoryview, digest: int) -> bool:
    """Whether this is the whole block that has the digest."""
    return len(content) == BLOCK and fragment_digest(content) == digest
