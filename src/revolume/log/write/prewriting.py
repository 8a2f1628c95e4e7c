"""Segment files made before they are used. Every function here waits for the disk: in a thread.

Two ways to promise room. ``allocate_files`` has the file system set the blocks aside, which costs almost nothing;
they read as zeroes until they are written. ``write_file`` writes zeroes as well, so that a later sync of a small
write finds its block written before and changes no metadata: half the latency, paid for with a second write of
every byte.
"""

from __future__ import annotations

from collections.abc import Sequence

from revolume.host.disk import Directory, File
from revolume.log.format.segment import Segment, segment_name


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


class SegmentFiles:
    """The files of one volume's segments, each of ``size`` bytes, made, written and removed by index. Every method
    waits for the disk: in a thread."""

    def __init__(self, directory: Directory, size: int) -> None:
        self._directory = directory
        self._size = size
        self.written_bytes = 0
        """Bytes of zeroes written ahead."""

    def allocate(self, indexes: Sequence[int]) -> list[int]:
        """New files with room, which read as zeroes. OSError: none was made."""
        allocate_files(self._directory, indexes, self._size)
        return list(indexes)

    def write(self, index: int) -> None:
        """Write zeroes over all of a file that nobody uses."""
        write_file(self._directory, index, self._size)
        self.written_bytes += self._size

    def write_or_remove(self, indexes: Sequence[int]) -> None:
        """Write zeroes over all of each of these new files. OSError: the one that failed is removed."""
        for index in indexes:
            try:
                self.write(index)
            except OSError:
                self._directory.remove(segment_name(index))
                raise

    def remove(self, indexes: Sequence[int]) -> None:
        """Free files go from the disk."""
        for index in indexes:
            self._directory.remove(segment_name(index))

    def look_at(self, segments: Sequence[Segment]) -> None:
        """Find out which of these were written: an earlier opening may have left some allocated only."""
        for segment in segments:
            segment.written = is_written(segment.file, self._size)
