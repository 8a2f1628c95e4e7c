"""Claims C: of several copies the most up-to-date is found, and each other one is resynchronised from what the two
have in common. Real processes; nodes are killed, promoted by force, and go their own way."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import NotFound
from tests.support.mirrors import MiB, Node, promote, read, refused, revolume, told, until, write
from tests.support.servers import revolume_only

pytestmark = [revolume_only, pytest.mark.timeout(240)]
SIZE = 24 * MiB
BUDGET = 24 * MiB
OPTIONS = ("--segment-size", "1M", "--budget", str(BUDGET), "--spare", "4M", "--cp-interval", "300ms")
BLOCK = 4096


class Cluster:
    """Nodes a, b, c … of one volume, each at an address of its own; a is the first primary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.chance = random.Random(7)

    def link(self, name: str) -> str:
        return f"unix:{self.folder}/{name}.link"

    def serve(self, name: str, *more: str) -> Node:
        node = Node(self.folder / name, "--mirror-listen", self.link(name), *OPTIONS, *more)
        self.nodes[name] = node
        return node

    def start(self, mirrors: dict[str, str], *more: str) -> Node:
        """a with these mirrors, by name and mode."""
        for name in mirrors:
            self.serve(name)
        primary = self.nodes["a"] = Node(self.folder / "a", "--size", str(SIZE), "--name", "vol", *OPTIONS, *more)
        for name, mode in mirrors.items():
            revolume("mirror", "add", primary.directory, name, self.link(name), "--mode", mode)
        self.until_level("a")
        return primary

    def again(self, name: str, *more: str) -> Node:
        """As its directory says."""
        self.nodes[name] = Node(self.folder / name, *OPTIONS, *more)
        return self.nodes[name]

    def until_level(self, name: str) -> None:
        """Every mirror of this primary stands at its last point."""
        node = self.nodes[name]

        def level() -> bool:
            with node.control as control:
                with contextlib.suppress(NotFound):  # there is nothing yet of which a point could be made
                    control.cut()
                status = control.status()
            return all(m["durable"] == status["position"] and m["joined"] for m in status["mirrors"])

        until(f"the mirrors of {name} are level", level)

    def scribble(self, name: str, total: int, *, first: int = 0, blocks: int = SIZE // BLOCK) -> None:
        """Random whole runs of blocks, so many bytes in all, and now and then a few sectors."""
        at = [(first + self.chance.randrange(blocks - 16)) * BLOCK for _ in range(total // (16 * BLOCK))]
        writes = [(offset, os.urandom(16 * BLOCK)) for offset in at]
        writes += [(offset + 512, os.urandom(1024)) for offset in at[:5]]
        write(self.nodes[name].uri("vol"), *writes)

    def rules(self, name: str) -> list[str]:
        """By which this primary brought its mirrors up to date."""
        lines = [line for line in self.nodes[name].log.read_text().splitlines() if '"Mirror ' in line]
        return [line.split("connected, rule ")[1].split(".")[0] for line in lines if "connected, rule " in line]

    def close(self) -> None:
        for node in self.nodes.values():
            print(f"--- {node.directory.name}\n{node.log.read_text()[-6000:]}")
            if node.process.poll() is None:
                node.thaw()
                node.kill()


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    made = Cluster(folder)
    yield made
    made.close()


def content(node: Node, export: str = "vol") -> bytes:
    return read(node.uri(export))


def test_c1_c3_the_others_are_brought_up_to_date_from_the_most_up_to_date(cluster: Cluster) -> None:
    """The primary is lost. Both mirrors stand at the same point, but the log of one goes on behind it: the other
    can't be promoted unless that is ordered, the one is, and resynchronises it by the log that the two have in
    common."""
    primary = cluster.start({"b": "sync", "c": "async"}, "--cp-interval", "1h")
    cluster.nodes["c"].kill()
    until("the loss is noticed", lambda: primary.status["mirrors"][1]["state"] == "connecting")
    point = primary.status["point"]
    cluster.scribble("a", MiB // 2)
    assert cluster.nodes["b"].status["point"] == primary.status["point"] == point
    held = content(cluster.nodes["a"])
    cluster.nodes["a"].kill()
    cluster.serve("c")
    error = refused("promote", cluster.nodes["c"].directory, "--others", cluster.link("b"))
    assert error["code"] == "other-is-longer"
    promote(cluster.nodes["b"].directory)
    until("c is a mirror of b", lambda: any(m["joined"] for m in cluster.nodes["b"].status["mirrors"]))
    cluster.until_level("b")
    assert content(cluster.nodes["b"]) == content(cluster.nodes["c"]) == held
    assert set(cluster.rules("b")) <= {"log", "nothing"}


def test_c1_the_newer_lineage_is_the_more_up_to_date(cluster: Cluster) -> None:
    """One mirror has more of the log of the primary that is lost, the other was promoted since, with less: what
    that has written is the volume."""
    cluster.start({"b": "async", "c": "async"})
    cluster.nodes["b"].kill()
    cluster.scribble("a", 4 * MiB)
    until("c has it", lambda: cluster.nodes["c"].status["position"] >= cluster.nodes["a"].status["position"])
    cluster.nodes["a"].kill()
    cluster.serve("b")
    promote(cluster.nodes["b"].directory, "--yes")
    cluster.scribble("b", 128 << 10)
    cluster.nodes["b"].kill()
    revolume("demote", cluster.nodes["b"].directory)
    cluster.serve("b")
    assert cluster.nodes["b"].status["position"] < cluster.nodes["c"].status["position"]
    error = refused("promote", cluster.nodes["c"].directory, "--others", cluster.link("b"))
    assert error["code"] == "other-is-longer" and "opening 2" in error["cause"], error


def test_c3_one_several_or_all_by_order(cluster: Cluster) -> None:
    """Three mirrors lack the same. Those that the order names are brought up to date as it says, the other is
    not."""
    primary = cluster.start(dict.fromkeys("bcd", "async"))
    for name in "bcd":
        cluster.nodes[name].kill()
    for _ in range(4):
        cluster.scribble("a", 2 * MiB, blocks=MiB // BLOCK)
    words = ("--mirror", "b", "--mirror", "c", "--prefer", "bytes")
    assert refused("resync", primary.directory, *words)["code"] == "away"
    for name in "bcd":
        cluster.serve(name)
    cluster.until_level("a")
    sent = {mirror["name"]: mirror["difference_bytes"] for mirror in primary.status["mirrors"]}
    assert 0 < sent["b"] <= MiB and 0 < sent["c"] <= MiB and sent["d"] == 0, sent
    held = content(primary)
    assert all(content(cluster.nodes[name]) == held for name in "bcd")
    for names in ("b", "d"), ():
        plans = told("resync", primary.directory, *(f"--mirror={name}" for name in names))
        assert [plan["name"] for plan in plans] == list(names or "bcd")


def test_c2_c5_the_difference_from_a_snapshot_held_in_common(cluster: Cluster) -> None:
    """The log between the two is gone at the survivor, and so is what changed since the point at which the other
    stands, which was no mirror any more; a snapshot that both hold is enough: the newest of two."""
    cluster.start({"b": "sync", "c": "async"})
    cluster.scribble("a", MiB)
    revolume("snapshot", cluster.nodes["a"].directory, "sunday")
    cluster.scribble("a", 4 * MiB)
    revolume("snapshot", cluster.nodes["a"].directory, "monday")
    cluster.until_level("a")
    cluster.scribble("a", 2 * MiB, blocks=2 * MiB // BLOCK)
    cluster.until_level("a")
    cluster.nodes["c"].kill()
    revolume("mirror", "remove", cluster.nodes["a"].directory, "c")
    for _ in range(3):
        cluster.scribble("a", BUDGET, blocks=2 * MiB // BLOCK)
    cluster.nodes["a"].kill()
    promote(cluster.nodes["b"].directory, "--yes")
    cluster.serve("c")
    revolume("mirror", "add", cluster.nodes["b"].directory, "c", cluster.link("c"), "--mode", "async")
    until("c is level", lambda: all(m["joined"] for m in cluster.nodes["b"].status["mirrors"]))
    cluster.until_level("b")
    assert content(cluster.nodes["b"]) == content(cluster.nodes["c"])
    assert content(cluster.nodes["b"], "vol@monday") == content(cluster.nodes["c"], "vol@monday")
    assert "difference" in cluster.rules("b") and "base" not in cluster.rules("b")
    (mirror,) = cluster.nodes["b"].status["mirrors"]
    assert mirror["base_bytes"] == 0 and mirror["difference_bytes"] < 4 * MiB


def test_c2_c5_c6_of_two_mirrors_one_brings_the_other_on_that_was_away(cluster: Cluster) -> None:
    """No snapshot, and nobody's log reaches back to where the other stands. While it was away the primary said
    where that is, and the survivor has kept the point for it: what has changed since is all that is sent."""
    cluster.start({"b": "sync", "c": "async"})
    cluster.scribble("a", 8 * MiB)
    cluster.until_level("a")
    cluster.nodes["c"].kill()
    for _ in range(3):
        cluster.scribble("a", BUDGET, blocks=2 * MiB // BLOCK)
    held = content(cluster.nodes["a"])

    def for_c() -> int:
        """Bytes that b has rescued."""
        found = {holder["name"]: holder for holder in cluster.nodes["b"].status["holders"]}["mirror c"]
        assert found["pinned"]
        return int(found["bytes"])

    until("b has folded beyond where c stands", for_c)
    assert for_c() <= 4 * MiB
    cluster.nodes["a"].kill()
    promote(cluster.nodes["b"].directory, "--yes")
    (mirror,) = cluster.nodes["b"].status["mirrors"]
    assert mirror["kept"] == "difference"
    cluster.serve("c")
    cluster.until_level("b")
    assert content(cluster.nodes["b"]) == content(cluster.nodes["c"]) == held
    assert cluster.rules("b")[0] == "difference" and "base" not in cluster.rules("b")
    (mirror,) = cluster.nodes["b"].status["mirrors"]
    assert mirror["base_bytes"] == 0 and 2 * MiB <= mirror["difference_bytes"] < 4 * MiB
    until("the log is kept for c again", lambda: cluster.nodes["b"].mirror["kept"] == "log")
    for name in ("b", "c"):
        cluster.nodes[name].stop()
        revolume("check", cluster.nodes[name].directory)


@pytest.mark.parametrize("budgets", [0, 3], ids=["the log is there", "the log is gone"])
def test_c2_c5_c6_a_mirror_made_while_another_is_away_brings_that_one_on(cluster: Cluster, budgets: int) -> None:
    """The new one gets what it takes with its base: its log from there on, or the point by itself."""
    cluster.start({"c": "async"})
    cluster.scribble("a", 8 * MiB)
    cluster.until_level("a")
    cluster.nodes["c"].kill()
    for _ in range(budgets):
        cluster.scribble("a", BUDGET, blocks=2 * MiB // BLOCK)
    cluster.scribble("a", MiB, blocks=2 * MiB // BLOCK)
    cluster.serve("b")
    revolume("mirror", "add", cluster.nodes["a"].directory, "b", cluster.link("b"), "--mode", "async")

    def level() -> bool:
        with cluster.nodes["a"].control as control:
            control.cut()
            status = control.status()
        (b,) = (mirror for mirror in status["mirrors"] if mirror["name"] == "b")
        return b["joined"] and b["durable"] == status["position"] and b["agreed_point"] == status["point"]

    until("b is level", level)
    for _ in range(3):
        cluster.scribble("a", BUDGET, blocks=2 * MiB // BLOCK)
    until("b is level again", level)
    held = content(cluster.nodes["a"])
    cluster.nodes["a"].kill()
    promote(cluster.nodes["b"].directory, "--yes")
    cluster.serve("c")
    cluster.until_level("b")
    assert content(cluster.nodes["b"]) == content(cluster.nodes["c"]) == held
    assert cluster.rules("b")[0] == "difference" and "base" not in cluster.rules("b")
    (mirror,) = cluster.nodes["b"].status["mirrors"]
    assert mirror["base_bytes"] == 0 and mirror["difference_bytes"] < 4 * MiB


def test_c2_a_former_primary_takes_back_what_it_wrote_alone(cluster: Cluster) -> None:
    """Promoted by force, while the old primary took more writes: it goes back to the point in common, keeps its
    own writes as a branch, and becomes a mirror without a full copy."""
    cluster.start({"b": "async"})
    cluster.scribble("a", 6 * MiB)
    cluster.until_level("a")
    cluster.nodes["b"].kill()
    common = content(cluster.nodes["a"])
    cluster.scribble("a", 4 * MiB, blocks=6 * MiB // BLOCK)
    alone = content(cluster.nodes["a"])
    cluster.serve("b")
    cluster.nodes["a"].kill()
    promote(cluster.nodes["b"].directory, "--yes")
    assert content(cluster.nodes["b"]) != alone
    cluster.scribble("b", 3 * MiB, first=2 * MiB // BLOCK, blocks=6 * MiB // BLOCK)
    revolume("demote", cluster.nodes["a"].directory, "--mirror-listen", cluster.link("a"))
    cluster.serve("a")
    revolume("mirror", "add", cluster.nodes["b"].directory, "a", cluster.link("a"), "--mode", "async")
    cluster.until_level("b")
    assert content(cluster.nodes["a"]) == content(cluster.nodes["b"])
    assert cluster.rules("b")[-2:] == ["common-point", "log"] and "base" not in cluster.rules("b")
    (branch,) = told("branch", "list", cluster.nodes["a"].directory)["branches"]
    assert content(cluster.nodes["a"], f"vol@branch:{branch['name']}") == alone
    assert common != alone
    for name in ("a", "b"):
        cluster.nodes[name].stop()
        revolume("check", cluster.nodes[name].directory)


def test_c4_two_promoted_by_force(cluster: Cluster) -> None:
    """Each went its own way; the one that is demoted follows the other, and both are readable."""
    cluster.start({"b": "async", "c": "async"})
    cluster.scribble("a", 4 * MiB)
    cluster.until_level("a")
    for name in ("a", "b", "c"):
        cluster.nodes[name].kill()
    alone = {}
    for name in ("b", "c"):
        cluster.serve(name)
        promote(cluster.nodes[name].directory, "--yes")
        cluster.scribble(name, 2 * MiB)
        alone[name] = content(cluster.nodes[name])
        cluster.nodes[name].kill()
    revolume("demote", cluster.nodes["c"].directory)
    cluster.serve("c")
    cluster.again("b")
    until("c follows b", lambda: any(m["joined"] for m in cluster.nodes["b"].status["mirrors"]))
    assert content(cluster.nodes["b"]) == alone["b"]
    until("c is what b is", lambda: content(cluster.nodes["c"]) == alone["b"])
    (branch,) = told("branch", "list", cluster.nodes["c"].directory)["branches"]
    assert content(cluster.nodes["c"], f"vol@branch:{branch['name']}") == alone["c"]


def test_c6_a_mirror_that_holds_what_its_source_lost_takes_it_back(cluster: Cluster, folder: Path) -> None:
    """A disk image of the primary that is an hour old is put back: an async mirror has more than it."""
    cluster.start({"b": "async"})
    cluster.scribble("a", 2 * MiB)
    cluster.until_level("a")
    cluster.nodes["b"].kill()
    cluster.nodes["a"].stop()
    old = folder / "old"
    shutil.copytree(folder / "a", old, ignore=shutil.ignore_patterns("*.sock"))
    cluster.serve("b")
    cluster.again("a")
    cluster.until_level("a")
    cluster.scribble("a", 2 * MiB)
    cluster.until_level("a")
    more = content(cluster.nodes["b"])
    cluster.nodes["b"].kill()
    cluster.nodes["a"].kill()
    shutil.rmtree(folder / "a")
    shutil.move(old, folder / "a")
    cluster.again("a", "--alone")
    cluster.scribble("a", MiB)
    cluster.serve("b")
    until("b is refused", lambda: cluster.nodes["a"].status["mirrors"][0]["state"] == "refused")
    reason = cluster.nodes["a"].status["mirrors"][0]["reason"]
    print(reason)
    done = revolume("resync", cluster.nodes["a"].directory, "--take-back", "--timeout", "60s")
    print(done.stdout)
    cluster.until_level("a")
    assert content(cluster.nodes["a"]) == content(cluster.nodes["b"])
    (branch,) = told("branch", "list", cluster.nodes["b"].directory)["branches"]
    assert content(cluster.nodes["b"], f"vol@branch:{branch['name']}") == more
