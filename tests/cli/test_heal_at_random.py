"""Hundreds of blocks rot at random in image, log and history of both nodes while clients write: every one is
healed, no read fails, nothing becomes suspect, and both stores check clean afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from revolume.nbd.client import Client
from tests.support.mirrors import Node, client, read, revolume, run_revolume
from tests.support.tally import SEED, rounds

BLOCK = 4096
MiB = 1 << 20
ROUNDS = rounds(48, 12)
SIZE = (8 if ROUNDS <= 12 else 32) * MiB
A_ROUND = 16
"""Blocks that rot at each node in a round."""
SMALL = ("--segment-size", "1M", "--budget", "24M", "--spare", "4M", "--keep", "2s", "--cp-interval", "300ms")
COLD = SIZE // BLOCK // 2
STRIPE = COLD // ROUNDS // 8 * 8
pytestmark = pytest.mark.timeout(400 if ROUNDS <= 12 else 3600)
Place = tuple[Path, int]


class Pair:
    """Two nodes. ``blocks``: what the volume holds; ``known``: hashes of blocks that both nodes have for good."""

    def __init__(self, folder: Path) -> None:
        link = f"unix:{folder}/link"
        self.mirror = Node(folder / "m", "--mirror-listen", link, *SMALL)
        self.primary = Node(folder / "p", "--size", str(SIZE), *SMALL, "--mirror-to", f"{link},name=m")
        self.primary.until_joined()
        self.chance = random.Random(SEED)
        self.blocks: dict[int, bytes] = {}
        self.known: set[bytes] = set()
        self.rotted: set[bytes] = set()
        self.cold = COLD
        self.planted: dict[str, int] = {}

    async def write(self, opened: Client, first: int, count: int) -> None:
        data = self.chance.randbytes(count * BLOCK)
        await opened.write(first * BLOCK, data)
        self.blocks |= {first + at: data[at * BLOCK : (at + 1) * BLOCK] for at in range(count)}

    async def write_hot(self, opened: Client, writes: int) -> None:
        """The lower half is written again and again: folds go on, segments are used again."""
        for _ in range(writes):
            await self.write(opened, self.chance.randrange(COLD - 32), self.chance.choice((1, 1, 2, 8, 32)))

    async def write_cold(self, opened: Client) -> None:
        """A part of the upper half, once."""
        for first in range(self.cold, self.cold + STRIPE, 8):
            await self.write(opened, first, 8)
        self.cold += STRIPE
        self.keep(block for block in self.blocks if block >= COLD)

    def keep(self, blocks: Iterable[int]) -> None:
        """What these hold now, both nodes have from now on: it is not written again, or a snapshot holds it."""
        self.known |= {hashlib.blake2b(self.blocks[block]).digest() for block in blocks}

    async def read_some(self, opened: Client, count: int) -> None:
        for block in self.chance.sample(sorted(self.blocks), count):
            assert await opened.read(block * BLOCK, BLOCK) == self.blocks[block], f"block {block}, seed {SEED}"

    def places(self, node: Node) -> dict[bytes, Place]:
        """Where the node has blocks that were written, by their hash: files of every kind."""
        found, data = dict[bytes, Place](), b""
        files = [node.directory / "image", *(node.directory / "log").iterdir()]
        rescue = node.directory / "rescue"
        files += rescue.iterdir() if rescue.exists() else []
        for path in files:
            with contextlib.suppress(FileNotFoundError):  # merged and removed meanwhile
                data = path.read_bytes()
            for at in range(0, len(data) - BLOCK + 1, BLOCK):
                digest = hashlib.blake2b(data[at : at + BLOCK]).digest()
                if digest in self.known:
                    found[digest] = path, at
        return found

    def rot(self) -> None:
        """Blocks that both have rot at one of the two, not the same ones at both."""
        here, there = self.places(self.primary), self.places(self.mirror)
        both = sorted((here.keys() & there.keys()) - self.rotted)
        self.chance.shuffle(both)
        self.rotted |= set(both[: 2 * A_ROUND])  # what has rotted at one never rots at the other
        for at, digest in enumerate(both[: 2 * A_ROUND]):
            node, (path, offset) = ("primary", here[digest]) if at % 2 else ("mirror", there[digest])
            if not path.exists():  # merged and removed meanwhile
                continue
            spoil(path, offset + self.chance.randrange(BLOCK))
            kind = f"{node}'s {path.parent.name if path.name != 'image' else 'image'}"
            self.planted[kind] = self.planted.get(kind, 0) + 1


def spoil(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x55]))


def scrub(node: Node) -> int:
    """0: nothing was damaged; 5: something was."""
    ended = run_revolume(["scrub", str(node.directory)], {}, 120)
    assert ended.returncode in (0, 5), ended.stdout + ended.stderr
    print(ended.stdout)
    return ended.returncode


@pytest.fixture
def pair(folder: Path) -> Iterator[Pair]:
    made = Pair(folder)
    yield made
    print(f"seed {SEED}, planted {made.planted}")
    for node in (made.primary, made.mirror):
        node.kill()
        print(node.log.read_text())


@pytest.mark.soak
def test_whatever_rots_at_one_is_healed_by_the_other(pair: Pair) -> None:
    async def live(opened: Client) -> None:
        await pair.write_hot(opened, 200)
        revolume("snapshot", pair.primary.directory, "s")
        pair.keep(list(pair.blocks))
        for number in range(ROUNDS):
            await pair.write_cold(opened)
            await pair.write_hot(opened, 60)
            pair.rot()
            await pair.read_some(opened, 40)
            await pair.write_hot(opened, 60)
            if number % 4 == 3:
                for node in (pair.primary, pair.mirror):
                    scrub(node)

    client(pair.primary.uri("p"), live)
    assert sum(pair.planted.values()) >= 17 * ROUNDS, pair.planted
    assert len([kind for kind in pair.planted if "image" in kind or "log" in kind]) == 4, pair.planted
    pair.primary.until_agreed()
    want = b"".join(pair.blocks.get(block, bytes(BLOCK)) for block in range(SIZE // BLOCK))
    assert read(pair.primary.uri("p")) == want
    assert read(pair.primary.uri("p@s")) == read(pair.mirror.uri("p@s"))
    for node in (pair.primary, pair.mirror):
        scrub(node)
        assert scrub(node) == 0, "something is left"
        status = node.status
        assert status["unhealed"] == [] and status["damaged"] == [] and status["state"] == "online", status
        assert status["healed_blocks"] > 20
    for node in (pair.primary, pair.mirror):
        node.stop()
        revolume("check", node.directory)
