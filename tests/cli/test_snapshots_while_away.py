"""Snapshots that are taken while a mirror is away for longer than the log is kept come with the differences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_claims_c import BUDGET, Cluster, content
from tests.support.mirrors import MiB, Node, promote, refused, revolume, told, until
from tests.support.servers import revolume_only

pytestmark = [revolume_only, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    made = Cluster(folder)
    yield made
    made.close()


def away_with_two_snapshots(cluster: Cluster) -> dict[str, bytes]:
    """b is away; three times the budget is written, and two snapshots are taken on the way. What each holds."""
    primary = cluster.start({"b": "async"})
    cluster.scribble("a", 4 * MiB)
    revolume("snapshot", primary.directory, "before")
    held = {"before": content(primary)}
    cluster.until_level("a")
    cluster.nodes["b"].kill()
    for name in ("first", "second"):
        cluster.scribble("a", BUDGET)
        revolume("snapshot", primary.directory, name)
        held[name] = content(primary)
    cluster.scribble("a", BUDGET)
    until("the log is given up", lambda: primary.mirror["kept"] == "difference")
    return held


def judge(node: Node, held: dict[str, bytes]) -> None:
    for name, wanted in held.items():
        assert content(node, f"vol@{name}") == wanted, name


def test_the_snapshots_come_and_are_what_they_were_also_after_a_promotion(cluster: Cluster) -> None:
    held = away_with_two_snapshots(cluster)
    primary, b = cluster.nodes["a"], cluster.serve("b")
    cluster.until_level("a")
    assert cluster.rules("a").count("difference") >= 3
    until("nothing is lacking", lambda: not b.status["lacks"] and not primary.mirror["lacks"])
    judge(b, held)
    assert content(b) == content(primary)
    for _ in range(2):  # and they are pinned there: what is folded over from now on is rescued
        cluster.scribble("a", BUDGET)
        cluster.until_level("a")
    judge(b, held)
    primary.kill()
    promote(b.directory, "--yes")
    cluster.scribble("b", BUDGET)
    judge(b, held)
    assert {s["name"] for s in told("snapshot", b.directory)["snapshots"]} >= set(held)
    b.stop()
    revolume("check", b.directory)


def test_a_copy_that_is_promoted_on_the_way_has_the_snapshots_up_to_there_and_no_others(cluster: Cluster) -> None:
    """Its source told it of all names beforehand. Other writes get the numbers of those that had not come."""
    held = away_with_two_snapshots(cluster)
    primary = cluster.nodes["a"]
    refused("resync", primary.directory, "--rate", "2MiB")
    b = cluster.serve("b")
    until("the first has come", lambda: b.status["point"] and b.log.read_text().count("jumped to cp") == 1)
    until("the next is on its way", lambda: (j := b.status["jump"]) and j["bytes"] > MiB)
    primary.kill()
    b.kill()
    b = cluster.serve("b")
    judge(b, {name: held[name] for name in ("before", "first")})
    assert refused_to_open(b, "second")
    b.stop()
    promote(b.directory, "--yes")
    b = cluster.again("b")
    cluster.scribble("b", BUDGET)
    judge(b, {name: held[name] for name in ("before", "first")})
    assert refused_to_open(b, "second")
    b.stop()
    revolume("check", b.directory)


def refused_to_open(node: Node, name: str) -> bool:
    try:
        content(node, f"vol@{name}")
    except Exception:
        return True
    return False


def test_without_a_snapshot_one_difference_is_sent(cluster: Cluster) -> None:
    """A mirror that was away takes the bytes that changed, once."""
    primary = cluster.start({"b": "async"})
    cluster.scribble("a", 4 * MiB)
    cluster.until_level("a")
    until("where it stands is noted", lambda: primary.mirror["held_from_point"] == primary.status["point"])
    cluster.nodes["b"].kill()
    before = primary.mirror["difference_bytes"]
    for _ in range(3):
        cluster.scribble("a", BUDGET, blocks=MiB // 4096)
    until("the log is given up", lambda: primary.mirror["kept"] == "difference")
    rules = len(cluster.rules("a"))
    cluster.serve("b")
    cluster.until_level("a")
    assert cluster.rules("a")[rules:].count("difference") == 1
    assert primary.mirror["difference_bytes"] - before < 1.05 * MiB + 64 * 1024
    assert content(cluster.nodes["b"]) == content(primary)
