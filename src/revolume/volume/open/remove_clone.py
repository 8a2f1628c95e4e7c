"""Removing a clone's directory: its manifest first, so that what a crash leaves is no volume."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Final

from revolume.host.disk import Directory
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest import NAMES

_FOLDERS: Final = (
    layout.LOG, layout.MAPS, layout.RESCUE, layout.COMPARE, layout.BRANCHES, layout.MIRRORS, layout.JUMP,
    layout.SUSPECT, layout.ORIGIN, layout.CLONES,
)  # fmt: skip
_FILES: Final = (
    layout.RESERVE, layout.DISCARDED, layout.PROOFS, f"{layout.PROOFS}.new", layout.CONTROL_SOCKET,
    layout.NBD_SOCKET, layout.SUMS, layout.IMAGE,
)  # fmt: skip


def remove_clone(directory: Directory) -> None:
    """Remove everything of a volume that lies in ``directory``, which stays, empty but for what is not a volume's.
    Idempotent. OSError: the disk fails, or somebody has put other things into its folders."""
    for name in (*NAMES, *(f"{name}.new" for name in NAMES)):
        _removed(directory, name)
    directory.sync()
    for name in _FOLDERS:
        if directory.exists(name):
            with closing(directory.child(name)) as folder:
                for each in folder.names():
                    folder.remove(each)
            directory.remove_child(name)
    for name in (*_FILES, *(name for name in directory.names() if name.startswith(layout.PAGES))):
        _removed(directory, name)
    directory.sync()


def _removed(directory: Directory, name: str) -> None:
    with suppress(FileNotFoundError):
        directory.remove(name)
