"""Memory that the host has really given, before anything is measured.

A virtual machine's host often backs memory lazily and takes free pages back: then the first touch of a page costs
microseconds, which falls on whoever writes new pages (a log, a fresh file) and not on whoever rewrites pages that
it has. So before each measured load free memory is filled with clean pages of the page cache, those of a sparse
file that takes no room on the disk. Whoever needs a page then gets one that was touched before.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 4096
STEP = 64 << 20
LEFT_FREE = 0.04
POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14


def meminfo(name: str) -> int:
    """Bytes that /proc/meminfo states under this name."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


@dataclass(slots=True)
class Filler:
    """The sparse file and how far it has been walked. ``first_us`` and ``again_us``: what touching a page cost
    the first time that memory was filled, and right afterwards."""

    path: Path
    first_us: float | None = None
    again_us: float | None = None
    filled_bytes: int = 0
    _at: int = field(default=0, init=False)

    def fill(self, seconds: float) -> None:
        """Fill what is free, up to a small rest, for so long at most."""
        total = meminfo("MemTotal")
        size = total // STEP * STEP
        with self.path.open("ab") as file:
            file.truncate(size)
        before, began = meminfo("MemFree"), time.monotonic()
        walked = 0
        while meminfo("MemFree") > total * LEFT_FREE and walked < 2 * size and time.monotonic() < began + seconds:
            self._touch(self._at)
            self._at = (self._at + STEP) % size
            walked += STEP
        filled = max(0, before - meminfo("MemFree"))
        self.filled_bytes += filled
        if self.first_us is None and filled > STEP:
            self.first_us = (time.monotonic() - began) * 1e6 / (filled / PAGE)
            self.again_us = self._again()

    def _touch(self, offset: int) -> None:
        with self.path.open("rb") as file:
            seen = mmap.mmap(file.fileno(), STEP, prot=mmap.PROT_READ, offset=offset)
        with seen:
            try:
                seen.madvise(POPULATE_READ)
            except OSError:  # an older kernel
                sum(seen[at] for at in range(0, STEP, PAGE))

    def _again(self) -> float:
        """Microseconds a page of a piece that is dropped and filled once more: memory that has been touched."""
        at = (self._at - STEP) % self.path.stat().st_size
        with self.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), at, STEP, os.POSIX_FADV_DONTNEED)
        began = time.monotonic()
        self._touch(at)
        return (time.monotonic() - began) * 1e6 / (STEP / PAGE)

    def told(self) -> dict[str, float | None]:
        """For the results."""
        return {"first_us_per_page": self.first_us, "again_us_per_page": self.again_us}

    def remove(self) -> None:
        """It leaves nothing behind."""
        self.path.unlink(missing_ok=True)


def forget(folder: Path) -> None:
    """Drop all clean pages of the files in a folder from the page cache; what is dirty is synced before."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
