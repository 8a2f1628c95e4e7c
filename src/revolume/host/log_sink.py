"""Where a service's log and its ready lines go: a stream that never blocks and never fails.

Whoever reads the log may stop reading, be gone, or be a disk that is full; none of that may stop a volume. Lines
are put into a bounded queue, and a thread writes them. Lines that find the queue full are dropped and counted, and
so are lines that could not be written. The count is told as soon as a line gets through again.

The thread is a daemon: one that waits for a full pipe does not hold up the end of the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Final

QUEUE_BYTES_MAX: Final = 1 << 20
_AT_ONCE: Final = 1 << 16
_STANDARD: Final = (0, 1, 2)


def open_missing_streams() -> None:
    """Standard descriptors that were closed by whoever started us become /dev/null. Otherwise the next file to be
    opened would get such a number, and what is printed would be written into it."""
    for number in _STANDARD:
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            if null != number:
                os.dup2(null, number)
                os.close(null)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


class LogSink(io.TextIOBase):
    """A text stream on a descriptor that never blocks. ``lost`` gives the line, without its end, that tells
    how many lines were lost."""

    def __init__(self, fd: int, lost: Callable[[int], str]) -> None:
        self._fd = fd
        self._lost_line = lost
        self._part = ""
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._idle = True
        self._wake = threading.Condition()
        threading.Thread(target=self._run, name="revolume-log", daemon=True).start()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def fileno(self) -> int:
        return self._fd

    def write(self, text: str) -> int:
        """Take the text's lines into the queue; what is behind the last line's end waits for its own."""
        with self._wake:
            *lines, self._part = (self._part + text).split("\n")
            for line in lines:
                self._take(line.encode(errors="backslashreplace") + b"\n")
            if len(self._part) > QUEUE_BYTES_MAX:
                self._part = ""
                self._lost += 1
            self._wake.notify()
        return len(text)

    def _take(self, line: bytes) -> None:
        if self._size + len(line) > QUEUE_BYTES_MAX:
            self._lost += 1
            return
        self._lines.append(line)
        self._size += len(line)

    def flush(self) -> None:
        """Nothing: the thread writes as soon as it can."""

    def drain(self, deadline: float) -> None:
        """Wait until all is written, but not beyond ``deadline`` of the monotonic clock."""
        with self._wake:
            self._wake.wait_for(lambda: self._idle and not self._lines, max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._wake:
                self._idle = True
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._lines)
                self._idle = False
                lines, lost = self._next(), self._lost
            data = b"".join(lines)
            if lost:
                data = self._lost_line(lost).encode() + b"\n" + data
            written = self._written(data)
            with self._wake:
                self._lost = self._lost - lost if written else self._lost + len(lines)

    def _next(self) -> list[bytes]:
        """Lines for one write: so many as fit a pipe at once, so that what is queued behind stays bounded."""
        count = size = 0
        for line in self._lines:
            if count and size + len(line) > _AT_ONCE:
                break
            count, size = count + 1, size + len(line)
        lines, self._lines = self._lines[:count], self._lines[count:]
        self._size -= size
        return lines

    def _written(self, data: bytes) -> bool:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody has set the pipe so
                with contextlib.suppress(OSError):
                    select.select([], [self._fd], [], 1.0)
            except OSError:
                return False
        return True
