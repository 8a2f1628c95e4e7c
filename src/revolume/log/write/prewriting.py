"""Segment files made before they are used. Every function here waits for the disk: in a thread.

Two ways to promise room. ``allocate_files`` has the file system set the blocks aside, which costs almost nothing;
they read as zeroes until they are written. ``write_file`` writes zeroes as well, so that a later sync of a small
write finds its block written before and changes no metadata: half the latency, paid for with a second write of
every byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from revolume.host.disk import Directory, File
from revolume.log.segment import segment_name


def allocate_files(directory: Directory, indexes: Sequence[int], size: int) -> None:
    """New segment files with room for ``size`` bytes each, durable under their names. OSError: none was made."""
    made: list[int] = []
    files: list[File] = []
    try:
        for index in indexes:
            file = directory.open(segment_name(index), create=True)
            made.append(index)
            files.append(file)
            file.allocate(0, size)
        for file in files:
            file.datasync()
        directory.sync()
    except OSError:
        for index in made:
            directory.remove(segment_name(index))
        raise
    finally:
        for file in files:
            file.close()


def write_file(directory: Directory, index: int, size: int) -> None:
    """Write zeroes over all of an allocated segment file that nobody uses; durable when it returns."""
    file = directory.open(segment_name(index))
    try:
        file.prewrite(0, size)
        file.datasync()
    finally:
        file.close()


def is_written(file: File, size: int) -> bool:
    """Whether the whole file has been written, so far as the file system tells."""
    return next(iter(file.data_extents(0, size)), None) == (0, size)
