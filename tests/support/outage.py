"""A pair whose link is cut and mended, with a model of what was written, and what travelled counted."""

from __future__ import annotations

import contextlib
import json
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from revolume.api.client import connect
from tests.support.pairs import MiB, Pair
from tests.support.processes import run_revolume
from tests.support.servers import Server, revolume
from tests.support.strace import reads_counted
from tests.support.wire import Wire

BLOCK = 4096
SIZE = 48 * MiB
BUDGET = 32 * MiB
SMALL = ("--segment-size", "1MiB", "--spare", "4MiB", "--budget", str(BUDGET), "--cp-interval", "300ms")


class Outage:
    """``model``: what clients have written; ``changed``: the blocks that were written since ``forget``."""

    def __init__(
        self, folder: Path, *, mode: str = "async", size: int = SIZE, seed: int = 1, model: bool = True
    ) -> None:
        """Without ``model`` it is not kept what was written: the volume is too large for that."""
        self.pair = Pair(folder, size=size, mode=mode, options=SMALL, mirror_options=SMALL)
        self.model = bytearray(size if model else 0)
        self.changed: set[int] = set()
        self.chance = random.Random(seed)

    def start(self, filled: int = 16) -> Outage:
        """Both run, ``filled`` MiB are written, the mirror stands at the last point."""
        self.pair.start()
        with self.client() as wire:
            for at in range(filled):
                self.put(wire, at * MiB, self.chance.randbytes(MiB))
        self.pair.until_equal()
        self.forget()
        return self

    def client(self) -> Wire:
        return Wire(self.pair.primary.uri())

    def put(self, wire: Wire, offset: int, data: bytes) -> None:
        wire.pwrite(offset, data)
        self.model[offset : offset + len(data)] = data
        self.changed.update(range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)))

    def zero(self, wire: Wire, offset: int, length: int) -> None:
        wire.zero(offset, length)
        self.model[offset : offset + length] = bytes(length)
        self.changed.update(range(offset // BLOCK, -(-(offset + length) // BLOCK)))

    def overwrite(self, total: int, *, blocks: int, first: int = 0) -> None:
        """Random blocks among ``blocks`` from ``first`` on, whole, so many bytes in all."""
        with self.client() as wire:
            for _ in range(total // (16 * BLOCK)):
                at = (first + self.chance.randrange(blocks - 15)) * BLOCK
                self.put(wire, at, self.chance.randbytes(16 * BLOCK))

    def forget(self) -> None:
        self.changed.clear()
        self.pair.cable.carried = 0

    def cut(self) -> None:
        self.pair.cable.cut()
        self.pair.wait("the loss is noticed", lambda: self.pair.state()["state"] == "connecting")

    def until_log_is_gone(self) -> None:
        """What the mirror lacks is not in the primary's log any more."""
        self.pair.wait("the log is given up", lambda: self.pair.state()["kept"] == "difference")

    def mend(self) -> None:
        self.pair.cable.mend()

    def until_equal(self, seconds: float = 60) -> None:
        self.pair.until_equal(seconds)

    def until_all_agree(self) -> None:
        """Every mirror stands at the primary's last point, which is of the last write."""

        def agree() -> bool:
            client = connect(str(self.pair.primary.directory))
            assert client is not None
            with client:
                client.cut()
                status = client.status()
            return all(
                mirror["durable"] == status["position"] and mirror["agreed_point"] == status["point"]
                for mirror in status["mirrors"]
            )

        self.pair.wait("all mirrors agree to the last point", agree)

    def until_agreed(self) -> None:
        """The mirror stands at the primary's last point."""
        self.pair.until_equal()

    def carry(self, bytes_in_all: int) -> None:
        """Return when so many bytes have travelled, or the mirror is in sync."""
        deadline = time.monotonic() + 20
        while self.pair.cable.carried < bytes_in_all and time.monotonic() < deadline:
            if self.pair.state()["state"] == "in sync":
                return
            time.sleep(0.01)

    def snapshots(self) -> list[dict[str, Any]]:
        client = connect(str(self.pair.primary.directory))
        assert client is not None
        with client:
            return client.snapshots()

    def read(self, moment: str, server: Server | None = None) -> bytes:
        """A past moment of the primary, or of another."""
        asked = server or self.pair.primary
        with Wire(asked.uri(f"vol@{moment}")) as wire:
            return b"".join(wire.pieces(start=0, end=wire.size))

    @contextlib.contextmanager
    def volume_reads(self, told: Path) -> Iterator[Callable[[], int]]:
        """What the primary's process reads of the image, of the log and of rescued blocks."""
        directory, process = self.pair.primary.directory, self.pair.primary.process
        assert process is not None
        places = [directory / "image", *directory.glob("log/*.seg"), *directory.glob("rescue/*.blocks")]
        with reads_counted(process.pid, told, places) as count:
            yield count

    def peak_rss_kib(self) -> int:
        """Of either end, the larger."""
        found = []
        for server in (self.pair.primary, self.pair.mirror):
            assert server.process is not None
            text = Path(f"/proc/{server.process.pid}/status").read_text()
            found.append(int(text.split("VmHWM:")[1].split()[0]))
        return max(found)

    def resync_when_back(self, *words: str) -> None:
        """The mirror is away: the order says so, and what it prefers holds when it is back."""
        done = run_revolume(["resync", str(self.pair.primary.directory), *words], {}, 60)
        assert done.returncode == 4 and "as soon as it is back" in done.stderr, done.stderr

    def resync(self, *words: str) -> Any:
        return json.loads(revolume("resync", self.pair.primary.directory, *words, "--json"))

    def point(self) -> dict[str, Any]:
        return self.pair.status(self.pair.primary)

    def differs(self, export: str = "", server: Server | None = None) -> list[int]:
        """Blocks in which the mirror (or another) is not what was written."""
        with Wire((server or self.pair.mirror).uri(export)) as wire:
            found = b"".join(wire.pieces(start=0, end=len(self.model)))
        return [at for at in range(0, len(found), BLOCK) if found[at : at + BLOCK] != self.model[at : at + BLOCK]]

    def rules(self) -> list[list[str]]:
        """By which the source, and by which the target brought the mirror up to date, in the order of each log."""
        said = [self.pair.primary.said(), self.pair.mirror.said()]
        return [[part.split(".")[0] for part in text.split("connected, rule ")[1:]] for text in said]

    def close(self) -> None:
        self.pair.close()


class Writer:
    """A client that writes a number, one higher each time, into the next of its slots, and waits for answers."""

    SLOTS = 512

    def __init__(self, uri: str, seed: int) -> None:
        self._uri = uri
        self._first = seed * 1_000_000
        self.answered = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _write(self) -> None:
        with Wire(self._uri) as wire:
            while not self._over.is_set():
                number = self.answered + 1
                wire.pwrite(number % self.SLOTS * BLOCK, struct.pack("<Q", self._first + number) * (BLOCK // 8))
                self.answered = number

    def wait_for(self, more: int) -> None:
        wanted, deadline = self.answered + more, time.monotonic() + 30
        while self.answered < wanted:
            assert time.monotonic() < deadline, "clients get no answers"
            time.sleep(0.005)

    def state_in(self, outage: Outage, moment: str) -> int:
        """Up to which number a past moment has everything, in order. It must hold nothing else."""
        found = outage.read(moment)[: self.SLOTS * BLOCK]
        numbers = {struct.unpack_from("<Q", found, at)[0] - self._first for at in range(0, len(found), BLOCK)}
        newest = max(number for number in numbers if number <= self.answered)
        assert set(range(max(1, newest - self.SLOTS + 1), newest + 1)) <= numbers
        return newest
