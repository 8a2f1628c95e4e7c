"""A full disk on a file system that copies on write: prewritten segments promise nothing there by themselves.

Somebody else fills a real btrfs to the last byte while clients write: they see ENOSPC, the store is not poisoned,
it goes on when there is room again, and everything that was answered is there.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.grounds import ground
from tests.support.servers import Server, revolume, revolume_only
from tests.support.wire import Wire, WireError

pytestmark = [revolume_only]
MiB = 1 << 20
LITTLE = (
    "--segment-size", "1MiB", "--spare", "8MiB", "--budget", "48MiB", "--keep", "1h", "--cp-interval", "300ms",
)  # fmt: skip


def fill(place: Path) -> Path:
    """Every byte that is left, by small steps at the end."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file:
        for step in (16 * MiB, MiB, 4096):
            try:
                while True:
                    file.write(b"f" * step)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return filler


def status(server: Server) -> dict[str, object]:
    return json.loads(revolume("status", server.directory, "--json"))


def writes(wire: Wire, content: dict[int, bytes], count: int) -> int:
    """So many rewritings of the first 16 MiB; how many were refused. ``content``: what was answered."""
    refused = 0
    for turn in range(count):
        at = turn % 64 * 256 * 1024
        data = os.urandom(256 * 1024)
        try:
            wire.pwrite(at, data)
            content[at] = data
            if turn % 8 == 0:
                wire.flush()
        except WireError as error:
            assert error.errno == errno.ENOSPC, error
            refused += 1
            if refused > 1:
                break
    return refused


@pytest.mark.parametrize("made", ["here", "elsewhere"])
def test_btrfs_filled_to_the_last_byte(made: str, folder: Path, tmp_path: Path) -> None:
    """A volume that was made elsewhere and copied there is overwritten by copying, a new one is not."""
    with ground("btrfs", tmp_path, size=160 * MiB) as there, ExitStack() as ends:
        server = Server(there.place, 32 * MiB, options=LITTLE)
        if made == "elsewhere":
            Server(tmp_path, 32 * MiB, options=LITTLE).start().stop()
            shutil.copytree(tmp_path / "vol", there.place / "vol", ignore=lambda *_: ["control.sock", "nbd.sock"])
        server.start()
        ends.callback(lambda: server.kill() if server.process is not None else None)
        if made == "elsewhere":
            server.until_said("copies on write")
        told = [line for line in server.log if "copies on write" in line]
        content: dict[int, bytes] = {}
        with Wire(server.uri()) as wire:
            assert not writes(wire, content, 40)
            filler = fill(there.place)
            refused = sum(writes(wire, content, 60) for _ in range(2))
            state = status(server)
            assert state["state"] in ("full", "degraded", "online"), state
            assert refused or made == "here"
            same(wire, content)
            filler.unlink()
            os.sync()
            until_written(wire, content)
            same(wire, content)
        assert len(told) == (made == "elsewhere") or "copies on write" in json.dumps(state["events"])
        assert server.stop() == 0
        revolume("check", server.directory)


def same(wire: Wire, content: dict[int, bytes]) -> None:
    for at, data in content.items():
        assert wire.pread(at, len(data)) == data


def until_written(wire: Wire, content: dict[int, bytes]) -> None:
    """Room is back: after a moment nothing is refused any more."""
    deadline = time.monotonic() + 20
    while writes(wire, content, 60):
        assert time.monotonic() < deadline
        time.sleep(0.2)
