"""What two real nodes said to each other on a mirror link, kept as a file: ``tests/data/link-2/session.xz``.

    python -m tests.support.link_recording FILE     records such a session anew

The file is xz of one entry after the other, in the order in which the frames passed: connection (B), direction
(B, ">" towards the mirror, "<" from it), bytes of the frame (I), the frame. It is recorded once for each version
of the protocol, and kept: later code must read and write the same bytes.
"""

from __future__ import annotations

import asyncio
import lzma
import shutil
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from revolume.api.client import ControlClient, connect
from revolume.errors import RevolumeError
from revolume.host import real_host
from revolume.mirror.recovery.examine import examine
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.tail_messages import Fetch
from tests.support.mirrors import until
from tests.support.pairs import MirrorServer
from tests.support.relay import Record, Relay
from tests.support.servers import Server, revolume, short_folder
from tests.support.wire import Wire

ENTRY: Final = struct.Struct("<BcI")
BLOCK: Final = 4096
SIZE: Final = 4 << 20
SMALL: Final = ("--segment-size", "1MiB", "--budget", "64MiB", "--spare", "4MiB", "--cp-interval", "1h")
THERE: Final = ("--segment-size", "2MiB", "--budget", "64MiB", "--spare", "4MiB")


@dataclass(frozen=True)
class Frame:
    """One frame: its connection, whether it goes towards the mirror, and all its bytes."""

    connection: int
    forth: bool
    data: bytes


def load(path: Path) -> Iterator[Frame]:
    """The frames of a recording, in the order in which they passed."""
    data, at = lzma.decompress(path.read_bytes()), 0
    while at < len(data):
        connection, direction, size = ENTRY.unpack_from(data, at)
        at += ENTRY.size + size
        yield Frame(connection, direction == b">", data[at - size : at])


class Recorder:
    """Collects the frames of a relay."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[bytes] = []

    def __call__(self, connection: int, direction: bytes, frame: bytes) -> None:
        with self._lock:
            self._entries.append(ENTRY.pack(connection, direction, len(frame)) + frame)

    def save(self, path: Path) -> None:
        path.write_bytes(lzma.compress(b"".join(self._entries), preset=9))


def block(seed: int, count: int = 1) -> bytes:
    return b"".join((seed << 16 | i).to_bytes(8, "little") * 512 for i in range(count))


def _omit(record: Record) -> None:
    del record.rows[61], record.partials[62]


class Recording:
    """A primary, a mirror, and a relay between them that writes everything down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("p", "m", "q"):
            (folder / name).mkdir()
        near, link = folder / "near", folder / "link"
        self.recorder = Recorder()
        self.relay = Relay(near, link)
        self.relay.record = self.recorder
        self.to = ("--mirror-to", f"unix:{near},mode=sync,name=m")
        self.near = f"unix:{near}"
        self.mirror = MirrorServer(folder / "m", SIZE, options=THERE, listen=f"unix:{link}")
        self.primary = Server(folder / "p", SIZE, options=SMALL)

    def control(self) -> ControlClient:
        found = connect(str(self.primary.directory))
        assert found is not None
        return found

    def point(self) -> None:
        """Made, and agreed on by the mirror."""
        with self.control() as control:
            number = control.cut()["number"]
            until("it agrees", lambda: control.status()["mirrors"][0]["agreed_point"] == number)

    def joined(self) -> None:
        with self.control() as control:
            until("it joins", lambda: control.status()["mirrors"][0]["joined"])

    def run(self) -> None:
        try:
            self._before_there_is_a_mirror()
            self._base_and_log()
            self._examined()
            self._tail_fetched()
            self._asked_for_blocks()
            self._detached()
            self._refused()
        finally:
            self.relay.close()
            for server in (self.primary, self.mirror):
                if server.process is not None:
                    server.kill()
                print(server.said())
        assert self.relay.faults == []

    def _before_there_is_a_mirror(self) -> None:
        self.primary.start()
        with Wire(self.primary.uri()) as wire:
            wire.pwrite(0, block(1, 12))
            wire.pwrite(700 * BLOCK, block(2, 3))
        revolume("snapshot", self.primary.directory, "before")
        with Wire(self.primary.uri()) as wire:
            wire.pwrite(5 * BLOCK, block(3, 2))
        revolume("snapshot", self.primary.directory, "later")
        assert self.primary.stop() == 0

    def _base_and_log(self) -> None:
        self.mirror.start()
        self.primary.options = (*SMALL, *self.to)
        self.primary.start()
        self.joined()
        with Wire(self.primary.uri()) as wire:
            wire.pwrite(20 * BLOCK, block(4))
            wire.pwrite(20 * BLOCK + 8, b"twenty")
            wire.pwrite(5 * BLOCK + 4000, b"from five on to six, so that it is split" + block(5)[:100])
            wire.zero(50 * BLOCK, 40 * BLOCK)
            wire.trim(700 * BLOCK, 2 * BLOCK)
            wire.flush()
        self.point()
        revolume("snapshot", self.primary.directory, "during")
        revolume("snapshot", self.primary.directory, "later", "--drop")
        revolume("grow", self.primary.directory, "5MiB")
        self.primary.size = 5 << 20
        self.point()

    def _examined(self) -> None:
        async def ask() -> None:
            host = real_host()
            try:
                await examine(host, self.near, None, Fetch(bytes(16), bytes(16), NOWHERE))
            except RevolumeError as error:
                print(error)
            await host.work.close()

        asyncio.run(ask())

    def _tail_fetched(self) -> None:
        """What a power cut took from the primary's page cache is at the mirror: the directory as it was a moment
        before is opened in its place."""
        primary, before = self.primary, self.folder / "before"
        assert primary.process is not None
        primary.process.send_signal(signal.SIGSTOP)
        shutil.copytree(primary.directory, before, ignore=shutil.ignore_patterns("*.sock"))
        primary.process.send_signal(signal.SIGCONT)
        with Wire(primary.uri()) as wire:
            wire.pwrite(40 * BLOCK, block(6, 2))
            wire.pwrite(41 * BLOCK + 100, b"only the mirror will have it")
            wire.flush()
        primary.kill()
        self.relay.hang_up()
        shutil.rmtree(primary.directory)
        before.rename(primary.directory)
        primary.start()
        self.joined()

    def _asked_for_blocks(self) -> None:
        self.point()
        with Wire(self.primary.uri()) as wire:
            wire.pwrite(60 * BLOCK, block(7, 2))
            wire.pwrite(62 * BLOCK + 7, b"in part")
        self.relay.lie = _omit
        self.point()
        assert self.relay.asked
        self.relay.turn_honest()

    def _detached(self) -> None:
        revolume("detach", self.primary.directory, "m")
        assert self.primary.stop() == 0

    def _refused(self) -> None:
        """Another volume's primary comes to the mirror."""
        self.primary = Server(self.folder / "q", SIZE, options=(*SMALL, *self.to))
        self.primary.start()
        with self.control() as control:
            until("it is refused", lambda: control.status()["mirrors"][0]["refusals"])


if __name__ == "__main__":
    with short_folder() as made:
        recording = Recording(made)
        recording.run()
        recording.recorder.save(Path(sys.argv[1]))
