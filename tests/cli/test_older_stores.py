"""Stores written by earlier versions open, go on, and keep their promises. See tests/data/format-1/README.md."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mirrors import MiB, Node, promote, read, revolume, until, write

STORES = Path(__file__).parents[1] / "data"
pytestmark = pytest.mark.timeout(240)


def unpacked(folder: Path, store: str) -> dict[str, str]:
    """The store's directories in ``folder``; the SHA-256 of what they have to hold."""
    with tarfile.open(STORES / store) as packed:
        packed.extractall(folder, filter="data")
    found: dict[str, str] = json.loads((folder / "expected.json").read_text())
    return found


def digest(node: Node, export: str) -> str:
    return hashlib.sha256(read(node.uri(export))).hexdigest()


@pytest.fixture(params=["format-1/pair-clean.tar.xz", "format-1/pair-killed.tar.xz"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(folder: Path, store: str) -> Iterator[tuple[dict[str, str], Node, Node]]:
    expected = unpacked(folder, store)
    link = f"unix:{folder}/link"
    mirror = Node(folder / "mirror", "--mirror-listen", link)
    primary = Node(folder / "primary", "--mirror-to", f"{link},name=m1", "--cp-interval", "200ms")
    yield expected, primary, mirror
    for node in (primary, mirror):
        node.kill()
        print(node.log.read_text())


def test_a_pair_of_an_earlier_version_goes_on(pair: tuple[dict[str, str], Node, Node]) -> None:
    expected, primary, mirror = pair
    primary.until_joined()
    for name in ("one", "two"):
        assert digest(primary, f"primary@{name}") == expected[name]
    assert digest(primary, "primary") == expected["live"]
    write(primary.uri("primary"), (5 * MiB, b"\x77" * 8192), (100, b"new"))
    revolume("snapshot", primary.directory, "three")
    primary.until_agreed()
    now = digest(primary, "primary")
    for name in ("one", "two"):
        assert digest(mirror, f"primary@{name}") == expected[name]
    primary.kill()
    promote(mirror.directory)
    assert digest(mirror, "primary") == now == digest(mirror, "primary@three")
    mirror.stop()
    for node in (primary, mirror):
        revolume("check", node.directory)


def test_stores_of_an_earlier_version_hold(folder: Path, store: str) -> None:
    unpacked(folder, store)
    for name in ("primary", "mirror"):
        revolume("check", folder / name)


def demoted(primary: Node, mirror: Node) -> Node:
    """What was the primary, as a mirror of the one that was promoted."""
    link = f"unix:{primary.directory}-link"
    revolume("demote", primary.directory, "--mirror-listen", link)
    revolume("mirror", "add", mirror.directory, "old", link)
    return Node(primary.directory)


def test_the_old_primary_becomes_the_mirror_of_one_that_has_larger_segments(
    pair: tuple[dict[str, str], Node, Node],
) -> None:
    """Neither store says what its volume's largest transfer is; from its source the mirror knows it."""
    _, primary, mirror = pair
    revolume("wait", primary.directory, "--mirror", "m1")  # that it has joined is known from before
    primary.kill()
    promote(mirror.directory)
    write(mirror.uri("primary"), (0, b"\x11" * 4 * MiB), (5 * MiB + 100, b"\x12" * 3 * MiB))
    former = demoted(primary, mirror)
    try:
        revolume("wait", mirror.directory, "--mirror", "old")
        mirror.until_agreed()
        assert digest(former, "primary") == digest(mirror, "primary")
        assert digest(former, "primary@one") == pair[0]["one"]
    finally:
        former.kill()
        print(former.log.read_text())


def test_a_mirror_that_was_promoted_unasked_says_what_its_segments_hold(folder: Path) -> None:
    """An earlier version may have promoted it, and written what only its own segments hold."""
    unpacked(folder, "format-1/pair-clean.tar.xz")
    mirror = Node(folder / "mirror", "--mirror-listen", f"unix:{folder}/link")
    primary = None
    try:
        promote(mirror.directory, "--force")
        revolume("demote", folder / "primary", "--mirror-listen", f"unix:{folder}/back")
        primary = Node(folder / "primary")
        revolume("mirror", "add", mirror.directory, "old", f"unix:{folder}/back")
        said = "A transfer may take 512 blocks; a segment of the target has 256."
        until("it is refused", lambda: said in mirror.mirror["reason"])
    finally:
        for node in (mirror, primary):
            if node is not None:
                node.kill()
                print(node.log.read_text())
