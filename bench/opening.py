"""How long a moment of the past takes to open, by how many writes are remembered; and what that takes in memory.

    python -m bench.opening [--writes 10000,100000,1000000] [--size 1024] [--data] [--read 5] [--out FILE]

A sparse volume is filled with random 4 KiB changes, all of them remembered: zeroes, so that ten million of them
need no room for content, or with ``--data`` random bytes. Then it is served by a process of its own, and the
oldest, the middle and the newest moment are opened over NBD, by a client that has connected before, a few
neighbours of each. With ``--read`` fio reads 4 KiB at random at the middle moment, and live in the same minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import REVOLUME
from bench.process import tree
from bench.resync import temporary_root
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.nbd.client import Client
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.primary import Volume

GiB = 1 << 30
BLOCK = 4096
BATCH = 4096
NEIGHBOURS = 3
SETTLED_S = 15.0
"""So long a server makes no map and hardly runs before it counts as done with what it does by itself."""


@dataclass(frozen=True, slots=True)
class Fill:
    """What the volume remembers."""

    writes: int
    size: int
    data: bool


async def fill(path: Path, wanted: Fill) -> float:
    """Make the volume; the seconds that its writes took."""
    host = real_host()
    options = OpenOptions(size=wanted.size, budget_bytes=4096 * GiB, reserve_bytes=0, keep_s=7 * 86400.0)
    volume = await open_volume(host, str(path), options)
    began = time.monotonic()
    for ops in batches(wanted):
        await append(volume, ops)
        await asyncio.sleep(0)
    took = time.monotonic() - began
    await volume.close()
    await host.work.close()
    return took


def batches(wanted: Fill) -> Iterator[list[Op]]:
    """The writes that fill a volume as ``wanted`` says, some at a time; a wish always gives the same ones."""
    chance, content = random.Random(1), memoryview(random.Random(2).randbytes(8 << 20))
    blocks = wanted.size // BLOCK
    for first in range(0, wanted.writes, BATCH):
        ops: list[Op] = []
        for _ in range(min(BATCH, wanted.writes - first)):
            offset = chance.randrange(blocks) * BLOCK
            if wanted.data:
                at = chance.randrange(len(content) - BLOCK)
                ops.append((OP_WRITE, offset, BLOCK, content[at : at + BLOCK]))
            else:
                ops.append((OP_ZERO, offset, BLOCK, None))
        yield ops


async def append(volume: Volume, ops: list[Op]) -> None:
    while True:
        try:
            volume.append(ops)
            return
        except WouldBlock:
            await volume.room(ops)


@contextmanager
def served(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [REVOLUME, "serve", str(path), "--keep", "7d"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None and "ready" in server.stdout.readline()
        subprocess.run([REVOLUME, "wait", str(path)], check=True, stdout=subprocess.DEVNULL)
        settle(server.pid, path / "maps")
        yield server
    finally:
        server.terminate()
        server.wait()


def settle(root: int, maps: Path) -> None:
    """Wait until the tree does nothing by itself any more."""
    quiet_since, before = time.monotonic(), (0, [("", 0)])
    while time.monotonic() - quiet_since < SETTLED_S:
        time.sleep(0.5)
        now = ticks(root), sorted((file.name, file.stat().st_size) for file in maps.iterdir())
        if now[0] > before[0] + 4 or now[1] != before[1]:
            quiet_since = time.monotonic()
        before = now


def ticks(root: int) -> int:
    """What all processes of the tree have run, in hundredths of a second."""
    total = 0
    for pid in tree(root):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total


def memory_mib(root: int) -> dict[str, float]:
    """Peak resident memory of the server and of its helper."""
    peaks = []
    for pid in tree(root):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        peaks.append(int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024)
    return {"server_mib": peaks[0], "helper_mib": max(peaks[1:], default=0.0)}


async def opening_ms(path: Path, numbers: list[int]) -> list[float]:
    """Milliseconds that each of these moments takes, from the connection to the first block read."""
    host, found = real_host(), list[float]()
    for number in numbers:
        began = time.monotonic()
        client = await Client.connect(host, uri(path, f"v@w{number}"))
        await client.read(0, BLOCK)
        found.append((time.monotonic() - began) * 1e3)
        await client.close()
    await host.work.close()
    return found


def uri(path: Path, export: str) -> str:
    return f"nbd+unix:///{export}?socket={path}/nbd.sock"


def reads(path: Path, export: str, size: int, seconds: float) -> float:
    """4 KiB reads a second, 16 at once."""
    command = [
        "fio", "--name=r", "--rw=randread", "--bs=4k", "--iodepth=16", "--ioengine=nbd", f"--size={size}",
        "--time_based=1", f"--runtime={seconds}", "--randrepeat=0", "--norandommap=1",
        "--random_generator=tausworthe64", "--output-format=json", f"--uri={uri(path, export)}",
    ]  # fmt: skip
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(told[told.index("{") :])["jobs"][0]["read"]["iops"])


def measured(root: Path, wanted: Fill, read_s: float) -> dict[str, Any]:
    path = root / "v"
    took = asyncio.run(fill(path, wanted))
    result: dict[str, Any] = {"writes": wanted.writes, "data": wanted.data, "fill_s": round(took, 1)}
    with served(path) as server:
        where = {"oldest": 1, "middle": wanted.writes // 2, "newest": wanted.writes - NEIGHBOURS}
        for name, number in where.items():
            times = asyncio.run(opening_ms(path, list(range(number, number + NEIGHBOURS))))
            result[f"{name}_ms"] = round(statistics.median(times), 1)
            result[f"{name}_worst_ms"] = round(max(times), 1)
        result |= {name: round(value, 1) for name, value in memory_mib(server.pid).items()}
        result["maps_mib"] = round(sum(p.stat().st_size for p in (path / "maps").iterdir()) / (1 << 20), 1)
        if read_s:
            middle = f"v@w{wanted.writes // 2}"
            for export, name in (("v", "live"), (middle, "moment"), ("v", "live_again")):
                result[f"{name}_reads"] = round(reads(path, export, wanted.size, read_s))
    return result


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--writes", default="10000,100000,1000000")
    asked.add_argument("--size", type=int, default=1024, help="GiB")
    asked.add_argument("--data", action="store_true", help="random bytes: 4 KiB of disk for each write")
    asked.add_argument("--read", type=float, default=0.0, help="seconds")
    asked.add_argument("--out", type=Path)
    options = asked.parse_args()
    found = []
    for writes in map(int, options.writes.split(",")):
        with temporary_root() as root:
            found.append(measured(root, Fill(writes, options.size * GiB, options.data), options.read))
        print(json.dumps(found[-1]), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
