"""What a copy durably knows of its own truth: its files of marks, and since when it differs from its source.

SUSPECT (79) states all files
  0  Q   numbers below this have been given out
  8      rows: Q number of the file, Q the first write that is suspect, Q the first behind it that is not, Q rows
FINDING (82); an empty body: there is none, or all that was before it has gone
  0  Q   point at which the copy's volume root was first found to differ from its source's     8 Q its write
 16  Q   point at which it was proved to be equal again, 0: not yet
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from revolume.blocks.numbers import WriteNumber

SUSPECT: Final = 79
FINDING: Final = 82
_NEXT: Final = struct.Struct("<Q")
_FILE: Final = struct.Struct("<QQQQ")
_FINDING: Final = struct.Struct("<QQQ")


@dataclass(frozen=True, slots=True)
class MarksFile:
    """A file in ``suspect/``. Some block is suspect at moments from write ``since`` on, none any more from
    ``until`` on: what is known of it where the file itself is damaged."""

    number: int
    since: WriteNumber
    until: WriteNumber
    rows: int


@dataclass(frozen=True, slots=True)
class Finding:
    """At ``point``, which ends with ``write``, the copy's volume root was not the one that its source states, for
    the first time. ``equal``: the point at which a comparison has proved it right again; 0: none has."""

    point: int
    write: WriteNumber
    equal: int = 0


@dataclass(frozen=True, slots=True)
class SuspectRecord:
    """``files``: of marks, oldest first. ``following``: numbers of files below have been given out. ``finding``:
    None where no root ever differed, or the log behind it has gone."""

    files: tuple[MarksFile, ...] = ()
    following: int = 1
    finding: Finding | None = None

    @property
    def differs_since(self) -> int:
        """The point since which it differs from its source in blocks that nobody knows yet; 0: it does not."""
        return self.finding.point if self.finding is not None and not self.finding.equal else 0

    def unproved(self, point: int) -> bool:
        """Whether the root that the record of this point states need not be that of this copy."""
        found = self.finding
        return found is not None and found.point <= point and (not found.equal or point <= found.equal)


NOTHING_SUSPECT: Final = SuspectRecord()


def pack_suspect(files: tuple[MarksFile, ...], following: int) -> bytes:
    """SUSPECT. ``following``: numbers below have been given out."""
    rows = (_FILE.pack(file.number, file.since, file.until, file.rows) for file in files)
    return _NEXT.pack(following) + b"".join(rows)


def pack_finding(finding: Finding | None) -> bytes:
    """FINDING."""
    return b"" if finding is None else _FINDING.pack(finding.point, finding.write, finding.equal)


def suspected(record: SuspectRecord, kind: int, body: bytes) -> SuspectRecord:
    """The record after SUSPECT or FINDING. struct.error: it is not whole."""
    if kind == FINDING:
        return replace(record, finding=Finding(*_FINDING.unpack(body)) if body else None)
    (following,) = _NEXT.unpack_from(body)
    files = tuple(
        MarksFile(number, WriteNumber(since), WriteNumber(until), rows)
        for number, since, until, rows in _FILE.iter_unpack(body[_NEXT.size :])
    )
    return replace(record, files=files, following=following)


def suspect_edits(record: SuspectRecord) -> Iterator[tuple[int, bytes]]:
    """The whole record as edits, by their numbers."""
    if record.files:
        yield SUSPECT, pack_suspect(record.files, record.following)
    if record.finding is not None:
        yield FINDING, pack_finding(record.finding)
