"""What a process tree has cost so far: CPU seconds, peak memory, bytes written to disk. Linux, from /proc."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def device_bytes(path: Path) -> int | None:
    """Bytes written so far to the device under `path`: by everyone, so the machine should be quiet."""
    number = os.stat(path).st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
    except OSError:
        return None
    return int(fields[6]) * 512


def device_busy_seconds(path: Path) -> float | None:
    """How long the device under `path` has had something to do, so far."""
    number = os.stat(path).st_dev
    try:
        fields = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()
    except OSError:
        return None
    return int(fields[9]) / 1000


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU in seconds; `disk_bytes` as the kernel accounts them to processes, less what it took back.

    It accounts a page when it is dirtied, and a page of the cache may be a megabyte large: where small writes
    are synced one by one it says far more than the disk sees, and `device_bytes` is the truth.
    """

    cpu: float
    disk_bytes: int

    def __sub__(self, earlier: Cost) -> Cost:
        return Cost(self.cpu - earlier.cpu, self.disk_bytes - earlier.disk_bytes)


def tree(root: int) -> list[int]:
    """The process and all its living descendants, root first."""
    found = [root]
    for pid in found:
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in tasks.read_text().split()]
            except OSError:
                continue
    return found


def cost(root: int) -> Cost:
    """Of the tree, ended children included: the kernel adds theirs to the parent that waited for them."""
    cpu, disk = 0.0, 0
    for pid in tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            counters = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        except OSError:
            continue
        cpu += sum(int(ticks) for ticks in fields[11:15]) / _TICKS
        disk += int(counters["write_bytes"]) - int(counters["cancelled_write_bytes"])
    return Cost(cpu, disk)


def settle(root: int, quiet_seconds: float = 1.0, timeout: float = 30.0) -> Cost:
    """Waits until the tree has stopped writing (segments ahead, folds), then what it has cost."""
    deadline = time.monotonic() + timeout
    seen, since = cost(root).disk_bytes, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < quiet_seconds:
        time.sleep(0.1)
        now = cost(root).disk_bytes
        if now != seen:
            seen, since = now, time.monotonic()
    return cost(root)


class PeakMemory:
    """Peak resident bytes of the server and of its largest helper, which may end before the server does."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.server = self.helper = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self._look()

    def _look(self) -> None:
        for pid in tree(self.root):
            peak = _high_water(pid)
            if pid == self.root:
                self.server = max(self.server, peak)
            else:
                self.helper = max(self.helper, peak)


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
