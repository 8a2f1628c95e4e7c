"""What becomes of a copy's marks when it takes back what it wrote behind a common point.

Behind that point write numbers come again, in another opening, and say nothing of the old ones: the marks of what
was taken back go with the branch. What had been repaired behind the point is not repaired any more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from revolume.blocks.numbers import WriteNumber
from revolume.host.disk import Directory
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.suspect_edits import MarksFile, pack_suspect
from revolume.volume.suspect.marks import Marks, write_marks
from revolume.volume.suspect.suspect_history import file_of, load_marks
from revolume.volume.suspect.suspect_rows import reopened_at


def marks_taken_back(
    directory: Directory, state: State, common: WriteNumber, branch: str
) -> list[tuple[EditKind, bytes]]:
    """The edit that goes with the one by which a copy goes back to the write ``common``; its files are durable.
    Nothing where there are no marks. ``branch``: of what it wrote alone; "": it wrote nothing. Waits for the
    disk."""
    number, files = state.suspect.following, list[MarksFile]()
    for file, marks in zip(state.suspect.files, load_marks(directory, state), strict=True):
        kept = _both(marks, common, branch)
        if len(kept) == 1 and kept[0] is marks:
            files.append(file)
            continue
        for each in kept:
            files.append(file_of(number, each))
            write_marks(directory, state.volume, number, each)
            number += 1
    return [(EditKind.SUSPECT, pack_suspect(tuple(files), number))] if files or state.suspect.files else []


def _both(marks: Marks, common: WriteNumber, branch: str) -> list[Marks]:
    """What they say of the volume, and of the branch; themselves where nothing changes."""
    behind = marks.rows[marks.rows["until"] > np.uint64(common)]
    if marks.branch or not len(behind):
        return [marks]
    found = [replace(marks, rows=reopened_at(marks.rows, common))]
    if branch:
        found.append(replace(marks, rows=behind, branch=branch))
    return [each for each in found if len(each.rows)]
