"""Blocks written again in place: write, sync, read back from the disk.

The files are opened anew, by name. So a sync that fails here is reported to this descriptor, and does not take the
report away from the one through which the log is written; and nothing depends on who closes what meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from revolume.blocks.geometry import BLOCK
from revolume.host.disk import Directory, File
from revolume.host.work import Work
from revolume.volume.heal.siblings import holds


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Bytes for a place: ``offset`` in bytes within the file, the 4096 bytes of ``content``, and their digest."""

    offset: int
    content: bytes
    digest: int


class Outcome(Enum):
    """What became of a place."""

    WAS_RIGHT = "nothing was written: it was right"
    REWRITTEN = "written, synced, and the disk gives it back"
    WRONG = "the disk does not give back what was written"


async def rewrite(work: Work, directory: Directory, name: str, rewrites: Sequence[Rewrite]) -> list[Outcome]:
    """Put these bytes into a file, durably; what became of each. What is right by now is not written. OSError: the
    disk failed. The caller keeps the places from having another use meanwhile."""
    refuse_others(rewrites)
    file = await work.call(_open, directory, name)
    try:
        wrong = await work.call(_write, file, rewrites)
        if wrong:
            await work.call_sync(file.datasync)
        right = await work.call(_read_back, file, rewrites)
    finally:
        file.close()
    return [
        Outcome.WRONG if not good else Outcome.REWRITTEN if at in wrong else Outcome.WAS_RIGHT
        for at, good in enumerate(right)
    ]


def refuse_others(rewrites: Sequence[Rewrite]) -> None:
    """The last look before anything is written: only what has its digest is."""
    assert all(holds(each.content, each.digest) for each in rewrites)


def _open(directory: Directory, name: str) -> File:
    return directory.open(name)


def _write(file: File, rewrites: Sequence[Rewrite]) -> set[int]:
    wrong = {at for at, each in enumerate(rewrites) if not _is_right(file, each)}
    for at in sorted(wrong):
        file.pwritev([rewrites[at].content], rewrites[at].offset)
    return wrong


def _read_back(file: File, rewrites: Sequence[Rewrite]) -> list[bool]:
    for each in rewrites:
        file.uncache(each.offset, BLOCK)
    return [_is_right(file, each) for each in rewrites]


def _is_right(file: File, each: Rewrite) -> bool:
    found = bytearray(BLOCK)
    try:
        return file.preadv([found], each.offset) == BLOCK and holds(found, each.digest)
    except OSError:  # a sector that can't be read is what a rewrite may cure
        return False
