"""A difference that does not fit beside a mirror's copy is not begun, and what is there of one counts."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_claims_c import BUDGET, SIZE, Cluster, content
from tests.support.mirrors import MiB, Node, refused, revolume, until
from tests.support.servers import revolume_only
from tests.support.small_disks import small_disk_at

pytestmark = [revolume_only, pytest.mark.timeout(240)]
DISK = 160 * MiB


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    """The mirror b has a disk of its own."""
    with small_disk_at(folder / "b", DISK):
        made = Cluster(folder)
        try:
            yield made
        finally:
            made.close()


def mirror(node: Node) -> dict[str, Any]:
    with node.control as control:
        return dict(control.status()["mirrors"][0])


def leave(cluster: Cluster, free: int) -> None:
    """So many bytes of b's disk."""
    ballast = cluster.folder / "b" / "ballast"
    ballast.unlink(missing_ok=True)
    found = subprocess.run(["df", "--output=avail", "-B1", str(ballast.parent)], capture_output=True, check=True)
    with ballast.open("wb") as file:
        for _ in range((int(found.stdout.split()[-1]) - free) // MiB):
            file.write(bytes(MiB))


def behind_the_log(cluster: Cluster) -> Node:
    """A mirror whose log is given up; every block of the volume has changed."""
    primary = cluster.start({"b": "async"})
    cluster.scribble("a", 2 * SIZE)
    cluster.until_level("a")
    cluster.nodes["b"].kill()
    while mirror(primary)["kept"] != "difference":
        cluster.scribble("a", BUDGET // 4)
    cluster.scribble("a", SIZE)
    return primary


def test_what_would_not_fit_is_refused_at_the_beginning_until_there_is_room(cluster: Cluster) -> None:
    primary = behind_the_log(cluster)
    leave(cluster, 16 * MiB)
    b = cluster.serve("b")
    found = until("it is refused", lambda: (m := mirror(primary))["state"] == "refused" and m)
    assert "beside the target's copy, whose disk has" in found["reason"] and "too little" in found["reason"]
    assert "Make room on that disk" in found["reason"]
    assert b.status["jump"] is None
    (cluster.folder / "b" / "ballast").unlink()
    cluster.until_level("a")
    assert content(primary) == content(b)
    assert mirror(primary)["base_bytes"] < 4096, "an empty one, at the beginning"


def test_one_that_is_half_there_needs_only_the_rest(cluster: Cluster) -> None:
    primary = behind_the_log(cluster)
    refused("resync", primary.directory, "--rate", "2MiB")
    refusals = mirror(primary)["refusals"]
    b = cluster.serve("b")
    until("half is there", lambda: (j := b.status["jump"]) and j["bytes"] > 10 * MiB)
    b.kill()
    sent = mirror(primary)["difference_bytes"]
    leave(cluster, 14 * MiB)
    b = cluster.serve("b")
    until("it goes on", lambda: mirror(primary)["state"] == "difference")
    assert mirror(primary)["refusals"] <= refusals, "all of it would not have fit"
    revolume("resync", primary.directory, "--rate", "none")
    cluster.until_level("a")
    assert content(primary) == content(b)
    assert mirror(primary)["difference_bytes"] - sent < 14 * MiB
