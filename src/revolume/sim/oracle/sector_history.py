"""What clients saw, sector by sector: each is a register, and each value in it is unique.

A write lies between its first request and its answer; one that was never answered has no end. A value may be
read if its write had begun, and no other write lies wholly between it and the read. After a crash a sector may
hold any value that no *promised* write has overwritten; which writes those are is for the world to say
(``Promised``), because it knows what was flushed, and which machines still have what they were sent. From then
on what was found is what there is: a value that is seen once does not change by itself.

Zeroes are not unique: they stand for every write of zeroes, and for the beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from revolume.sim.oracle.sector_payload import numbers_of

NEVER = 1 << 62


@dataclass(slots=True, eq=False)
class Written:
    """A change, from its first request (``start``) to its answer (``end``), in events; also in virtual time."""

    first: int
    count: int
    value: int
    start: int
    start_ns: int
    end: int = NEVER
    durable: bool = False
    holders: tuple[str, ...] = ()


Promised = Callable[[Written], bool]


@dataclass(slots=True)
class SectorHistory:
    """What clients wrote to each sector, when it was answered, and what each read found."""

    sectors: int
    wrong: list[str] = field(default_factory=list)
    event: int = 0
    _lists: list[list[Written]] = field(default_factory=list)
    _open: dict[Written, None] = field(default_factory=dict)
    _answered: list[Written] = field(default_factory=list)

    def __post_init__(self) -> None:
        beginning = Written(0, self.sectors, 0, -1, 0, -1, True)
        self._lists = [[beginning] for _ in range(self.sectors)]

    def tick(self) -> int:
        """The next event."""
        self.event += 1
        return self.event

    # Changes

    def begin(self, first: int, count: int, value: int, now_ns: int) -> Written:
        """A request is made for the first time."""
        written = Written(first, count, value, self.tick(), now_ns)
        for sector in range(first, first + count):
            self._lists[sector].append(written)
        self._open[written] = None
        return written

    def answered(self, written: Written, durable: bool, holders: tuple[str, ...]) -> None:
        """Its answer has come."""
        written.end = self.tick()
        written.durable = durable
        written.holders = holders
        self._open.pop(written, None)
        if not durable:
            self._answered.append(written)

    def given_up(self, written: Written) -> None:
        """It has not been answered, and nobody asks for it any more."""
        self._open.pop(written, None)

    def flushed(self, since: int) -> None:
        """A flush that was asked for at event ``since`` is answered: what had been answered before is durable."""
        left = []
        for written in self._answered:
            if written.end < since:
                written.durable = True
            else:
                left.append(written)
        self._answered = left

    def known(self) -> list[Written]:
        """Every write that still matters."""
        return list({id(written): written for found in self._lists for written in found}.values())

    # Judging

    def read(self, first: int, data: bytes | bytearray, start: int, who: str) -> None:
        """What a read that began at event ``start`` brought, now."""
        numbers, strange = numbers_of(first, data)
        for sector in strange:
            self.wrong.append(f"{who}: sector {sector} is nobody's")
        for sector, number in enumerate(numbers, first):
            if not self._readable(sector, number, start):
                self.wrong.append(f"{who}: sector {sector} reads as {number}; {self._known(sector)}")

    def _readable(self, sector: int, number: int, start: int) -> bool:
        found = self._lists[sector]
        if found[-1].value == number:
            return True
        begun = -1
        for written in reversed(found):  # as _possible; a hot sector has thousands, so nothing is called for each
            if written.value == number and written.end >= begun:
                return True
            if begun < 0 and written.end < start:
                begun = written.start
        return False

    def recovered(self, data: bytes | bytearray, promised: Promised, who: str) -> None:
        """What is there after a crash; then that is what there is."""
        numbers, strange = numbers_of(0, data[: self.sectors * 512])
        kept: dict[int, bool] = {}

        def certain(w: Written) -> bool:
            if id(w) not in kept:
                kept[id(w)] = promised(w)
            return kept[id(w)]

        for sector in strange:
            self.wrong.append(f"{who}: sector {sector} is nobody's")
        for sector, number in enumerate(numbers):
            if not _possible(self._lists[sector], number, certain):
                self.wrong.append(f"{who}: sector {sector} holds {number}; {self._known(sector)}")
        self._restart(numbers)

    def _restart(self, numbers: list[int]) -> None:
        now = self.tick()
        self._answered.clear()
        for sector, number in enumerate(numbers):
            still = [w for w in self._lists[sector] if w in self._open]
            self._lists[sector] = [Written(sector, 1, number, now, 0, now, True), *still]

    def _known(self, sector: int) -> str:
        def told(w: Written) -> str:
            end = "…" if w.end == NEVER else w.end
            return f"{w.value}@{w.start}-{end}{'!' if w.durable else ''}{''.join(w.holders)}"

        return f"known: {' '.join(map(told, self._lists[sector][-8:]))}"


def _possible(found: list[Written], number: int, certain: Promised) -> bool:
    """Whether a sector may be what write ``number`` made of it: no certain write began behind that one's end. They
    are in the order of their beginnings, so only later ones count, and of the certain ones the last."""
    begun = -1
    for written in reversed(found):
        if written.value == number and written.end >= begun:
            return True
        if begun < 0 and certain(written):
            begun = written.start
    return False
