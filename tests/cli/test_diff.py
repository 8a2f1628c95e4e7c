"""``revolume diff``: what was written between two moments, of a volume that runs or is stopped, or a mirror."""

from __future__ import annotations

import contextlib
import itertools
import random
from pathlib import Path

import pytest

from tests.support.mirrors import SMALL, MiB, Node, refused, revolume, told
from tests.support.servers import short_folder
from tests.support.wire import Wire

BLOCK = 4096
SIZE = 32 * MiB


def written(directory: Path, *moments: str) -> set[int]:
    """The blocks that changed between two moments."""
    found = told("diff", directory, *moments)
    blocks = {
        block
        for each in found["extents"]
        for block in range(each["offset"] // BLOCK, (each["offset"] + each["length"]) // BLOCK)
    }
    assert found["bytes"] == len(blocks) * BLOCK
    ends = [(each["offset"], each["offset"] + each["length"]) for each in found["extents"]]
    assert all(end < begin for (_, end), (begin, _) in itertools.pairwise(ends)), "in order, and apart"
    return blocks


def test_what_was_written_between_two_moments() -> None:
    chance = random.Random(5)
    with short_folder() as folder:
        node = Node(folder / "v", "--size", str(SIZE), *SMALL)
        try:
            rounds = []
            with contextlib.closing(Wire(node.uri())) as wire:
                wire.pwrite(0, b"a" * BLOCK)
                for name in ("one", "two", "three"):
                    revolume("snapshot", node.directory, name)
                    blocks = {chance.randrange(SIZE // BLOCK) for _ in range(30)}
                    for block in blocks:
                        wire.pwrite(block * BLOCK + 512 * chance.randrange(8), bytes([len(name)]) * 512)
                    rounds.append(blocks)
            one, two, three = rounds
            for running in (True, False):
                assert written(node.directory, "one", "two") == one
                assert written(node.directory, "one", "three") == one | two
                assert written(node.directory, "two") == two | three
                assert written(node.directory, "three", "three") == set()
                if running:
                    node.stop()
            assert "changed between" in revolume("diff", node.directory, "one", "two").stdout
            assert "nothing was written" in revolume("diff", node.directory, "three", "three").stdout
        finally:
            with contextlib.suppress(ProcessLookupError):
                node.kill()


@pytest.mark.parametrize(
    ("moments", "status", "code"),
    [
        (("two", "one"), 2, "bad-range"),
        (("one", "nothing"), 3, "no-snapshot"),
        (("cp999",), 3, "moment-not-retained"),
        (("yesterday?",), 2, "bad-moment"),
    ],
)
def test_moments_that_make_no_sense(moments: tuple[str, ...], status: int, code: str) -> None:
    with short_folder() as folder:
        node = Node(folder / "v", "--size", str(SIZE), *SMALL)
        try:
            with contextlib.closing(Wire(node.uri())) as wire:
                for name in ("one", "two"):
                    wire.pwrite(0, name.encode() * 512)
                    revolume("snapshot", node.directory, name)
            assert refused("diff", node.directory, *moments, status=status)["code"] == code
        finally:
            node.kill()
