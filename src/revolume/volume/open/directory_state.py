"""What a directory holds before anything is opened in it: a volume, nothing, or something else."""

from __future__ import annotations

from revolume.errors import Refused, RevolumeError
from revolume.host.disk import Directory, Disk
from revolume.volume.jump.landing import after_landing
from revolume.volume.metadata.manifest import NAMES, load
from revolume.volume.metadata.manifest_state import State
from revolume.volume.open.create import OURS, refuse_remains


def holds_volume(disk: Disk, path: str) -> bool:
    """Whether a manifest lies in the directory, readable or not. False also where there is no directory."""
    try:
        directory = disk.open(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return any(directory.exists(name) for name in NAMES)
    finally:
        directory.close()


def stated(disk: Disk, path: str) -> State:
    """What the manifest in ``path`` says, read without the directory's lock; a jump that was flipped counts as
    done. NotFound: there is none; Damaged; FileNotFoundError, NotADirectoryError: there is no directory."""
    directory = disk.open(path)
    try:
        return after_landing(load(directory).state)
    finally:
        directory.close()


def claim_empty(disk: Disk, path: str) -> Directory:
    """The new or empty directory ``path``, locked; the caller closes it. Refused: it is no directory, it holds
    something else, or another process has it."""
    try:
        directory = disk.open(path, create=True)
    except (FileExistsError, NotADirectoryError):
        raise Refused("not-a-directory", f"{path} is not a directory.", "Name a directory.") from None
    try:
        directory.lock()
        strange = sorted(set(directory.names()) - OURS)
        if strange:
            raise Refused(
                "dir-not-empty", f"{path} holds other things ({strange[0]}) and no volume.",
                "Name an empty or a new directory.",
            )  # fmt: skip
        refuse_remains(directory)
    except BlockingIOError:
        directory.close()
        raise Refused("dir-in-use", f"{path} is in use by another process.", "Stop that one first.") from None
    except RevolumeError:
        directory.close()
        raise
    return directory
