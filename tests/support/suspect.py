"""Marks put into a stopped copy's directory, as a comparison would have sent them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from revolume.host.real.disk import RealDisk
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.suspect_edits import pack_suspect
from revolume.volume.suspect.marks import Marks, write_marks
from revolume.volume.suspect.suspect_history import file_of
from revolume.volume.suspect.suspect_rows import ROW

CAUSE = "a comparison with its primary found that they differ"


def plant_marks(path: Path, *rows: tuple[int, int, int, int]) -> None:
    """(first block, blocks, since, until) of each."""
    with closing(RealDisk().open(str(path))) as directory:
        manifest = Manifest.opened(directory)
        manifest.renew()
        state = manifest.state
        _, reign = state.epoch_at(state.durable.position)
        marks = Marks(reign, 1, 0, CAUSE, np.array(list(rows), ROW))
        write_marks(directory, state.volume, state.suspect.following, marks)
        files = (*state.suspect.files, file_of(state.suspect.following, marks))
        edit = EditKind.SUSPECT, pack_suspect(files, state.suspect.following + 1)
        manifest.record(edit)
        manifest.close_clean()
