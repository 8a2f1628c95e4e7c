"""A slice of a file that waits to be sent, beside the buffers in a wire's queue.

It names the bytes and does not hold them, so that a slow peer costs no memory. The file must stay open, and
the slice unchanged, until the wire has sent it: what is read is what lies there then.

Reading happens in the loop. A slice is for what the page cache holds; whoever sends something older reads
it in a thread and sends the buffer.
"""

from __future__ import annotations

import errno

from revolume.host.disk import File


class FileSlice:
    """Bytes of ``file`` from ``offset`` on; ``len`` is how many have still to be sent."""

    __slots__ = ("_file", "_left", "_offset")

    def __init__(self, file: File, offset: int, length: int) -> None:
        self._file = file
        self._offset = offset
        self._left = length

    def __len__(self) -> int:
        return self._left

    def send_to(self, socket_fd: int) -> int:
        """Bytes that the kernel has passed on; ``forget`` them. BlockingIOError: not one now."""
        sent = self._file.send_to(socket_fd, self._offset, self._left)
        if not sent:
            raise self._ended()
        return sent

    def forget(self, count: int) -> None:
        """So many from the beginning have been sent."""
        self._offset += count
        self._left -= count

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes, read."""
        piece = memoryview(bytearray(count))
        if self._file.preadv([piece], self._offset) < count:
            raise self._ended()
        self.forget(count)
        return piece

    def _ended(self) -> OSError:
        return OSError(errno.EIO, "the file ends before what was to be sent", self._file.name)
