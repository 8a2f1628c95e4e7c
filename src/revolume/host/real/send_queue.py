"""What the kernel did not take of what was sent on a socket: views of the senders' buffers, and slices of files.

Buffers take one call, whatever their number; slices of files take one each, until the kernel has enough. What
stands before a slice is sent with MSG_MORE, so that on TCP it leaves in one packet with the first of the file.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from itertools import islice

from revolume.host.disk import Buffer
from revolume.host.file_slice import FileSlice

VECTORS_MAX = 1024
SENDS_PER_WAKE = 32


class SendQueue:
    """In order. ``parts`` is what waits, ``bytes`` how much; the socket must not block."""

    __slots__ = ("_file_slices", "_sendmsg", "_sock", "bytes", "parts")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sendmsg = sock.sendmsg
        self.parts: deque[memoryview | FileSlice] = deque()
        self.bytes = 0
        self._file_slices = 0  # how many of the parts

    def send_head(self, head: Sequence[Buffer]) -> int:
        """Send what stands before a slice of a file, while nothing waits: how much the kernel takes of it. Those
        bytes are gone, whatever fails later."""
        if not head:
            return 0
        try:
            return self._sendmsg(head[:VECTORS_MAX], (), socket.MSG_MORE)
        except (BlockingIOError, InterruptedError):
            return 0

    def put(self, buffers: Sequence[Buffer], sent: int) -> None:
        """Append what follows the first ``sent`` bytes of ``buffers``, without a copy."""
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            if sent < len(view):
                view = view[sent:]
                self.parts.append(view)
                self.bytes += len(view)
                sent = 0
            else:
                sent -= len(view)

    def put_file(self, part: FileSlice) -> None:
        """Append what is left of a file slice."""
        if part:
            self.parts.append(part)
            self.bytes += len(part)
            self._file_slices += 1

    def send(self) -> None:
        """Send once; again, while slices of files wait. BlockingIOError when the kernel takes nothing; OSError
        of the socket, or of a file that ends too early."""
        for _ in range(SENDS_PER_WAKE):
            self._forget(self._send_front())
            if not (self._file_slices and self.parts):
                return

    def _send_front(self) -> int:
        first = self.parts[0]
        if isinstance(first, FileSlice):
            return first.send_to(self._sock.fileno())
        front = islice(self.parts, VECTORS_MAX)
        run: list[memoryview] = []
        for part in front:
            if isinstance(part, FileSlice):
                return self._sendmsg(run, (), socket.MSG_MORE)
            run.append(part)
        return self._sendmsg(run)

    def _forget(self, sent: int) -> None:
        """The first ``sent`` bytes are gone."""
        parts = self.parts
        self.bytes -= sent
        while sent:
            first = parts[0]
            if sent < len(first):
                if isinstance(first, FileSlice):
                    first.forget(sent)
                else:
                    parts[0] = first[sent:]
                return
            sent -= len(first)
            self._file_slices -= isinstance(first, FileSlice)
            parts.popleft()

    def clear(self) -> None:
        """Drop everything."""
        self.parts.clear()
        self.bytes = self._file_slices = 0
