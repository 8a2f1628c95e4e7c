"""Copies whose logs have segments of other sizes take each other's place: the largest transfer is the volume's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_served_as_recorded import Nodes, in_sync
from tests.support.mirrors import MiB, Node, promote, read, revolume, until, write

pytestmark = pytest.mark.timeout(240)
SIZE = 32 * MiB
SMALL_SEGMENTS = ("--segment-size", "64K", "--budget", "64M", "--spare", "1M")
LARGE_SEGMENTS = ("--segment-size", "1M", "--budget", "128M", "--spare", "4M")


def drawn(seed: int) -> Iterator[tuple[int, bytes]]:
    """Large writes, whole and in part; what a client sends at most, and what fills more than one segment."""
    chance = random.Random(seed)
    yield 0, chance.randbytes(8 * MiB)
    yield 16 * MiB + 100, chance.randbytes(8 * MiB - 300)
    for _ in range(20):
        size = chance.choice((512, 4096, 60_000, 65_536, 300_000))
        yield chance.randrange((SIZE - size) // 512) * 512, chance.randbytes(size)


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


@pytest.fixture
def pair(nodes: Nodes) -> tuple[Node, Node]:
    """A volume that was made with small segments, and its mirror with larger ones, in sync."""
    mirror = nodes.serve("m", "--mirror-listen", nodes.link("m"), *LARGE_SEGMENTS)
    links = ("--mirror-to", f"{nodes.link('m')},name=m", "--cp-interval", "300ms")
    primary = nodes.serve("p", "--size", str(SIZE), *links, *SMALL_SEGMENTS)
    in_sync(primary, "m")
    return primary, mirror


def failed_over(nodes: Nodes, primary: Node, mirror: Node, name: str) -> Node:
    """The primary dies, its mirror takes over and is written to; what was the primary becomes its mirror ``name``,
    and has all of it: that one, as it is served from then on."""
    primary.kill()
    promote(mirror.directory)
    write(mirror.uri(), *drawn(len(nodes.nodes)))
    link = nodes.link(primary.directory.name)
    revolume("demote", primary.directory, "--mirror-listen", link)
    former = nodes.serve(primary.directory.name)
    revolume("mirror", "add", mirror.directory, name, link)
    in_sync(mirror, name)
    mirror.until_agreed()
    assert read(former.uri()) == read(mirror.uri())
    return former


def test_it_fails_over_to_larger_segments_and_back(nodes: Nodes, pair: tuple[Node, Node]) -> None:
    small, large = pair
    write(small.uri(), *drawn(1))
    small = failed_over(nodes, small, large, "small")
    large = failed_over(nodes, large, small, "large")
    small = failed_over(nodes, small, large, "again")
    for node in (large, small):
        node.stop()
        assert node.status["role"] and "refuse" not in node.log.read_text()
        revolume("check", node.directory)


def test_what_counts_for_a_third_copy_is_the_volume_not_its_primary(nodes: Nodes, pair: tuple[Node, Node]) -> None:
    """The promoted mirror has segments of 1 MiB; the volume's were made of 64 KiB."""
    small, large = pair
    small.kill()
    promote(large.directory)
    third = nodes.serve("t", "--mirror-listen", nodes.link("t"), *SMALL_SEGMENTS)
    revolume("mirror", "add", large.directory, "t", nodes.link("t"))
    write(large.uri(), *drawn(3))
    in_sync(large, "t")
    large.until_agreed()
    assert read(third.uri()) == read(large.uri())


def test_a_mirror_with_smaller_segments_than_the_volumes_transfers_is_refused(nodes: Nodes) -> None:
    nodes.serve("m", "--mirror-listen", nodes.link("m"), *SMALL_SEGMENTS)
    primary = nodes.serve("p", "--size", str(SIZE), "--mirror-to", f"{nodes.link('m')},name=m", *LARGE_SEGMENTS)
    said = "A transfer may take 256 blocks; a segment of the target has 16."
    until("it is refused", lambda: said in primary.mirror["reason"])
    primary.until_logged("--segment-size 1048576 or more")
