"""A mirror that begins with a raw image of the volume, as it comes on a shipped disk: what differs is sent."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_claims_c import BLOCK, OPTIONS, SIZE, Cluster, content
from tests.support.mirrors import MiB, Node, promote, refused, revolume, until, write
from tests.support.servers import revolume_only

pytestmark = [revolume_only, pytest.mark.timeout(120)]


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    made = Cluster(folder)
    yield made
    made.close()


def mirror(node: Node) -> dict[str, Any]:
    with node.control as control:
        return dict(control.status()["mirrors"][0])


def shipped(cluster: Cluster, *more: str) -> tuple[Node, Path]:
    """A primary whose second half is empty, and a raw image of it."""
    primary = Node(cluster.folder / "a", "--size", str(SIZE), "--name", "vol", *OPTIONS, *more)
    cluster.nodes["a"] = primary
    cluster.scribble("a", 2 * SIZE, blocks=SIZE // BLOCK // 2)
    image = cluster.folder / "image.raw"
    revolume("copy", primary.directory, image)
    assert image.stat().st_size == SIZE
    return primary, image


def joined(cluster: Cluster, image: Path) -> Node:
    b = cluster.serve("b", "--seed", str(image))
    revolume("mirror", "add", cluster.nodes["a"].directory, "b", cluster.link("b"), "--mode", "async")
    return b


def test_only_what_differs_from_the_seed_is_sent(cluster: Cluster) -> None:
    """Blocks that were written since, in either half, that became zeroes, and that are damaged on the disk."""
    primary, image = shipped(cluster)
    write(primary.uri("vol"), *((at * BLOCK, os.urandom(BLOCK)) for at in range(0, 400, 4)))
    write(primary.uri("vol"), (SIZE - 40 * BLOCK, os.urandom(30 * BLOCK)), (800 * BLOCK, bytes(64 * BLOCK)))
    with image.open("r+b") as file:
        for at in (1001, 1500, 5000):
            file.seek(at * BLOCK + 100)
            file.write(b"rotten")
    b = joined(cluster, image)
    cluster.until_level("a")
    assert content(primary) == content(b)
    sent = mirror(primary)["base_bytes"]
    print(f"{sent} bytes of base sent, of {SIZE // 2}")
    assert 130 * BLOCK <= sent <= 240 * BLOCK
    cluster.scribble("a", MiB)
    cluster.until_level("a")
    b.kill()
    primary.kill()
    for node in (b, primary):
        revolume("check", node.directory)
    cluster.serve("b", "--seed", str(image))
    promote(b.directory, "--yes")
    assert cluster.nodes["b"].status["point"]


def test_another_size_is_refused(cluster: Cluster) -> None:
    primary, image = shipped(cluster)
    os.truncate(image, SIZE - 512)
    b = joined(cluster, image)
    found = until("it is refused", lambda: (m := mirror(primary))["state"] == "refused" and m)
    assert f"image.raw has {SIZE - 512} bytes, and the volume vol has {SIZE}." in found["reason"]
    os.truncate(image, SIZE)
    cluster.until_level("a")
    assert content(primary) == content(b)


def test_a_seed_is_for_a_new_mirror(cluster: Cluster) -> None:
    error = refused("serve", cluster.folder / "c", "--size", "1MiB", "--seed", "image.raw", status=2)
    assert "--seed is for a new mirror" in error["cause"]


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.6])
def test_killed_while_it_takes_the_seed_or_the_base_it_goes_on(cluster: Cluster, seconds: float) -> None:
    primary, image = shipped(cluster, "--resync-rate", "4MiB")
    write(primary.uri("vol"), (0, os.urandom(SIZE // 4)))
    b = joined(cluster, image)
    time.sleep(seconds)
    b.kill()
    b = cluster.serve("b", "--seed", str(image))
    revolume("resync", primary.directory, "--rate", "none")
    cluster.until_level("a")
    assert content(primary) == content(b)
    b.kill()
    revolume("check", b.directory)
