"""What a small volume costs: room on the disk, and an idle one's wake-ups. Real processes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from tests.support.pairs import Pair
from tests.support.servers import REVOLUME, Serve, Server, revolume_only
from tests.support.wire import Wire

pytestmark = revolume_only
MiB = 1 << 20


def taken(place: Path) -> int:
    """Bytes on the disk of everything in it."""
    files = [Path(root, name) for root, _, names in os.walk(place) for name in names]
    return sum(file.stat().st_blocks * 512 for file in files)


class Plain(Server):
    """With nothing but defaults."""

    def _command_revolume(self) -> list[str]:
        self._place(any_port=True)
        command = [str(REVOLUME), "serve", str(self.directory), "--name", self.name, "--size", str(self.size)]
        return [*command, "--nbd", f"unix:{self.address}"]


def test_a_small_volume_takes_little_room(folder: Path) -> None:
    """Written once, and when everything that shall be ready is."""
    server = Plain(folder, 16 * MiB)
    server.start()
    try:
        with Wire(server.uri()) as wire:
            for at in range(16):
                wire.pwrite(at * MiB, os.urandom(MiB))
            wire.flush()
            room, deadline = 0, time.monotonic() + 10
            while (now := taken(server.directory)) != room and time.monotonic() < deadline:
                room = now
                time.sleep(0.5)
        assert 40 * MiB < room < 80 * MiB, room / MiB
        assert server.stop() == 0
        assert server.start().stop() == 0
    finally:
        if server.process is not None:
            server.kill()


def test_an_idle_volume_sleeps(serve: Serve) -> None:
    """At most two wake-ups of the whole process a second."""
    server = serve("unix")
    with Wire(server.uri()) as wire:
        wire.pwrite(0, b"x" * MiB)
        wire.flush()
        assert server.process is not None
        time.sleep(1.5)  # a point, and segments made ready
        assert any(rate(server.process.pid, 3.0) <= 2 for _ in range(3)), "not even once in three times"
        assert wire.pread(0, 1) == b"x"


def rate(pid: int, seconds: float) -> float:
    before = switches(pid)
    time.sleep(seconds)
    return (switches(pid) - before) / seconds


def switches(pid: int) -> int:
    """Times that any of its threads has gone to sleep."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        lines = (task / "status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
    return total


def test_a_mirror_is_as_small_as_its_source(folder: Path) -> None:
    """Told nothing, it takes the size of its source's segments."""
    with contextlib.closing(Pair(folder, size=16 * MiB, mirror_options=("--spare", "1GiB"))) as both:
        both.mirror.unless_given = lambda defaults: []  # type: ignore[method-assign]
        both.start()
        with Wire(both.primary.uri()) as wire:
            for at in range(16):
                wire.pwrite(at * MiB, os.urandom(MiB))
        both.until_equal()
        sizes = {file.stat().st_size for file in (both.mirror.directory / "log").iterdir()}
        assert sizes == {8 * MiB}, "the primary's"
        assert not any("are larger" in line for line in both.primary.log)
