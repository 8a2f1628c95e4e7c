"""How large an image may be: no larger than the largest file of its file system (on ext4 just below 16 TiB).

A volume may be larger than its disk, since the image is sparse; but an image that can't have the volume's size
ends all folding, and with it, once the log is full, all writing. So it is tried before a size becomes the
volume's, which it stays for good.
"""

from __future__ import annotations

import errno
from typing import Final

from revolume.errors import NoSpace, RevolumeError, UsageError
from revolume.host.disk import Directory, File, out_of_room
from revolume.volume.context import VolumeContext
from revolume.volume.metadata import layout

_TOO_LARGE: Final = (errno.EFBIG, errno.EINVAL)


def stretch(file: File, size: int, path: str) -> None:
    """Give a file in ``path`` this size. UsageError: no file there can have it."""
    try:
        file.truncate(size)
    except OSError as error:
        if error.errno not in _TOO_LARGE:
            raise
        raise UsageError(
            "size-too-large",
            f"{path} is on a file system that has no files of {size} bytes.",
            "Choose a smaller size, or a file system with larger files (xfs).",
        ) from error


async def refuse_too_large(context: VolumeContext, size: int) -> None:
    """UsageError unless the image may become so large. NoSpace, RevolumeError: that can't be tried."""
    name = layout.view_map_name(context.host.entropy.token(8).hex())  # what a crash leaves of it goes as a view's
    try:
        await context.host.work.call(_try, context.maps_directory, name, size, context.directory.path)
    except OSError as error:
        kind = NoSpace if out_of_room(error) else RevolumeError
        cause = f"Whether {context.name} may have {size} bytes can't be tried: {error.strerror}."
        raise kind("size-not-tried", cause, "Look at the disk, then try again; nothing has changed.") from error


def _try(directory: Directory, name: str, size: int, path: str) -> None:
    file = directory.open(name, create=True)
    try:
        stretch(file, size, path)
    finally:
        file.close()
        directory.remove(name)
