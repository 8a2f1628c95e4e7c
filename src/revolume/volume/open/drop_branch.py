"""A branch of a volume that is not open is given up: an edit of its manifest, then its files."""

from __future__ import annotations

from contextlib import closing

from revolume.host import Host
from revolume.volume.branches.branch_files import sweep_branches
from revolume.volume.branches.names import branch_named
from revolume.volume.members.offline_orders import IN_USE, Edit, edited
from revolume.volume.metadata.directory_lock import locked
from revolume.volume.metadata.manifest import load
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import State


def drop_branch_stopped(host: Host, path: str, name: str) -> None:
    """Give the branch up, durably, and its room. NotFound: there is none of that name."""

    def dropped(state: State) -> Edit:
        return EditKind.DROP_BRANCH, branch_named(state, name).name.encode()

    with closing(locked(host, path, IN_USE)) as directory:
        edited(directory, dropped)
        sweep_branches(directory, load(directory).state.branches)
