"""A history of hundreds of files with few descriptors, and a service that has none left. Real processes."""

from __future__ import annotations

import hashlib
import socket
import time
from pathlib import Path

from tests.support.programs import run
from tests.support.servers import REVOLUME, Serve, Server, revolume_only
from tests.support.wire import Wire

MiB = 1 << 20
SIZE = 16 * MiB
PIECE = 60 << 10
SEGMENTS = 80
LIMIT = 64
MANY = ("--segment-size", "64K", "--budget", "64M", "--spare", "256K", "--max-connections", "1000")

pytestmark = revolume_only


def limited(descriptors: int) -> tuple[str, ...]:
    return ("prlimit", f"--nofile={descriptors}:{descriptors}")


def payload(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest() * (PIECE // 32)


def place(number: int) -> int:
    return number * (64 << 10) % SIZE


def write(wire: Wire, first: int, count: int) -> None:
    for number in range(first, first + count):
        wire.pwrite(place(number), payload(number))


def has_written(wire: Wire, last: int) -> None:
    """All that is newest after ``last`` writes."""
    for number in range(max(0, last - SIZE // (64 << 10)), last):
        assert wire.pread(place(number), PIECE) == payload(number), number


def verb(*words: str | Path) -> str:
    return run(*limited(LIMIT), str(REVOLUME), *map(str, words)).stdout


def files_of(server: Server) -> int:
    return len(list((server.directory / "log").glob("*.seg")))


def test_a_long_history_needs_few_descriptors(serve: Serve) -> None:
    """Every segment was kept open: a history of more files than descriptors could not be opened."""
    server = serve("unix", size=SIZE, options=MANY, wrapper=limited(LIMIT))
    with Wire(server.uri()) as wire:
        write(wire, 0, 20)
        verb("snapshot", server.directory, "early")
        write(wire, 20, SEGMENTS)
        has_written(wire, 20 + SEGMENTS)
    assert files_of(server) > 1.2 * LIMIT
    assert server.stop() == 0
    assert "w20" in verb("points", server.directory, "--at", "early")
    verb("check", server.directory)
    server.start()
    with Wire(server.uri()) as wire, Wire(server.uri(f"{server.name}@early")) as early:
        has_written(wire, 20 + SEGMENTS)
        has_written(early, 20)
    server.kill()
    server.start()
    with Wire(server.uri()) as wire, Wire(server.uri(f"{server.name}@early")) as early:
        has_written(wire, 20 + SEGMENTS)
        has_written(early, 20)
        write(wire, 20 + SEGMENTS, 20)
    assert server.stop() == 0
    verb("salvage", server.directory, server.folder / "rescued.img")
    rescued = (server.folder / "rescued.img").read_bytes()
    last = 39 + SEGMENTS
    assert rescued[place(last) : place(last) + PIECE] == payload(last)


def test_connections_never_take_the_last_descriptors(serve: Serve) -> None:
    """They were taken: new segments could not be made, clients met a full disk, and the log was flooded."""
    server = serve("unix", size=SIZE, options=MANY, wrapper=limited(LIMIT))
    with Wire(server.uri()) as wire:
        write(wire, 0, 10)
        waiting = []
        for _ in range(3 * LIMIT):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect(server.address)  # the kernel's queue takes them all
            waiting.append(client)
        time.sleep(0.2)
        before = len(server.log)
        write(wire, 10, SEGMENTS)
        has_written(wire, 10 + SEGMENTS)
        assert files_of(server) > 1.2 * LIMIT
        verb("snapshot", server.directory, "meanwhile")
        for client in waiting:
            client.close()
        with Wire(server.uri(f"{server.name}@meanwhile")) as after:
            has_written(after, 10 + SEGMENTS)
    assert server.stop() == 0
    paused = [line for line in server.log if "accepting paused" in line]
    assert len(paused) == 1, "one line says it, once"
    assert len(server.log) - before < 20, server.said()
