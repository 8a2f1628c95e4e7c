"""What a clone's rescue has left open: blocks that lie in its parent are read there, into the rescue file."""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np
import numpy.typing as npt

from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.host.disk import Directory, File
from revolume.volume.image.origin_image import OriginBlocks
from revolume.volume.metadata import layout

U64 = npt.NDArray[np.uint64]
RUN_BLOCKS = 256


def fill_rescued(directory: Directory, number: int, origin: OriginBlocks, elsewhere: tuple[U64, U64]) -> int:
    """Put these blocks at these places of the rescue file of this number, in a thread; how many could not be read:
    their places hold zeroes, and their digests say what they should be. ``sync_rescued`` follows. OSError: the
    disk is full, or fails."""
    with ExitStack() as held:
        file = _opened(directory, number, held)
        return sum(_filled(file, origin, *run) for run in _runs(*elsewhere))


def _opened(directory: Directory, number: int, held: ExitStack) -> File:
    rescued = held.enter_context(closing(directory.child(layout.RESCUE)))
    return held.enter_context(closing(rescued.open(layout.rescue_file_name(number))))


def sync_rescued(directory: Directory, number: int) -> None:
    """Make the content of that file durable."""
    with ExitStack() as held:
        _opened(directory, number, held).datasync()


def _filled(file: File, origin: OriginBlocks, first: int, place: int, count: int) -> int:
    view = memoryview(bytearray(count * BLOCK))
    unread = 0
    if not origin.read(first, view):
        for at in range(count):
            part = view[at * BLOCK : (at + 1) * BLOCK]
            if not origin.read(first + at, part):
                part[:] = bytes(BLOCK)
                unread += 1
    file.pwritev([view], place * BLOCK)
    return unread


def _runs(blocks: U64, places: U64) -> list[tuple[int, int, int]]:
    """(first block, its place, count): blocks and places that ascend together."""
    starts, counts, firsts = contiguous(blocks)
    runs: list[tuple[int, int, int]] = []
    for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
        _, lengths, begins = contiguous(places[start : start + count])
        at = first
        for length, begin in zip(lengths.tolist(), begins.tolist(), strict=True):
            steps = range(0, length, RUN_BLOCKS)
            runs += [(at + step, begin + step, min(RUN_BLOCKS, length - step)) for step in steps]
            at += length
    return runs
