"""Moments that only another copy holds, brought to a primary that has lost them, or to an empty directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_served_as_recorded import Nodes, in_sync
from tests.support.mirrors import MiB, Node, read, revolume, told, until, write
from tests.support.relay import Relay

pytestmark = pytest.mark.timeout(240)
BLOCK = 4096
SIZE = 8 * MiB
TIGHT = ("--segment-size", "256K", "--budget", "2M", "--spare", "512K")
LONG = ("--segment-size", "256K", "--budget", "64M", "--spare", "512K")


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


@dataclass
class Lost:
    """A primary that has lost its history, and its mirror, which has it still. ``was``: what the volume was, by
    moment; ``now``: what it is."""

    primary: Node
    mirror: Node
    link: str
    was: dict[str, bytes]
    now: bytes

    def fetched(self, moment: str, *words: str, source: str = "") -> dict[str, Any]:
        job = told("fetch", self.primary.directory, "--from", source or self.link, "--moment", moment, *words)
        return dict(job["result"])

    def export(self, name: str) -> bytes:
        return read(self.primary.uri(f"m@{name}"))


class Counted(Relay):
    """A cable that counts: what the mirror's node says."""

    def __init__(self, near: Path, far: Path) -> None:
        super().__init__(near, far)
        self.said = 0
        self.frames = 0
        self.record = self._count

    def _count(self, connection: int, direction: bytes, frame: bytes) -> None:
        if direction == b"<":
            self.said += len(frame)
            self.frames += 1


def failed(*words: str | Path, status: int = 4) -> dict[str, Any]:
    """The error with which a verb ends that has said other things before."""
    last = revolume(*words, "--json", status=status).stderr.splitlines()[-1]
    return dict(json.loads(last)["error"])


def filled(node: Node, mark: bytes, first: int, count: int) -> None:
    """Write so many blocks, each with content of its own."""
    write(
        node.uri(), *((at * BLOCK, b"%s %6d." % (mark.ljust(5), at) * 315) for at in range(first, first + count))
    )


def with_history(nodes: Nodes) -> tuple[Node, dict[str, bytes]]:
    """A primary that has ``one`` and ``two`` as isolated moments, far behind its horizon, and a point that it
    retains, by its write; and what was then."""
    node = nodes.serve("m", "--size", "8M", "--cp-interval", "100ms", *TIGHT)
    was: dict[str, bytes] = {}
    filled(node, b"one", 0, 300)
    revolume("snapshot", node.directory, "one")
    was["one"] = read(node.uri())
    filled(node, b"two", 100, 300)
    revolume("snapshot", node.directory, "two")
    was["two"] = read(node.uri())
    for number in range(4):
        filled(node, b"more%d" % number, 400, 300)
    until("it is folded", lambda: node.status["horizon_write"] > 700)
    node.stop()
    node = nodes.serve("m", "--budget", "64M")
    filled(node, b"then", 200, 50)
    then = told("snapshot", node.directory, "then")["write"]
    was[f"w{then}"] = read(node.uri())
    revolume("snapshot", "--drop", node.directory, "then")
    filled(node, b"now", 0, 250)
    return node, was


def lost_history(nodes: Nodes) -> Lost:
    """The node with the history has handed over to one that began behind all of it."""
    node, was = with_history(nodes)
    now = read(node.uri())
    primary = nodes.serve("p", "--mirror-listen", nodes.link("p"), *LONG)
    revolume("mirror", "add", node.directory, "p", nodes.link("p"), "--history", "none")
    in_sync(node, "p")
    revolume("switchover", node.directory, "--to", "p", "--mirror-listen", nodes.link("m"))
    until("the mirror is back", lambda: primary.status["role"] == "primary" and _joined(primary))
    return Lost(primary, node, nodes.link("m"), was, now)


def _joined(node: Node) -> bool:
    mirrors = node.status["mirrors"]
    return bool(mirrors) and all(mirror["state"] == "in sync" for mirror in mirrors)


def missing(moment: bytes, *here: bytes) -> int:
    """Blocks that hold something, and that none of these has."""
    pieces = [[each[at : at + BLOCK] for at in range(0, SIZE, BLOCK)] for each in (moment, bytes(SIZE), *here)]
    return sum(rest[0] not in rest[1:] for rest in zip(*pieces, strict=True))


def name_of(moment: str) -> str:
    return f"fetched-{moment}" if moment[0] == "w" else moment


def moments(directory: Path, source: str) -> dict[str, dict[str, Any]]:
    """What is there to choose from, by name and by write."""
    listed = told("points", directory, "--from", source)["moments"]
    return {name: row for row in listed for name in (*row["names"], f"w{row['write']}")}


def test_b24_moments_of_three_times_are_chosen_and_loaded_in_turn(nodes: Nodes, folder: Path) -> None:
    lost = lost_history(nodes)
    relay = Counted(folder / "via", folder / "link-m")
    there = moments(lost.primary.directory, lost.link)
    assert [there[moment]["isolated"] for moment in lost.was] == [True, True, False]
    for moment, was in lost.was.items():
        before = relay.said, relay.frames
        result = lost.fetched(moment, source=f"unix:{folder}/via")
        assert result["sent"] == missing(was, lost.now)
        said, frames = relay.said - before[0], relay.frames - before[1]
        digests = 2 * (1024 * 8 + 16) + 72 + 256  # two regions, and what the moment is
        assert result["sent"] * 4096 < said < result["sent"] * (4096 + 16) + digests + frames * 64
        assert lost.export(name_of(moment)) == was
    for moment, was in lost.was.items():  # none has changed another
        assert lost.export(name_of(moment)) == was
    # Loaded in turn
    for moment, was in lost.was.items():
        revolume("restore", lost.primary.directory, "--to", moment, "--from", lost.link, "--yes")
        assert read(lost.primary.uri()) == was
    # Folded behind, and opened again
    lost.primary.stop()
    primary = nodes.serve("p", "--budget", "2M")
    for number in range(4):
        filled(primary, b"last%d" % number, 0, 300)
    until("it is folded", lambda: primary.status["horizon_write"] > lost.mirror.status["horizon_write"] + 100)
    for moment, was in lost.was.items():
        assert lost.export(name_of(moment)) == was
    assert {s["name"] for s in told("snapshot", primary.directory)["snapshots"]} >= set(map(name_of, lost.was))
    in_sync(primary, primary.mirror["name"])
    assert name_of(list(lost.was)[-1]) in {s["name"] for s in told("snapshot", lost.mirror.directory)["snapshots"]}
    primary.stop()
    lost.mirror.stop()
    for directory in (primary.directory, lost.mirror.directory):
        assert told("check", directory)["good"]


def test_b12_a_moment_of_the_mirror_is_restored_onto_the_primary(nodes: Nodes) -> None:
    lost = lost_history(nodes)
    directory, then = lost.primary.directory, list(lost.was)[-1]
    for moment in (then, "one"):
        revolume("restore", directory, "--to", moment, "--from", lost.link, "--yes")
        assert read(lost.primary.uri()) == lost.was[moment]
    until("the mirror agrees", lambda: lost.mirror.status["write"] == lost.primary.status["write"])
    assert read(lost.mirror.uri()) == lost.was["one"]
    revolume("restore", directory, "--undo", "--yes")
    assert read(lost.primary.uri()) == lost.was[then]


def test_moments_are_fetched_newest_first_as_well_and_twice_only_by_another_name(nodes: Nodes) -> None:
    """Of each the next newer one is here then: what both have need not travel again."""
    lost = lost_history(nodes)
    here = [lost.now]
    for moment in reversed(lost.was):
        assert lost.fetched(moment)["sent"] <= missing(lost.was[moment], *here[-1:])
        here.append(lost.was[moment])
    for moment, was in lost.was.items():
        assert lost.export(name_of(moment)) == was
    words = ("fetch", lost.primary.directory, "--from", lost.link, "--moment")
    assert failed(*words, "one")["code"] == "moment-is-here"
    assert failed(*words, "w300", "--name", "again")["code"] == "moment-is-here"
    revolume("snapshot", "--drop", lost.primary.directory, "two")
    assert lost.export("one") == lost.was["one"]
    lost.primary.stop()
    assert told("check", lost.primary.directory)["good"]


def test_what_cannot_be_fetched_is_one_clear_sentence(nodes: Nodes) -> None:
    lost = lost_history(nodes)
    directory = lost.primary.directory
    words = ("fetch", directory, "--from", lost.link, "--moment")
    missing_one = failed(*words, "w1000", status=3)
    assert missing_one["code"] == "moment-not-held" and "before it cp" in missing_one["try"]
    assert "behind it cp" in missing_one["try"]
    assert "one, two" in failed(*words, "three", status=3)["try"]
    assert failed(*words, "2026-11-21T05:00:00", status=2)["code"] == "time-without-zone"
    assert failed(*words, "one", "--name", "w1", status=2)["code"] == "bad-snapshot-name"
    assert failed(*words, "branch:x")["code"] == "branch-moment"
    nobody = ("fetch", directory, "--from", f"{lost.link}-none", "--moment", "one")
    assert failed(*nobody, status=6)["code"] == "mirror-unreachable"
    named = ("fetch", directory, "--from", "nobody", "--moment", "one")
    assert failed(*named, status=3)["code"] == "no-mirror"
    assert failed("points", directory, "--from", "nobody", status=3)["code"] == "no-mirror"
    lost.primary.stop()
    stopped = ("fetch", directory, "--from", lost.link, "--moment", "one")
    assert failed(*stopped)["code"] == "dir-not-empty"
    assert moments(directory, lost.link)["one"]["isolated"]


def test_b12_an_empty_directory_becomes_a_primary_from_the_mirror(nodes: Nodes, folder: Path) -> None:
    node, was = with_history(nodes)
    node.stop()
    revolume("demote", node.directory, "--mirror-listen", nodes.link("m"))
    mirror = nodes.serve("m")
    then = list(was)[-1]
    made = told("fetch", folder / "new", "--from", nodes.link("m"), "--moment", then)
    assert made["sent"] == missing(was[then])
    primary = nodes.serve("new")
    assert read(primary.uri()) == was[then]
    assert primary.status["role"] == "primary"
    # Earlier moments follow
    for moment in ("two", "one"):
        told("fetch", primary.directory, "--from", nodes.link("m"), "--moment", moment)
        assert read(primary.uri(f"m@{moment}")) == was[moment]
    # What the mirror has behind that moment it keeps as a branch; it follows without a copy of everything
    filled(primary, b"anew", 10, 5)
    revolume("mirror", "add", primary.directory, "m", nodes.link("m"))
    in_sync(primary, "m")
    until("it agrees", lambda: mirror.status["write"] == primary.status["write"])
    assert read(mirror.uri()) == read(primary.uri())
    assert primary.mirror["base_bytes"] == 0
    assert len(told("branch", "list", mirror.directory)["branches"]) == 1
    primary.stop()
    mirror.stop()
    for directory in (primary.directory, mirror.directory):
        assert told("check", directory)["good"]


def test_a_new_primary_is_not_made_beside_one_that_lives(nodes: Nodes, folder: Path) -> None:
    lost = lost_history(nodes)
    words = ("fetch", folder / "new", "--from", lost.link, "--moment", "one")
    assert failed(*words)["code"] == "primary-lives"
    assert not (folder / "new" / "manifest.a").exists()
    assert failed("fetch", folder / "new", "--from", "m", "--moment", "one", status=2)["code"] == "no-mirror"
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("x")
    lost.primary.stop()
    until("the mirror notices", lambda: not lost.mirror.status["source"]["connected"])
    assert failed("fetch", folder / "full", *words[2:])["code"] == "dir-not-empty"


def test_a_fetch_that_is_cut_off_leaves_nothing(nodes: Nodes, folder: Path) -> None:
    """By kill -9 here, and by the end of the node that is asked."""
    lost = lost_history(nodes)
    directory = lost.primary.directory
    revolume("resync", directory, "--rate", "128K")
    slow = ("fetch", directory, "--from", lost.link, "--moment", "one")
    assert failed(*slow, "--timeout", "2s", status=6)["code"] == "timed-out"
    assert list((directory / "rescue").glob("*.blocks"))
    lost.primary.kill()
    primary = nodes.serve("p")
    assert not list((directory / "rescue").iterdir())
    assert "one" not in {s["name"] for s in told("snapshot", directory)["snapshots"]}
    in_sync(primary, primary.mirror["name"])
    revolume("resync", directory, "--rate", "128K")
    assert failed(*slow, "--timeout", "2s", status=6)["code"] == "timed-out"
    lost.mirror.kill()
    job = until("it fails", lambda: next((j for j in told("jobs", directory) if j["state"] == "failed"), None))
    assert job["error"]["code"] == "link-lost"
    until("its files go", lambda: not list((directory / "rescue").iterdir()))
    nodes.serve("m")
    in_sync(primary, primary.mirror["name"])
    revolume("resync", directory, "--rate", "none")
    lost.fetched("one")
    assert lost.export("one") == lost.was["one"]


def test_a_new_primary_that_is_cut_off_goes_on_where_it_was(nodes: Nodes, folder: Path) -> None:
    node, was = with_history(nodes)
    node.stop()
    revolume("demote", node.directory, "--mirror-listen", nodes.link("m"))
    nodes.serve("m")
    relay = Counted(folder / "via", folder / "link-m")
    enough = 1300 << 10  # the first megabyte arrives, the rest does not

    def cut(connection: int, direction: bytes, frame: bytes) -> None:
        Counted._count(relay, connection, direction, frame)
        if relay.said > enough:
            relay.hang_up()

    relay.record = cut
    words = ("fetch", folder / "new", "--from", f"unix:{folder}/via", "--moment", "two")
    assert failed(*words, status=6)["code"] == "link-lost"
    assert failed("promote", folder / "new")["code"] == "not-promotable"
    relay.record, relay.said = relay._count, 0
    assert failed(*words[:-1], "one")["code"] == "other-moment-begun"
    made = told(*words)
    assert 0 < made["sent"] < missing(was["two"])
    assert read(nodes.serve("new").uri()) == was["two"]
