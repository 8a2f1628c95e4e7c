"""Load on an export: writers of our own, whose sectors say what they are, and fio beside them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

from tests.support.programs import SYSTEM_PATH
from tests.support.sectors import SECTOR, Book, Writer
from tests.support.wire import Wire


class Load:
    """Two writers, each with half of the book, at work when this is made. `seed` grows from one load on a
    book to the next. `failing`: errors are fair from the beginning."""

    def __init__(self, uri: str, book: Book, seed: int, *, failing: bool = False) -> None:
        first, middle, end = book.first, book.first + book.count // 2, book.first + book.count
        parts = (range(first, middle), range(middle, end))
        self.writers = [Writer(uri, book, part, lane, seed) for lane, part in enumerate(parts)]
        if failing:
            self.errors_are_fair()
        for writer in self.writers:
            writer.start()
        self._until_at_work()

    def _until_at_work(self, seconds: float = 30) -> None:
        """What is done to a server that nobody uses yet shows nothing."""
        deadline = time.monotonic() + seconds
        while not (self.flushes and all(writer.answered for writer in self.writers)):
            ended = not all(writer.is_alive() for writer in self.writers)
            if ended or self.refused or time.monotonic() > deadline:
                return  # its end tells why
            time.sleep(0.01)

    def errors_are_fair(self) -> None:
        """From now on."""
        for writer in self.writers:
            writer.failing.set()

    def end(self, seconds: float = 60, flushed: bool = True) -> Load:
        """Stop if the server still runs. Only its end, or a fair error, may have stopped a writer before."""
        for writer in self.writers:
            writer.enough.set()
        for writer in self.writers:
            writer.join(seconds)
            assert not writer.is_alive(), "a request was not answered"
            assert writer.error is None, writer.error
        assert all(writer.answered for writer in self.writers), "the load never got going"
        assert self.flushes or not flushed, "nothing was flushed"
        return self

    @property
    def answered(self) -> int:
        return sum(writer.answered for writer in self.writers)

    @property
    def flushes(self) -> int:
        return sum(writer.flushes for writer in self.writers)

    @property
    def refused(self) -> int:
        return sum(writer.refused for writer in self.writers)


@contextlib.contextmanager
def fio_load(uri: str, offset: int, size: int) -> Iterator[None]:
    """Odd places and sizes, and flushes, in a part of the export that is its own."""
    command = ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bsrange=512-16k",
               "--blocksize_unaligned=1", "--norandommap=1", "--iodepth=8", f"--offset={offset}", f"--size={size}",
               "--fsync=32", "--time_based", "--runtime=60", "--thread"]  # fmt: skip
    quiet = subprocess.DEVNULL
    load = subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, "PATH": SYSTEM_PATH})
    try:
        yield
    finally:
        load.kill()
        load.wait()


def content(uri: str, book: Book) -> bytes:
    """What the book's sectors hold, read over the wire."""
    with Wire(uri) as wire:
        return b"".join(wire.pieces(start=book.first * SECTOR, end=(book.first + book.count) * SECTOR))
