"""What the offline tools of a volume answer: plain values, made once, printed by any face.

``check`` and ``salvage`` read a stopped volume's directory and say what they found. A problem names a
place a person can look at (file and offset, block, point) and what is wrong there, in one sentence; a
report is good only if ``problems`` is empty and the copy is a whole one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from revolume.blocks.numbers import WriteNumber
from revolume.volume.state.status import SuspectStatus

# (first block, count), ascending
Extents = tuple[tuple[int, int], ...]
# progress(stage, done, total): what is being done now, and how far, in bytes. Called from any thread.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Problem:
    """A violation that the verifier found: where, and what is wrong there, in one sentence."""

    where: str  # "log/0000000012.seg at 1310720", "image block 77", "cp42"
    what: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of a verification."""

    problems: tuple[Problem, ...]
    segments: int  # log segments read
    transfers: int  # transfers whose chain, header and payload digests were verified
    blocks: int  # blocks whose content was compared with its digest, in log and image
    points: int  # consistency points whose interval digest and volume root were verified
    moments: int  # snapshots and other named moments that resolve
    bytes_read: int
    suspect: tuple[SuspectStatus, ...]  # periods in which this copy is not what the volume was, as marks say
    incomplete: str  # a mirror's base is under way: how much of it is here, in one sentence; else empty
    elsewhere: str = ""  # of a clone: what lies in its parent and was not looked at, in one sentence

    @property
    def good(self) -> bool:
        return not self.problems and not self.incomplete


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """The result of a salvage."""

    problems: tuple[Problem, ...]  # what could not be, or is doubtful
    size: int  # bytes of the volume, as far as the records tell
    write: WriteNumber  # the last write that is in the result
    transfers: int
    blocks: int  # blocks written to the result
    lost: Extents  # known to have held data that no record with a right digest holds any more
    unproved: Extents  # taken as they were found: their digests are lost

    @property
    def good(self) -> bool:
        return not self.problems and not self.lost and not self.unproved
