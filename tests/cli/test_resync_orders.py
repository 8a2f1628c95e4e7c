"""What is ordered of a resynchronisation is kept until it is done, whoever is killed; and it can be cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_claims_c import BUDGET, Cluster, content
from tests.support.mirrors import MiB, promote, refused, revolume, told, until
from tests.support.servers import revolume_only

pytestmark = [revolume_only, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    made = Cluster(folder)
    yield made
    made.close()


def test_a_preference_is_kept_over_a_kill_and_until_it_is_carried_out(cluster: Cluster) -> None:
    """The log would do, and is what is sent without an order: less than 64 MiB of it."""
    cluster.start({"b": "async"})
    cluster.scribble("a", 2 * MiB)
    cluster.until_level("a")
    cluster.nodes["b"].kill()
    for _ in range(4):
        cluster.scribble("a", 2 * MiB, blocks=MiB // 4096)
    assert refused("resync", cluster.nodes["a"].directory, "--mirror", "b", "--prefer", "bytes")["code"] == "away"
    wanted = "by order: it is brought up to date by what sends fewer bytes"
    assert wanted in revolume("status", cluster.nodes["a"].directory).stdout
    cluster.nodes["a"].kill()
    assert told("status", cluster.nodes["a"].directory)["mirrors"][0]["order"] == wanted
    primary = cluster.again("a")
    assert primary.mirror["order"] == wanted
    cluster.serve("b")
    cluster.until_level("a")
    assert "difference" in cluster.rules("a")
    until("the order is done", lambda: not primary.mirror["order"])
    assert content(primary) == content(cluster.nodes["b"])


def test_to_take_back_is_kept_over_a_kill_and_done_once(cluster: Cluster) -> None:
    cluster.start({"b": "async"})
    cluster.scribble("a", 2 * MiB)
    cluster.until_level("a")
    cluster.nodes["b"].kill()
    cluster.scribble("a", MiB)
    cluster.nodes["a"].kill()
    cluster.serve("b")
    promote(cluster.nodes["b"].directory, "--yes")
    cluster.scribble("b", MiB)
    alone = content(cluster.nodes["b"])
    cluster.nodes["b"].kill()
    primary = cluster.again("a", "--alone")
    assert refused("resync", primary.directory, "--take-back")["code"] == "away"
    assert "takes back what it wrote alone" in primary.mirror["order"]
    primary.kill()
    primary = cluster.again("a", "--alone")
    assert "takes back what it wrote alone" in primary.mirror["order"]
    revolume("demote", cluster.nodes["b"].directory)
    cluster.serve("b")
    cluster.until_level("a")
    assert content(primary) == content(cluster.nodes["b"])
    until("the order is done", lambda: not primary.mirror["order"])
    (branch,) = told("branch", "list", cluster.nodes["b"].directory)["branches"]
    assert content(cluster.nodes["b"], f"vol@branch:{branch['name']}") == alone


def test_a_difference_that_is_cancelled_stays_where_it_was_until_it_goes_on(cluster: Cluster) -> None:
    primary = cluster.start({"b": "async"})
    cluster.scribble("a", 2 * MiB)
    cluster.until_level("a")
    cluster.nodes["b"].kill()
    while primary.mirror["kept"] != "difference":
        cluster.scribble("a", BUDGET // 4)
    refused("resync", primary.directory, "--rate", "1MiB")
    cluster.serve("b")
    until("much of it is there", lambda: primary.mirror["difference_bytes"] > 6 * MiB)
    done = revolume("resync", primary.directory, "--mirror", "b", "--cancel").stdout
    assert "Mirror b gets no difference from now on" in done and "resync DIR --mirror b" in done
    stopped = until("it is refused", lambda: (m := primary.mirror)["state"] == "refused" and m)
    assert "was cancelled" in stopped["reason"] and "--prefer history" in stopped["reason"]
    assert stopped["kept"] == "difference" and stopped["pin_point"] is not None
    assert "which was cancelled" in revolume("status", primary.directory).stdout
    staged = cluster.nodes["b"].status["jump"]
    assert staged["bytes"] > 4 * MiB
    primary.kill()
    primary = cluster.again("a")
    stopped = until("it is refused again", lambda: (m := primary.mirror)["state"] == "refused" and m)
    assert "was cancelled" in stopped["reason"] and stopped["difference_bytes"] == 0
    assert cluster.nodes["b"].status["jump"] == staged
    revolume("resync", primary.directory, "--mirror", "b")
    cluster.until_level("a")
    found = primary.mirror
    assert found["order"] == "" and found["base_bytes"] == 0
    total = staged["bytes"] + found["difference_bytes"]
    assert found["difference_bytes"] < total - 4 * MiB, "what had come was sent again"
    assert content(primary) == content(cluster.nodes["b"])
    done = revolume("resync", primary.directory, "--mirror", "b", "--cancel").stdout
    assert "nothing to cancel" in done and primary.mirror["state"] == "in sync"
    assert (
        refused("resync", primary.directory, "--cancel", "--prefer", "bytes", status=2)["code"] == "cancel-alone"
    )
