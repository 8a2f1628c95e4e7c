"""A primary becomes a mirror's copy, running or stopped, after a crash too; promoted again it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_served_as_recorded import PRIMARY, Nodes, in_sync
from tests.support.load import Load, content
from tests.support.mirrors import MiB, Node, promote, read, refused, revolume, told, until, write
from tests.support.sectors import SECTOR, Book
from tests.support.wire import Wire, WireError

pytestmark = pytest.mark.timeout(240)
SIZE = 8 * MiB


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def alone(nodes: Nodes) -> Node:
    """A primary that knows no other copy, and where it would listen."""
    node = nodes.serve("p", *PRIMARY)
    write(node.uri(), (0, b"first" * 1000))
    return node


def pair(nodes: Nodes) -> tuple[Node, Node]:
    """A primary that listens for other nodes, and its mirror in sync."""
    mirror = nodes.mirror("m")
    links = ("--mirror-to", f"{nodes.link('m')},name=m", "--mirror-listen", nodes.link("p"))
    primary = Node(nodes.folder / "p", *PRIMARY, *links)
    nodes.nodes.append(primary)
    in_sync(primary, "m")
    return primary, mirror


def settled(node: Node) -> None:
    """All that was written is in a point."""
    with node.control as control:
        until("a point is made", lambda: control.points()["points"][-1]["write"] == control.status()["write"])


def lasting(status: dict[str, Any]) -> dict[str, Any]:
    """What a promotion must give back; the point is that of the demotion."""
    names = (
        "name",
        "size",
        "write",
        "time_ns",
        "point",
        "points",
        "horizon_write",
        "snapshots",
        "members",
        "volume_id",
    )
    return {name: status[name] for name in names}


def test_a_demoted_primary_is_served_as_a_mirror_and_promoted_is_the_same(nodes: Nodes) -> None:
    node = alone(nodes)
    revolume("snapshot", node.directory, "before")
    write(node.uri(), (MiB, b"second" * 1000), (100, b"odd"))
    settled(node)
    held, before = read(node.uri()), node.status
    past = read(node.uri("p@before"))
    assert revolume("demote", node.directory, "--mirror-listen", nodes.link("p")).stdout.startswith(
        "p is a mirror now"
    )
    status = node.status
    assert (status["role"], status["source"]["listening"]) == ("secondary", nodes.link("p"))
    assert status["source"]["agreed_point"] == status["point"] == before["point"]
    assert read(node.uri()) == held and read(node.uri("p@before")) == past
    with Wire(node.uri()) as wire, pytest.raises(WireError):
        wire.pwrite(0, b"x" * SECTOR)
    promote(node.directory)
    after = node.status
    assert after["role"] == "primary" and after["epoch"] == before["epoch"] + 1
    assert lasting(after) == lasting(before)
    assert read(node.uri()) == held and read(node.uri("p@before")) == past
    write(node.uri(), (2 * MiB, b"third" * 1000))
    node.stop()
    revolume("check", node.directory)


def test_its_mirrors_are_as_they_were_when_it_is_promoted_again(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    write(primary.uri(), (0, b"both" * 1000))
    before = primary.status
    revolume("demote", primary.directory)
    assert primary.status["source"]["listening"] == nodes.link("p")
    mirror.kill()
    promote(primary.directory)
    again = primary.mirror
    assert again["required"] and again["joined"] and again["node"] == before["mirrors"][0]["node"]
    assert again["address"] == nodes.link("m")
    nodes.serve("m")
    in_sync(primary, "m")
    write(primary.uri(), (MiB, b"after" * 1000))
    primary.until_agreed()
    assert lasting(primary.status)["members"] == lasting(before)["members"]
    assert read(primary.uri()) == read(mirror.uri())


def test_a_demoted_primary_follows_the_mirror_that_was_promoted(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    write(primary.uri(), (0, b"before" * 1000))
    revolume("demote", primary.directory)
    until("the mirror misses its source", lambda: not mirror.status["source"]["connected"])
    promote(mirror.directory)
    revolume("mirror", "add", mirror.directory, "old", nodes.link("p"))
    in_sync(mirror, "old")
    write(mirror.uri(), (MiB, b"after" * 1000))
    mirror.until_agreed()
    assert read(primary.uri()) == read(mirror.uri())
    assert told("status", primary.directory)["source"]["connected"]
    mirror.kill()
    until("it misses its source", lambda: not primary.status["source"]["connected"])
    promote(primary.directory)
    assert [m["name"] for m in primary.status["mirrors"]] == []  # whom it fed as a primary is another one's now
    assert read(primary.uri())[MiB:].startswith(b"after")


def test_what_can_not_be_demoted_is_told_in_a_sentence(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    with Wire(primary.uri()):
        error = refused("demote", primary.directory)
        assert error["code"] == "clients-connected" and "1 connection " in error["cause"]
    assert primary.status["role"] == "primary"
    assert refused("demote", mirror.directory)["code"] == "is-mirror"
    assert refused("promote", primary.directory)["code"] == "is-primary"
    mirror.stop()
    assert refused("demote", mirror.directory)["code"] == "is-mirror"
    lonely = nodes.serve("q", *PRIMARY)
    error = refused("demote", lonely.directory)
    assert error["code"] == "no-listener" and "--mirror-listen" in error["try"]
    write(lonely.uri(), (0, b"still a primary"))


def test_with_yes_clients_are_disconnected_and_what_was_answered_is_there(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    book = Book(0, SIZE // SECTOR)
    load = Load(primary.uri(), book, 1, failing=True)
    revolume("demote", primary.directory, "--yes")
    load.end(flushed=False)
    assert primary.status["role"] == "secondary"
    assert book.problems(content(primary.uri(), book)) == []
    assert content(mirror.uri(), book) == content(primary.uri(), book)


@pytest.mark.parametrize("killed", [False, True])
def test_a_stopped_primary_is_demoted_with_all_that_it_has(nodes: Nodes, killed: bool) -> None:
    node = nodes.serve("p", *PRIMARY)
    book = Book(0, SIZE // SECTOR)
    load = Load(node.uri(), book, 1, failing=True)
    until("points are there", lambda: node.status["points"] > 2)
    if killed:
        node.kill()
        load.end(flushed=False)
    else:
        load.end()
        node.stop()
    before = told("status", node.directory)
    demoted = told("demote", node.directory, "--mirror-listen", nodes.link("p"))
    again = nodes.serve("p")
    assert again.status["role"] == "secondary" and again.status["source"]["listening"] == nodes.link("p")
    assert again.status["source"]["agreed_point"] == demoted["point"] >= before["point"]
    assert again.status["epoch"] == before["epoch"]  # none has begun
    promote(again.directory)
    assert book.problems(content(again.uri(), book)) == []
    again.stop()
    revolume("check", again.directory)


def test_a_primary_that_crashed_is_not_promoted_while_required_mirrors_may_have_more(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    write(primary.uri(), (0, b"both" * 1000))
    primary.kill()
    revolume("demote", primary.directory)
    error = refused("promote", primary.directory)
    assert error["code"] == "lacks-acknowledged" and "mirrors (m)" in error["cause"], error
    until("the mirror misses its source", lambda: not mirror.status["source"]["connected"])
    promote(mirror.directory)
    revolume("mirror", "add", mirror.directory, "old", nodes.link("p"))
    again = nodes.serve("p")
    in_sync(mirror, "old")
    mirror.until_agreed()
    until("it may be promoted", lambda: again.status["source"]["promotable"])


def test_a_demotion_that_can_not_listen_leaves_the_primary(nodes: Nodes) -> None:
    node, other = alone(nodes), nodes.mirror("m")
    assert other.link == nodes.link("m")
    error = refused("demote", node.directory, "--mirror-listen", nodes.link("m"), status=1)
    assert node.status["role"] == "primary", error
    write(node.uri(), (MiB, b"goes on" * 1000))
