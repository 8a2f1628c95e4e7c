"""A pair whose mirror is detached by deadline when it is lost, and a client that notes what was answered."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from tests.support.mirrors import read
from tests.support.pairs import MiB, Pair
from tests.support.wire import Wire

BLOCK = 4096
BLOCKS = 64
DEADLINE_S = 4.0
LEASE_S = DEADLINE_S / 2
QUICK = ("--cp-interval", "200ms", "--segment-size", "1MiB", "--spare", "4MiB", "--budget", "64MiB")


def detaching_pair(folder: Path, deadline_s: float = DEADLINE_S) -> Pair:
    """Not started."""
    options = (*QUICK, "--on-lost", "detach", "--deadline", f"{deadline_s * 1000:.0f}ms")
    return Pair(folder, size=8 * MiB, options=options, mirror_options=QUICK)


def started(both: Pair) -> Pair:
    """Both run, and the mirror has a lease."""
    both.start()
    with contextlib.closing(Wire(both.primary.uri())) as wire:
        wire.pwrite(BLOCKS * BLOCK, b"first" * 100)
    until_leased(both)
    return both


def until_leased(both: Pair) -> None:
    both.wait("the mirror has a lease", lambda: source(both)["lease_seconds"] > 0)


def source(both: Pair) -> dict[str, Any]:
    """What the mirror says of itself."""
    found: dict[str, Any] = both.status(both.mirror)["source"]
    return found


class Client(threading.Thread):
    """Writes one block after the other, each when the one before is answered. ``answered``: by block, the newest
    number that was; ``asked``: the newest that was asked for; ``pause_s``: the longest time without an answer."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self.answered: dict[int, int] = {}
        self.asked = 0
        self.pause_s = 0.0
        self.last = time.monotonic()
        self._times_ns: dict[int, int] = {}
        self._uri = uri
        self._enough = threading.Event()
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, AssertionError, EOFError, RuntimeError):
            wire = Wire(self._uri)
            self.last = time.monotonic()
            while not self._enough.is_set():
                self.asked += 1
                wire.pwrite(self.asked % BLOCKS * BLOCK, content(self.asked))
                self._times_ns[self.asked] = time.time_ns()
                self.answered[self.asked % BLOCKS] = self.asked
                now = time.monotonic()
                self.pause_s, self.last = max(self.pause_s, now - self.last), now
                time.sleep(0.002)

    def end(self) -> None:
        self._enough.set()
        self.join(60)
        assert not self.is_alive(), "a request was not answered"

    def first_after_ns(self, number: int) -> int:
        """When the first answer behind this one came, by the wall clock."""
        return min(time_ns for each, time_ns in self._times_ns.items() if each > number)

    @property
    def newest(self) -> int:
        return max(self.answered.values(), default=0)

    def lost(self, data: bytes) -> list[int]:
        """Blocks of which this has neither what was answered last nor what was asked for last."""
        allowed = {self.asked % BLOCKS: {self.asked}}
        return [
            block
            for block, number in self.answered.items()
            if number_of(data, block) not in {number} | allowed.get(block, set())
        ]


def content(number: int) -> bytes:
    return number.to_bytes(8, "little") * (BLOCK // 8)


def number_of(data: bytes, block: int) -> int:
    """Of the write that a block holds; the whole block must be of it."""
    here = data[block * BLOCK : (block + 1) * BLOCK]
    number = int.from_bytes(here[:8], "little")
    assert here == content(number)
    return number


def everything(uri: str) -> bytes:
    return read(uri)
