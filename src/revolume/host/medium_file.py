"""A file as its medium has it, for whoever looks for damage: read past the page cache where that can be done.

What is read lies in windows, of which the last two are kept: many small reads close together cost one read of the
disk. A block of 4096 bytes that the disk refuses reads as zeroes, so that one bad sector costs its block and no
more; digests say the rest.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from revolume.host.disk import Buffer, File

WINDOW: Final = 4 << 20
NARROW: Final = 64 << 10
"""For what lies scattered, and for what may end soon."""
_KEPT: Final = 2
_SECTOR: Final = 4096


@dataclass(slots=True)
class _Window:
    """What the file has from ``start`` on: the first ``used`` bytes of ``view``, which is aligned."""

    view: memoryview
    start: int = 0
    used: int = 0


class MediumFile:
    """``file`` stays the caller's, who closes it behind the last read. Windows are as large as ``window``, except
    that they end at ``end``, where most of what is wanted ends. ``bytes_read``: from the medium so far."""

    def __init__(self, file: File, window: int = WINDOW, end: int | None = None) -> None:
        self._file = file
        self._size = window
        self._end = end
        self.name = file.name
        self.bytes_read = 0
        self._windows: list[_Window] = []  # the newest last

    def read(self, offset: int, size: int) -> memoryview:
        """So many bytes, zeroes where the file ends. They are only valid until the next read of this file."""
        window = self._at(offset)
        inside = offset - window.start
        if inside + size <= window.used:
            return window.view[inside : inside + size]
        content = memoryview(bytearray(size))
        self.preadv([content], offset)
        return content

    def preadv(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Fill the buffers, which can be written, unless the file ends; the bytes read."""
        total = 0
        for buffer in buffers:
            view = memoryview(buffer)
            while len(view):
                window = self._at(offset + total)
                piece = window.view[offset + total - window.start : window.used]
                count = min(len(view), len(piece))
                if not count:
                    return total
                view[:count] = piece[:count]
                view, total = view[count:], total + count
        return total

    def uncache(self, offset: int, length: int) -> None:
        """What the page cache has of the range is not what the medium has: let it go."""
        self._file.uncache(offset, length)

    def size(self) -> int:
        """Bytes of the file."""
        return self._file.size()

    def _at(self, offset: int) -> _Window:
        """The window that holds the byte at ``offset``, unless the file ends before."""
        for window in self._windows:
            if window.start <= offset < window.start + window.used:
                return window
        window = self._spare()
        window.start = offset // _SECTOR * _SECTOR
        window.used = self._load(window.view[: self._wanted(window.start)], window.start)
        self.bytes_read += window.used
        self._windows.append(window)
        return window

    def _wanted(self, start: int) -> int:
        if self._end is None:
            return self._size
        left = -(-(self._end - start) // _SECTOR) * _SECTOR
        return min(self._size, left) if left > 0 else min(self._size, NARROW)

    def _spare(self) -> _Window:
        """The oldest window, or a new one. Memory of a mapping is aligned, as the device wants it."""
        if len(self._windows) < _KEPT:
            return _Window(memoryview(mmap.mmap(-1, self._size)))
        return self._windows.pop(0)

    def _load(self, view: memoryview, offset: int) -> int:
        try:
            return self._file.preadv_medium([view], offset)
        except OSError:
            pieces = range(0, len(view), _SECTOR)
            return sum(self._sector(view[at : at + _SECTOR], offset + at) for at in pieces)

    def _sector(self, view: memoryview, offset: int) -> int:
        try:
            return self._file.preadv_medium([view], offset)
        except OSError:
            view[:] = bytes(_SECTOR)
            return _SECTOR
