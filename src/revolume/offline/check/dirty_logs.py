"""The dirty region logs: which blocks changed since a mirror was lost."""

from __future__ import annotations

from contextlib import closing

from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.walk.check_context import CheckContext
from revolume.volume.dirty.region_file import RegionFile
from revolume.volume.metadata import layout
from revolume.volume.metadata.dirty_log import DirtyLog
from revolume.volume.metadata.manifest_state import State


def verify_dirty_logs(directory: Directory, state: State, context: CheckContext) -> None:
    """Verify every one that reaches up to the horizon: an older one says nothing, and goes at the next fold."""
    for dirty in state.dirty:
        if dirty.write >= state.horizon.write:
            problem = _problem(directory, state.volume, dirty)
            if problem:
                context.add_problem(f"{layout.MIRRORS}/{layout.dirty_name(dirty.file)}", problem)


def _problem(directory: Directory, volume: bytes, dirty: DirtyLog) -> str:
    try:
        with closing(directory.child(layout.MIRRORS)) as mirrors:
            opened = mirrors.open(layout.dirty_name(dirty.file), write=False)
        with closing(RegionFile.open(opened, volume, dirty.file)) as file:
            file.verify()
            return "" if file.blocks == dirty.blocks else f"names {file.blocks} blocks, not {dirty.blocks}"
    except FileNotFoundError:
        return f"is missing: mirror {dirty.mirror} must be compared as a whole"
    except Damaged:
        return f"is not what was written: mirror {dirty.mirror} must be compared as a whole"
