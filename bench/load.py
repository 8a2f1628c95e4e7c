"""The load: fio for everything that its nbd engine can ask for, a driver of our own for FUA writes.

Both answer with the same `Measured`. The FUA driver keeps `depth` requests in flight on one connection from
prepared bytes, so that Python's own cost stays small beside a sync; it is the same program for every peer.
"""

from __future__ import annotations

import json
import random
import socket
import statistics
import struct
import subprocess
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. `p50_us` and `p99_us` are completion latencies, of the slower side of a mixed load."""

    iops: float
    bytes_per_second: float
    client_bytes: int
    p50_us: float
    p99_us: float
    written_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Fio:
    """One fio job. It ends when all `amount` bytes are moved or `seconds` have passed, whichever is first."""

    rw: str
    bs: int
    depth: int
    seconds: float
    amount: int = 0
    time_based: bool = False
    span: int = 0  # bytes of the export that it touches; 0: all
    jobs: int = 1  # connections, each with its own requests in flight
    align: int = 0  # of random offsets; 0: the block size
    reads: int = 0  # of a mixed load: percent that are reads

    def run(self, uri: str, size: int, seed: int) -> Measured:
        span = self.span or size
        command = [
            "fio",
            "--name=b",
            f"--rw={self.rw}",
            f"--bs={self.bs}",
            f"--iodepth={self.depth}",
            f"--size={span}",
            f"--runtime={round(self.seconds * 1000)}ms",  # fio takes whole numbers only
            f"--randseed={seed}",
            "--norandommap=1",
            "--random_generator=tausworthe64",
            "--output-format=json",
            "--refill_buffers=0",
        ]
        if self.jobs > 1:
            command += [f"--numjobs={self.jobs}", "--group_reporting=1"]
        if self.align:
            command.append(f"--blockalign={self.align}")
        if self.reads:
            command.append(f"--rwmixread={self.reads}")
        if self.time_based:
            command.append("--time_based=1")
        else:
            command.append(f"--io_size={self.amount or span}")
        if uri.startswith("file:"):
            # Through the page cache a depth has no meaning: one thread, one call after another.
            command += ["--ioengine=psync", f"--filename={uri.removeprefix('file:')}", "--invalidate=0"]
        else:
            command += ["--ioengine=nbd", f"--uri={uri}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.seconds * 3 + 120)
        start = done.stdout.find("{")
        if done.returncode or start < 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-400:]}")
        (job,) = json.loads(done.stdout[start:])["jobs"]
        if job["error"]:
            raise RuntimeError(f"fio met error {job['error']} on {uri}")
        sides = [side for side in (job["read"], job["write"]) if side["io_bytes"]]
        late = max((side["clat_ns"] for side in sides), key=lambda ns: float(ns["mean"])).get("percentile", {})
        return Measured(
            iops=sum(side["iops"] for side in sides),
            bytes_per_second=sum(side["bw_bytes"] for side in sides),
            client_bytes=sum(side["io_bytes"] for side in sides),
            p50_us=late.get("50.000000", 0) / 1000,
            p99_us=late.get("99.000000", 0) / 1000,
            written_bytes=job["write"]["io_bytes"],
        )


@dataclass(frozen=True, slots=True)
class FuaWrites:
    """Random 4 KiB writes, each with FUA, `depth` in flight on one connection."""

    depth: int
    seconds: float

    def run(self, uri: str, size: int, seed: int) -> Measured:
        sock = _connect(uri)
        chance = random.Random(seed)
        payload = bytes(range(256)) * (BLOCK // 256)
        blocks = size // BLOCK
        began: list[float] = [0.0] * self.depth
        late: list[float] = []
        free = list(range(self.depth))
        answers = bytearray()
        start = time.perf_counter()
        end = start + self.seconds
        in_flight = 0
        while True:
            now = time.perf_counter()
            if free and now < end:
                parts: list[bytes] = []
                for slot in free:
                    offset = chance.randrange(blocks) * BLOCK
                    parts += (struct.pack(">IHHQQI", 0x25609513, 1, 1, slot, offset, BLOCK), payload)
                    began[slot] = now
                in_flight += len(free)
                free.clear()
                sock.sendall(b"".join(parts))
            if not in_flight:
                break
            answers += sock.recv(65536)
            now = time.perf_counter()
            whole = len(answers) // 16 * 16
            for magic, error, slot in struct.iter_unpack(">IIQ", bytes(answers[:whole])):
                if magic != 0x67446698 or error:
                    raise RuntimeError(f"FUA write answered with error {error}")
                late.append(now - began[slot])
                free.append(slot)
            del answers[:whole]
            in_flight -= whole // 16
        took = time.perf_counter() - start
        sock.close()
        late.sort()
        return Measured(
            iops=len(late) / took,
            bytes_per_second=len(late) * BLOCK / took,
            client_bytes=len(late) * BLOCK,
            p50_us=statistics.median(late) * 1e6,
            p99_us=late[int(len(late) * 0.99)] * 1e6,
            written_bytes=len(late) * BLOCK,
        )


def _connect(uri: str) -> socket.socket:
    """Plain NBD, simple replies only: every answer to a write is sixteen bytes."""
    parts = urlsplit(uri)
    name = parts.path.removeprefix("/").encode()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(parse_qs(parts.query)["socket"][0])
    flags = struct.unpack(">8s8sH", _exactly(sock, 18))[2]
    sock.sendall(struct.pack(">I", flags & 3))
    go = struct.pack(f">I{len(name)}sH", len(name), name, 0)
    sock.sendall(struct.pack(">8sII", b"IHAVEOPT", 7, len(go)) + go)
    while True:
        _, _, kind, length = struct.unpack(">QIII", _exactly(sock, 20))
        said = _exactly(sock, length)
        if kind == 1:
            return sock
        if kind >> 31:
            raise RuntimeError(f"GO refused: {said.decode(errors='replace')}")


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("the server closed the connection")
        data += more
    return data
