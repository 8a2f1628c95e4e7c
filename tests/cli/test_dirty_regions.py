"""The dirty region log between processes: the primary's disk has no room for what changed while a mirror is away,
so it notes which blocks did; these, and no others, are looked at when the mirror is back."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revolume.errors import RevolumeError
from revolume.nbd.wire.errors import Disconnected
from tests.cli.test_claims_c import BLOCK, BUDGET, SIZE, Cluster, content
from tests.support.divergence import plant_in_log
from tests.support.mirrors import MiB, Node, revolume, until, write
from tests.support.servers import revolume_only
from tests.support.small_disks import small_disk_at
from tests.support.strace import need_strace, reads_counted
from tests.support.tally import rounds

pytestmark = [revolume_only, pytest.mark.timeout(240)]
DISK = 42 * MiB
"""Of the primary: the image and a log fit, what a difference of all of it would keep does not."""


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    """The primary a has a disk of its own."""
    with small_disk_at(folder / "a", DISK):
        made = Cluster(folder)
        try:
            yield made
        finally:
            made.close()


def mirror(node: Node) -> dict[str, Any]:
    with node.control as control:
        return dict(control.status()["mirrors"][0])


def fill(cluster: Cluster, left: int) -> None:
    """Something else takes the primary's disk, but for so much."""
    ballast = cluster.folder / "a" / "ballast"
    free = os.statvfs(ballast.parent).f_bavail * os.statvfs(ballast.parent).f_bsize
    with ballast.open("ab") as file:
        file.write(bytes(max(0, free - left)))


def noted(cluster: Cluster, changed: int = SIZE) -> Node:
    """A mirror is away, and nothing but a dirty region log is kept for it; of the volume's first bytes so many
    have changed."""
    primary = cluster.start({"b": "async"})
    cluster.scribble("a", 2 * SIZE)
    cluster.until_level("a")
    (cluster.folder / "held").write_bytes(content(primary))
    cluster.nodes["b"].kill()
    until("the loss is noticed", lambda: mirror(primary)["state"] == "connecting")
    for _ in range(40):
        fill(cluster, 128 << 10)
        cluster.scribble("a", BUDGET // 4, blocks=changed // BLOCK)
        if mirror(primary)["kept"] == "regions":
            (cluster.folder / "a" / "ballast").unlink()
            return primary
    raise AssertionError("the disk has room for the difference")


def test_b5_b6_a_disk_too_small_for_a_difference_costs_the_copy_nothing(cluster: Cluster) -> None:
    primary = noted(cluster)
    assert "difference only (dirty region log)" in revolume("status", primary.directory).stdout
    b = cluster.serve("b")
    cluster.until_level("a")
    assert content(primary) == content(b)
    assert cluster.rules("a")[-2:] == ["dirty-regions", "log"] and mirror(primary)["kept"] == "log"
    assert mirror(primary)["base_bytes"] < 4096
    primary.process.terminate()
    primary.process.wait(60)
    assert not list((primary.directory / "mirrors").iterdir())
    revolume("check", primary.directory)


def test_b5_no_more_is_read_than_the_listed_regions(cluster: Cluster, folder: Path) -> None:
    need_strace()
    primary = noted(cluster, 4 * MiB)
    with primary.control as control:
        control.cut()
    listed = mirror(primary)["kept_difference_bytes"]
    assert 0 < listed <= 4 * MiB
    segments = sorted(primary.directory.glob("log/*.seg"), key=lambda path: path.stat().st_mtime_ns)
    places = [primary.directory / "image", *segments[:-1]]  # the end of the log is read to be sent as such
    with reads_counted(primary.process.pid, folder / "reads", places) as count:
        copy = cluster.serve("b")
        cluster.until_level("a")
        read = count()
    assert content(primary) == content(copy)
    print(f"{listed} bytes listed, {read} of the volume read")
    assert read <= listed


def test_b5_blocks_that_are_the_same_at_both_ends_are_not_sent(cluster: Cluster) -> None:
    """What was written over, and back again, is listed and compared, and does not travel."""
    primary = noted(cluster)
    held = (cluster.folder / "held").read_bytes()
    different = [at for at in range(0, SIZE, 16 * BLOCK) if cluster.chance.random() < 0.1]
    write(primary.uri("vol"), *((at, held[at : at + 16 * BLOCK]) for at in range(0, SIZE, 16 * BLOCK)))
    write(primary.uri("vol"), *((at, os.urandom(BLOCK)) for at in different))
    listed, before = mirror(primary)["kept_difference_bytes"], mirror(primary)["difference_bytes"]
    b = cluster.serve("b")
    cluster.until_level("a")
    assert content(primary) == content(b)
    sent = mirror(primary)["difference_bytes"] - before
    print(f"{listed} bytes listed, {len(different) * BLOCK} differ, {sent} sent")
    assert sent <= 1.1 * len(different) * BLOCK + 4096


def test_without_anything_noted_all_is_compared(cluster: Cluster) -> None:
    """The file of the dirty region log is lost too: the copy is not."""
    primary = noted(cluster)
    cluster.nodes["a"].kill()
    for file in (primary.directory / "mirrors").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    primary = cluster.again("a")
    b = cluster.serve("b")
    cluster.until_level("a")
    assert content(primary) == content(b)
    assert cluster.rules("a")[-2:] == ["comparison", "log"]
    assert mirror(primary)["difference_bytes"] <= 1.02 * SIZE


def test_a_copy_that_differs_elsewhere_too_is_compared_and_comes_back(cluster: Cluster) -> None:
    """With the listed blocks alone it does not sum up to its source's point, and never would."""
    primary = noted(cluster, 4 * MiB)
    plant_in_log(cluster.folder / "b", {at: os.urandom(BLOCK) for at in (3, SIZE // BLOCK - 1)})
    b = cluster.serve("b")
    cluster.until_level("a")
    assert content(primary) == content(b)
    rules = cluster.rules("a")
    assert rules[-2:] == ["comparison", "log"] and "dirty-regions" in rules and "base" not in rules[1:]


@pytest.mark.parametrize("seed", range(rounds(8, 2)))
def test_b6_killed_at_any_time_it_names_enough(cluster: Cluster, seed: int) -> None:
    """The primary is killed again and again, among writes and folds, and once while the difference is sent."""
    chance = random.Random(seed)
    noted(cluster)
    # Each opening after a kill copies the end of the log; on a full disk it is refused, which is not shown here.
    larger = ["mount", "-o", f"remount,size={2 * DISK}", str(cluster.folder / "a")]
    subprocess.run(larger, check=True)
    for _ in range(4):
        writing = threading.Thread(target=scribbled, args=(cluster, chance.randrange(1, 4) * BUDGET // 4))
        writing.start()
        time.sleep(chance.random() * 0.5)
        cluster.nodes["a"].kill()
        writing.join()
        primary = cluster.again("a")
        assert mirror(primary)["kept"] == "regions"
    b = cluster.serve("b")
    time.sleep(chance.random() * 0.5)
    primary.kill()
    primary = cluster.again("a")
    cluster.until_level("a")
    assert content(primary) == content(b)
    assert "base" not in cluster.rules("a")[1:]


def scribbled(cluster: Cluster, total: int) -> None:
    with contextlib.suppress(OSError, RevolumeError, Disconnected):  # its node was killed
        cluster.scribble("a", total)
