"""The receive buffer of one connection: one piece of memory, used again and again.

    |....consumed....|####not yet consumed####|.......tail.......|
    0              start                     end              size

The socket writes into the tail, the parser reads ``[start, end)``, payloads are looked at in place. When
all is consumed both ends go back to zero, so that the same, cache-warm memory is used at every wake-up.
A single larger request gets a larger buffer for as long as it lasts (``resize``).

What would break it: moving bytes while somebody still holds views of them. Payloads are used up before a
batch is done, and while a batch waits for room the session does not receive, so ``tail`` is not asked.
"""

from __future__ import annotations

from typing import Final

_TAIL_BYTES_MIN: Final = 4096


class Inbox:
    """A window of received bytes."""

    __slots__ = ("_base_bytes", "buffer", "end", "needed", "start", "view")

    def __init__(self, base_bytes: int) -> None:
        self._base_bytes = base_bytes
        self._use(bytearray(base_bytes))
        self.start = 0
        self.end = 0
        self.needed = 0  # bytes from ``start`` that make the next request whole; 0: a header's worth

    def _use(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.view = memoryview(buffer)

    @property
    def size(self) -> int:
        return len(self.buffer)

    @property
    def oversize(self) -> int:
        """Bytes beyond the base size."""
        return len(self.buffer) - self._base_bytes

    @property
    def full(self) -> bool:
        """The last receive left no byte free: there may be more where it came from."""
        return self.end == len(self.buffer)

    def tail(self) -> memoryview:
        """Where to receive; never empty, and long enough for the next request if the buffer is."""
        if self.start == self.end:
            self.start = self.end = 0
            return self.view
        size = len(self.buffer)
        if size - self.end < _TAIL_BYTES_MIN or self.start + self.needed > size:
            self._move_to_front()
        return self.view[self.end :]

    def put(self, data: bytes) -> None:
        """Append bytes that were received elsewhere."""
        if len(data) > len(self.buffer) - self.end:
            self._continue_elsewhere(self.end - self.start + len(data) + _TAIL_BYTES_MIN)
        self.view[self.end : self.end + len(data)] = data
        self.end += len(data)

    def resize(self, size: int) -> None:
        """A buffer of ``size`` bytes, which hold what is not yet consumed."""
        assert self.end - self.start <= size
        self._continue_elsewhere(size)

    def shrink(self) -> None:
        """Back to the base size; only when what is left fits."""
        if self.end - self.start <= self._base_bytes // 2:
            self._continue_elsewhere(self._base_bytes)

    def close(self) -> None:
        """Let go of the memory; nothing is received any more."""
        self._use(bytearray())
        self.start = self.end = self.needed = 0

    def _move_to_front(self) -> None:
        if self.start:
            left = self.end - self.start
            self.view[:left] = self.view[self.start : self.end]
            self.start, self.end = 0, left

    def _continue_elsewhere(self, size: int) -> None:
        left = self.view[self.start : self.end]
        buffer = bytearray(size)
        buffer[: len(left)] = left
        self.start, self.end = 0, len(left)
        self._use(buffer)
