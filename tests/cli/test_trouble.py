"""Trouble with the disk as a client meets it, on the real program: an error for the request that meets it, on a
connection that goes on; nothing answered is lost; and when the trouble is over, work goes on by itself."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import kernel_lacks
from tests.support.servers import REVOLUME, Serve, Server, revolume, revolume_only
from tests.support.wire import Wire, WireError

pytestmark = revolume_only
MiB = 1 << 20
BLOCK = 4096
EIO, ENOSPC = 5, 28


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    place = folder / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m,mode=755", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        kernel_lacks(f"a tmpfs may not be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


class Book:
    """What was answered: random blocks, each one's last content."""

    def __init__(self) -> None:
        self.chance = random.Random(4)
        self.blocks: dict[int, bytes] = {}

    def write(self, wire: Wire) -> None:
        block, content = self.chance.randrange(64 * MiB // BLOCK - 8), self.chance.randbytes(8 * BLOCK)
        wire.pwrite(block * BLOCK, content)
        for index in range(8):
            self.blocks[block + index] = content[index * BLOCK : (index + 1) * BLOCK]

    def check(self, wire: Wire) -> None:
        wrong = [block for block, content in self.blocks.items() if wire.pread(block * BLOCK, BLOCK) != content]
        assert not wrong, f"{len(wrong)} of {len(self.blocks)} blocks are not what was answered"


def fill(path: Path, left: int) -> None:
    """In pieces: the server makes segments ready meanwhile."""
    with open(path, "ab", buffering=0) as file:
        while (more := _free(path.parent) - left) > 0:
            file.write(bytes(min(more, MiB)))


def _free(folder: Path) -> int:
    now = os.statvfs(folder)
    return now.f_bavail * now.f_frsize


def until_full(book: Book, wire: Wire) -> None:
    for _ in range(4000):
        try:
            book.write(wire)
        except WireError as error:
            assert error.errno == ENOSPC
            return
    pytest.fail("it never filled up")


@pytest.mark.slow
def test_a_full_disk(serve: Serve, small_disk: Path) -> None:
    options = ("--segment-size", "256K", "--spare", "1M", "--budget", "1G", "--cp-interval", "1s")
    server: Server = serve("unix", options=options, persistent=True, folder=small_disk)
    uri, book, filler = server.uri(), Book(), small_disk / "filler"
    with Wire(uri) as wire:
        book.write(wire)
        revolume("snapshot", server.directory, "keep-all")
        fill(filler, left=2 * MiB)
        until_full(book, wire)
        for request in (lambda: wire.trim(0, MiB), lambda: wire.zero(5, 70000)):
            try:
                request()
            except WireError as error:
                assert error.errno == ENOSPC
        book.blocks = {b: c for b, c in book.blocks.items() if b * BLOCK >= MiB}  # trimmed, or not
        wire.flush()
        book.check(wire)
        assert '"full"' in revolume("status", server.directory, "--json")

        filler.unlink()
        for _ in range(20):
            book.write(wire)  # on the same connection, by itself
        wire.flush()
        book.check(wire)
        fill(filler, left=0)
        until_full(book, wire)
    server.kill()
    revolume("check", server.directory)
    filler.unlink()
    server.start()
    with Wire(server.uri()) as wire:
        book.check(wire)
        book.write(wire)
    assert server.stop() == 0
    revolume("check", server.directory)


@pytest.mark.slow
def test_a_size_for_which_there_are_no_files(serve: Serve, folder: Path) -> None:
    """A limit of the process stands for that of a file system: it ends in the same error."""
    limited = ("prlimit", f"--fsize={512 * MiB}")
    command = [*limited, str(REVOLUME), "serve", str(folder / "large"), "--size", "1G", "--json"]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 2 and '"size-too-large"' in made.stdout + made.stderr

    options = ("--segment-size", "256K", "--spare", "1M", "--budget", "4M", "--keep", "1s", "--cp-interval", "1s")
    server: Server = serve("unix", options=options, wrapper=limited)
    for size in ("1G", "512T"):
        revolume("grow", server.directory, size, ok=(2,))
    revolume("grow", server.directory, "256M")
    book = Book()
    with Wire(server.uri()) as wire:
        for _ in range(250):  # two budgets: some of it has to be folded
            book.write(wire)
        book.check(wire)
    status = revolume("status", server.directory)
    assert "256 MiB" in status and "folding failed" not in status
    assert not list((server.directory / "maps").glob("view-*"))


@pytest.mark.slow
def test_a_snapshot_that_is_held_refuses_nothing(serve: Serve) -> None:
    options = ("--segment-size", "256K", "--spare", "1M", "--budget", "8M", "--cp-interval", "1s")
    server: Server = serve("unix", options=options)
    book = Book()
    with Wire(server.uri()) as wire:
        book.write(wire)
        revolume("snapshot", server.directory, "kept")
        for _ in range(400):
            book.write(wire)
        book.check(wire)
        revolume("snapshot", server.directory, "--drop", "kept")
        for _ in range(400):
            book.write(wire)
        book.check(wire)
    assert server.stop() == 0
    revolume("check", server.directory)
    server.start()


def spoil(path: Path, needle: bytes) -> None:
    content = path.read_bytes()
    at = content.index(needle)
    with open(path, "r+b") as file:
        file.seek(at + 100)
        file.write(bytes(byte ^ 255 for byte in content[at + 100 : at + 104]))


def test_a_block_that_is_damaged_while_it_is_served(serve: Serve) -> None:
    """Of requests that were sent together only the one that meets it fails; the same over a moment."""
    server: Server = serve("unix")
    good, bad = os.urandom(BLOCK), os.urandom(BLOCK)
    with Wire(server.uri()) as wire:
        wire.pwrite(0, good + bad + good)
        revolume("snapshot", server.directory, "both")
        for path in (server.directory / "log").iterdir():
            if bad in path.read_bytes():
                spoil(path, bad)
        cookies = {wire.send(0, at * BLOCK, BLOCK): at for at in (0, 1, 2, 3)}
        answers = {cookies[cookie]: (error, data) for cookie, error, data in (wire.receive() for _ in range(4))}
        assert answers == {0: (0, good), 1: (EIO, b""), 2: (0, good), 3: (0, bytes(BLOCK))}
        with pytest.raises(WireError) as failed:
            wire.pwrite(BLOCK + 10, b"part of it") or wire.pread(BLOCK, BLOCK)
        assert failed.value.errno == EIO
        wire.pwrite(BLOCK, good)  # written anew it is good again
        assert wire.pread(0, 3 * BLOCK) == good * 3
        wire.flush()
    with Wire(server.uri("vol@both")) as wire:
        assert wire.pread(0, BLOCK) == good
        with pytest.raises(WireError) as failed:
            wire.pread(0, 2 * BLOCK)
        assert failed.value.errno == EIO
    assert "Traceback" not in server.said()


def read_all(wire: Wire, book: Book) -> tuple[int, int]:
    """How many blocks came back right, and how many were refused; a wrong one fails."""
    right = refused = 0
    blocks = list(book.blocks)
    for at in range(0, len(blocks), 16):
        asked = {wire.send(0, block * BLOCK, BLOCK): block for block in blocks[at : at + 16]}
        for _ in asked.copy():
            cookie, error, data = wire.receive()
            assert error in (0, EIO)
            assert error or data == book.blocks[asked[cookie]]
            refused, right = refused + bool(error), right + (not error)
    return right, refused


def test_sums_that_are_damaged_while_they_are_served(serve: Serve) -> None:
    """What is looked up in them is an error, in batches too; the connection goes on. The stop says what it could
    not do, and loses nothing."""
    server: Server = serve("unix", options=("--segment-size", "64K", "--budget", "2M", "--keep", "0"))
    book = Book()
    with Wire(server.uri()) as wire:
        for _ in range(200):
            book.write(wire)
    assert server.stop() == 0
    sums = server.directory / "image.sums"
    content = bytearray(sums.read_bytes())
    for at in range(2 * BLOCK, len(content), BLOCK):
        content[at + 3000] ^= 1
    server.start()
    with open(sums, "r+b") as file:
        file.write(content)
    with Wire(server.uri()) as wire:
        right, refused = read_all(wire, book)
        assert right and refused
        book.write(wire)
        wire.flush()
    assert server.stop() == 1
    assert "error[page-damaged]" in server.said() and "Traceback" not in server.said()

    server.start()
    with Wire(server.uri()) as wire:
        after, still_refused = read_all(wire, book)
        assert after >= right and still_refused, "what was written meanwhile is there, the rest as it was"
    assert server.stop() == 1
    told = revolume("check", server.directory, ok=(5,))
    assert "image.sums" in told and "manifest" not in told and "log/" not in told
