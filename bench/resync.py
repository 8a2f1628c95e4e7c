"""What bringing a mirror up to date costs after an outage, counted on the wire: by a difference and by the log.

    python -m bench.resync [--size 4GiB] [--shares 1,10,50] [--out FILE]

One pair of nodes on this machine, async, over a relay that counts; the volume is full of random bytes. For each
share of it, at random and in a row, each block written once and five times: the link is cut, the share is written,
the link comes back, a resync is ordered; taken is the time until the mirror stands at the primary's last point.
Beside it, for the same share: raw bytes through the same relay, `rsync --inplace` of a file with the same changes,
a whole `nbdcopy`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.peers import REVOLUME, MiB

GiB = 1 << 30
BLOCK = 4096
PIECE = 1 << 18


class Relay:
    """Carries bytes from a unix socket to another, until it is cut, and counts them."""

    def __init__(self, near: Path, far: Path) -> None:
        self.near, self.far = near, far
        self.carried = 0
        self.whole = True
        self._ends: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(near))
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            taken, _ = self._listener.accept()
            there = socket.socket(socket.AF_UNIX)
            try:
                if not self.whole:
                    raise ConnectionRefusedError
                there.connect(str(self.far))
            except OSError:
                taken.close()
                continue
            self._ends += [taken, there]
            for one, other in ((taken, there), (there, taken)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        buffer = memoryview(bytearray(PIECE))
        with suppress(OSError):
            while count := one.recv_into(buffer):
                other.sendall(buffer[:count])
                self.carried += count
        for end in (one, other):
            end.close()

    def cut(self) -> None:
        self.whole = False
        ends, self._ends = self._ends, []
        for end in ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.whole = True


@dataclass(frozen=True)
class Outage:
    """What was changed meanwhile, and what it took afterwards. Bytes; seconds."""

    by: str
    share: int
    pattern: str
    times: int
    unique: int
    written: int
    carried: int
    seconds: float
    raw_seconds: float
    rules: list[str]

    @property
    def per_byte(self) -> float:
        """Carried for each byte that had to be: unique ones by a difference, all that were written by the log."""
        return self.carried / (self.unique if self.by == "difference" else self.written)


class Pair:
    """A primary and its mirror in ``root``."""

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.size = root, size
        self.relay = Relay(root / "near", root / "far")
        self._mirror = self._serve("m", "--mirror-listen", f"unix:{root}/far")
        to = f"unix:{root}/near,mode=async,name=m"
        self._primary = self._serve("p", "--size", str(size), "--mirror-to", to)
        self.until("it joins", lambda: self.mirror()["joined"])

    def _serve(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.log").open("ab") as log:
            budget = ("--budget", f"{max(4 * self.size // MiB, 512)}MiB", "--cp-interval", "1s")
            process = subprocess.Popen(
                [REVOLUME, "serve", str(self.root / name), *budget, *words], stdout=log, stderr=log
            )
        subprocess.run(
            [REVOLUME, "wait", str(self.root / name), "--timeout", "60s"], check=True, capture_output=True
        )
        return process

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self.root}/p/nbd.sock"

    def status(self) -> dict[str, Any]:
        done = subprocess.run(
            [REVOLUME, "status", str(self.root / "p"), "--json"], check=True, capture_output=True
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def mirror(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status()["mirrors"][0]
        return found

    def until(self, what: str, happened: Any, seconds: float = 900) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                raise RuntimeError(what)
            time.sleep(0.05)

    def level(self) -> bool:
        status = self.status()
        mirror = status["mirrors"][0]
        return bool(mirror["durable"] >= status["position"] and mirror["state"] == "in sync")

    def until_level(self) -> None:
        subprocess.run([REVOLUME, "points", "cut", str(self.root / "p")], capture_output=True)
        self.until("the mirror is level", self.level)

    def write(self, pattern: str, share: int, times: int) -> tuple[int, int]:
        """Bytes changed, and bytes written."""
        unique = self.size * share // 100 // MiB * MiB
        words = (
            ["--rw=randwrite", "--bs=4k", "--randrepeat=0"] if pattern == "random" else ["--rw=write", "--bs=64k"]
        )
        where = self.size if pattern == "random" else unique
        fio = [
            "fio", "--name=w", "--ioengine=nbd", f"--uri={self.uri}", "--iodepth=16", f"--size={where}",
            f"--io_size={unique}", "--refill_buffers", "--output-format=json", *words,
        ]  # fmt: skip
        seed = str(int.from_bytes(os.urandom(4), "little"))
        for _ in range(times):  # the same blocks each time
            subprocess.run([*fio, f"--randseed={seed}"], check=True, capture_output=True)
        return unique, unique * times

    def rules(self, since: int) -> list[str]:
        text = (self.root / "p.log").read_text()[since:]
        return re.findall(r"connected, rule ([a-z-]+)\.", text)

    def outage(self, by: str, share: int, pattern: str, times: int) -> Outage:
        self.until_level()
        self.relay.cut()
        self.until("the loss is noticed", lambda: self.mirror()["state"] != "in sync")
        unique, written = self.write(pattern, share, times)
        since = (self.root / "p.log").stat().st_size
        self.relay.carried, began = 0, time.monotonic()
        self.relay.mend()
        subprocess.run(  # by order: by itself it begins when the pause between two attempts, 2 s, is over
            [REVOLUME, "resync", str(self.root / "p"), "--prefer", "bytes" if by == "difference" else "history"],
            capture_output=True,
        )
        self.until_level()
        took, carried = time.monotonic() - began, self.relay.carried
        return Outage(
            by, share, pattern, times, unique, written, carried, took, self.raw(carried), self.rules(since)
        )

    def raw(self, count: int) -> float:
        """Seconds for so many bytes through a relay like that."""
        near, far = self.root / "raw-near", self.root / "raw-far"
        for place in (near, far):
            place.unlink(missing_ok=True)
        sink = socket.socket(socket.AF_UNIX)
        sink.bind(str(far))
        sink.listen(1)
        Relay(near, far)
        source = socket.socket(socket.AF_UNIX)
        source.connect(str(near))
        taken, _ = sink.accept()
        began, left, buffer = time.monotonic(), count, memoryview(bytearray(PIECE))
        sending = threading.Thread(target=_send, args=(source, count))
        sending.start()
        while left > 0 and (got := taken.recv_into(buffer)):
            left -= got
        sending.join()
        for end in (source, taken, sink):
            end.close()
        return time.monotonic() - began

    def close(self) -> None:
        for process in (self._primary, self._mirror):
            process.terminate()
            process.wait(60)


def _send(source: socket.socket, count: int) -> None:
    buffer = memoryview(os.urandom(PIECE))
    while count > 0:
        source.sendall(buffer[: min(PIECE, count)])
        count -= PIECE


def rsync(root: Path, size: int, share: int) -> dict[str, Any] | None:
    """The same share of a file, at random, by rsync."""
    if shutil.which("rsync") is None:
        return None
    old, new = root / "old.img", root / "new.img"
    with old.open("wb") as file:
        for _ in range(size // MiB):
            file.write(os.urandom(MiB))
    shutil.copyfile(old, new)
    step = 100 * BLOCK // max(share, 1)
    with new.open("r+b") as file:
        for at in range(0, size - BLOCK, step // BLOCK * BLOCK or BLOCK):
            file.seek(at)
            file.write(os.urandom(BLOCK))
    began = time.monotonic()
    done = subprocess.run(
        ["rsync", "--inplace", "--no-whole-file", "--stats", str(new), str(old)],
        check=True,
        capture_output=True,
        text=True,
    )
    took = time.monotonic() - began
    numbers = {
        key: int(value.replace(",", "")) for key, value in re.findall(r"Total bytes (\w+): ([\d,]+)", done.stdout)
    }
    for place in (old, new):
        place.unlink()
    return {"by": "rsync", "share": share, "carried": sum(numbers.values()), "seconds": took}


def nbdcopy(pair: Pair) -> dict[str, Any]:
    """All of it."""
    copy = pair.root / "copy.img"
    began = time.monotonic()
    subprocess.run(["nbdcopy", pair.uri, str(copy)], check=True)
    took = time.monotonic() - began
    copy.unlink()
    return {"by": "nbdcopy", "carried": pair.size, "seconds": took}


@contextmanager
def temporary_root() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(prefix="rvb-", dir=os.environ.get("BENCH_DIR")))
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _line(outage: Outage) -> str:
    what = f"{outage.by:10} {outage.share:2}% {outage.pattern:10} x{outage.times}"
    took = f"{outage.seconds:6.2f} s, raw {outage.raw_seconds:6.2f} s"
    sent = f"{outage.carried / MiB:9.1f} MiB, {outage.per_byte:.4f} a byte"
    return f"{what}: {sent}, {took}, {' '.join(outage.rules)}"


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--size", type=float, default=4.0, help="GiB")
    asked.add_argument("--shares", default="1,10,50")
    asked.add_argument("--out", type=Path)
    options = asked.parse_args()
    size, found = int(options.size * GiB), list[dict[str, Any]]()
    with temporary_root() as root:
        pair = Pair(root, size)
        try:
            pair.write("sequential", 100, 1)
            for share in map(int, options.shares.split(",")):
                for pattern in ("random", "sequential"):
                    for times in (1, 5):
                        for by in ("difference", "log"):
                            outage = pair.outage(by, share, pattern, times)
                            found.append({**asdict(outage), "per_byte": outage.per_byte})
                            print(_line(outage), flush=True)
                if (other := rsync(root, size, share)) is not None:
                    found.append(other)
                    print(
                        f"rsync {share} %: {other['carried'] / MiB:.1f} MiB, {other['seconds']:.2f} s", flush=True
                    )
            found.append(whole := nbdcopy(pair))
            print(f"nbdcopy: {whole['carried'] / MiB:9.1f} MiB, {whole['seconds']:6.2f} s")
        finally:
            pair.close()
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
