"""The files of marks: what they say is reported, and that they can be read."""

from __future__ import annotations

from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.walk.check_context import CheckContext
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import State
from revolume.volume.suspect.marks import read_marks
from revolume.volume.suspect.periods import suspect_statuses


def verify_marks(directory: Directory, state: State, context: CheckContext) -> None:
    """Verify every file that the manifest names. That history is suspect is no problem of the files."""
    for file in state.suspect.files:
        try:
            read_marks(directory, state.volume, file.number)
        except Damaged:
            context.add_problem(f"{layout.SUSPECT}/{layout.marks_name(file.number)}", "is not what was written")
    context.suspect = suspect_statuses(context.periods)
