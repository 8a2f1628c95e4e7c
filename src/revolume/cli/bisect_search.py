"""Searching a history for the last good moment: pure order of probing, the probe is given.

A history is not sorted into good and then bad: before a file system was made on it a volume is bad too,
and so it is for as long as the file system is mounted, to a program that will not replay its journal. So
the search comes from the end and gallops back (four steps of 1, four of 2, four of 4, …): a good stretch
is not leapt over unless it is shorter than a quarter of its distance from the end. If nothing was good it
looks in the middle of the largest stretches not looked at yet, until it has seen all or used its tries.
Between a good candidate and the nearest bad one after it, halving finds two neighbours, the first good and
the second bad. That is a certain statement about these two; that nothing later is good again holds as far
as the search has looked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise

Probe = Callable[[int], Awaitable[bool | None]]  # None: there is nothing of this number
Exists = Callable[[int], Awaitable[bool]]


async def bracket(count: int, tries_max: int, probe: Probe) -> tuple[int | None, int | None]:
    """Indexes (good, bad) with good < bad, of ``count`` candidates, oldest first.

    (last, None): even the last is good. (None, _): nothing good was found.
    """
    bad: list[int] = []
    for tries, index in enumerate(_order(count)):
        if tries >= tries_max:
            break
        good = await probe(index)
        if good:
            after = [other for other in bad if other > index]
            return index, min(after, default=None)
        if good is not None:
            bad.append(index)
    return None, min(bad, default=None)


async def narrow(good: int, bad: int, probe: Probe, exists: Exists | None = None) -> tuple[int, int]:
    """Neighbours (good, bad) between a good and a bad number, among those that name something."""
    while bad - good > 1:
        middle = (good + bad) // 2
        found = await probe(middle)
        if found is None:
            assert exists is not None
            beside = await _beside_gap(good, middle, bad, exists)
            if beside is None:
                break
            middle, found = beside, await probe(beside)
        if found:
            good = middle
        else:
            bad = middle
    return good, bad


async def _beside_gap(low: int, missing: int, high: int, exists: Exists) -> int | None:
    """A number that exists strictly between ``low`` and ``high``, at an edge of the gap around ``missing``."""
    below = await _edge(low, missing, exists)
    if below != low:
        return below
    above = await _edge(high, missing, exists)
    return above if above != high else None


async def _edge(there: int, missing: int, exists: Exists) -> int:
    """The number that exists beside the gap, coming from one that does."""
    while abs(missing - there) > 1:
        middle = (there + missing) // 2
        if await exists(middle):
            there = middle
        else:
            missing = middle
    return there


def _order(count: int) -> Iterator[int]:
    """Every index below ``count`` once: galloping from the end, then halving what is between."""
    gallop = list(_gallop(count))
    yield from gallop
    stretches = [(low, high) for high, low in pairwise(gallop)]
    while stretches:
        narrower = []
        for low, high in stretches:
            if high - low > 1:
                middle = (low + high) // 2
                yield middle
                narrower += [(middle, high), (low, middle)]
        stretches = narrower


def _gallop(count: int) -> Iterator[int]:
    index = count - 1
    for stride in _strides():
        if index <= 0:
            break
        yield index
        index -= stride
    if count:
        yield 0


def _strides() -> Iterator[int]:
    stride = 1
    while True:
        yield from (stride,) * 4
        stride *= 2
