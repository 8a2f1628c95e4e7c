"""Every copy knows every other by name and address, and a promoted one goes on mirroring to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_served_as_recorded import PRIMARY, Nodes, in_sync
from tests.support.mirrors import SMALL, MiB, Node, promote, read, refused, revolume, told, until, write

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def trio(nodes: Nodes) -> tuple[Node, Node, Node]:
    """A primary with two mirrors in sync."""
    one, two = nodes.mirror("m1"), nodes.mirror("m2")
    both = [word for name in ("m1", "m2") for word in ("--mirror-to", f"{nodes.link(name)},name={name}")]
    primary = nodes.serve("p", *PRIMARY, *both)
    for name in ("m1", "m2"):
        in_sync(primary, name)
    return primary, one, two


def members(node: Node) -> dict[str, dict[str, Any]]:
    return {member["name"]: member for member in node.status["members"]}


def all_joined(node: Node) -> bool:
    known = members(node)
    return set(known) >= {"m1", "m2"} and all(known[name]["joined"] for name in ("m1", "m2"))


def test_every_copy_knows_every_other(nodes: Nodes) -> None:
    primary, one, two = trio(nodes)
    write(primary.uri(), (0, b"one" * 1000))
    for node in (primary, one, two):
        until("it knows them", lambda node=node: all_joined(node))
        known = members(node)
        assert [known[name]["address"] for name in ("m1", "m2")] == [nodes.link("m1"), nodes.link("m2")]
        (own,) = (member for member in known.values() if member["this"])
        assert own["mode"] == ("primary" if node is primary else "sync")
    assert "m1 at unix:" in revolume("status", two.directory).stdout
    two.stop()
    assert {member["name"] for member in told("status", two.directory)["members"]} == set(members(one))


def test_a_promoted_copy_goes_on_mirroring_to_the_others(nodes: Nodes) -> None:
    primary, one, two = trio(nodes)
    write(primary.uri(), (0, b"before" * 1000))
    for node in (one, two):
        until("it knows them", lambda node=node: all_joined(node))
    former = next(member["name"] for member in members(one).values() if member["mode"] == "primary")
    primary.kill()
    until("both miss their source", lambda: not two.status["source"]["connected"])
    until("both miss their source", lambda: not one.status["source"]["connected"])
    promote(one.directory)
    in_sync(one, "m2")
    assert one.mirror["required"] and one.mirror["address"] == nodes.link("m2")
    write(one.uri(), (MiB, b"after" * 1000))
    one.until_agreed()
    assert read(two.uri()) == read(one.uri())
    known = members(one)
    assert known["m1"]["this"] and known["m1"]["mode"] == "primary"
    assert known[former]["mode"] == "primary" and not known[former]["this"]
    one.kill()
    one = nodes.serve("m1")
    in_sync(one, "m2")
    assert refused("mirror", "remove", one.directory, "m1", status=3)["code"] == "no-mirror"
    revolume("mirror", "remove", one.directory, former)
    assert set(members(one)) == {"m1", "m2"}
    one.until_agreed()
    until("that travels too", lambda: set(members(two)) == {"m1", "m2"})
    one.stop()
    two.stop()
    for node in (one, two):
        revolume("check", node.directory)


def test_a_mirror_promoted_in_its_directory_knows_the_others_when_it_is_served(nodes: Nodes) -> None:
    primary, one, two = trio(nodes)
    write(primary.uri(), (0, b"before" * 1000))
    until("it knows them", lambda: all_joined(one))
    primary.kill()
    one.stop()
    promote(one.directory)
    one = nodes.serve("m1")
    in_sync(one, "m2")
    one.until_agreed()
    assert read(two.uri()) == read(one.uri())


def test_a_new_mirror_is_told_of_the_members_and_where_it_is_reached_is_its_own_word(nodes: Nodes) -> None:
    primary, one, _ = trio(nodes)
    revolume("mirror", "remove", primary.directory, "m2")
    three = nodes.serve("m3", "--mirror-listen", nodes.link("m3"), "--advertise", nodes.link("m3-outside"))
    revolume("mirror", "add", primary.directory, "m3", nodes.link("m3"), "--mode", "async")
    in_sync(primary, "m3")
    write(primary.uri(), (0, b"new" * 1000))
    until("the first knows it", lambda: members(one).get("m3", {}).get("joined"))
    assert members(one)["m3"]["address"] == nodes.link("m3-outside")
    until("it knows itself", lambda: members(three).get("m3", {}).get("this"))
    assert set(members(three)) == set(members(one))
    assert "m2" not in members(three)


def test_a_copy_that_was_removed_says_that_it_is_no_member(nodes: Nodes) -> None:
    """It was connected, so its log says so; it says so when it is stopped, and until it is added again."""
    primary, one, two = trio(nodes)
    until("it knows them", lambda: all_joined(two))
    assert "(this copy)" in revolume("mirror", "list", two.directory).stdout
    assert two.status["source"]["removed"] == ""
    revolume("mirror", "remove", primary.directory, "m2")
    until("it was told", lambda: two.status["source"]["removed"])
    listed = revolume("mirror", "list", two.directory).stdout
    assert "(this copy)" not in listed and "m1 at " in listed
    assert "is no member of p any more" in listed and "revolume mirror add DIR NAME" in listed
    shown = revolume("status", two.directory).stdout
    assert "is no member of p any more" in shown and "(this copy)" not in shown
    two.stop()
    assert "is no member of p any more" in revolume("mirror", "list", two.directory).stdout
    two = nodes.serve("m2")
    revolume("mirror", "add", primary.directory, "m2", nodes.link("m2"))
    in_sync(primary, "m2")
    until("it is one again", lambda: not two.status["source"]["removed"] and members(two)["m2"]["this"])
    assert "(this copy)" in revolume("mirror", "list", two.directory).stdout
    assert one.status["source"]["removed"] == ""


def test_a_copy_whose_place_another_has_taken_says_so_when_its_source_refuses_it(nodes: Nodes) -> None:
    mirror = nodes.mirror("m1")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m1')},name=m1")
    in_sync(primary, "m1")
    until("it knows itself", lambda: members(mirror).get("m1", {}).get("joined"))
    mirror.kill()
    revolume("mirror", "replace", primary.directory, "m1", "--yes")
    other = nodes.serve("m2", "--mirror-listen", nodes.link("m1"), *SMALL)
    in_sync(primary, "m1")
    other.stop()
    mirror = nodes.serve("m1")
    removed = until("it is refused", lambda: mirror.status["source"]["removed"])
    assert "is no member of p any more" in removed and "it is another copy of the volume" in removed
    assert all(not member["this"] for member in mirror.status["members"])
    assert removed in revolume("mirror", "list", mirror.directory).stdout


def test_a_source_of_another_volume_says_nothing_of_a_copy(nodes: Nodes) -> None:
    """Its mirror has joined, and it finds this copy at the address of that: that is no word about this one."""
    mirror = nodes.mirror("m1")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m1')},name=m1")
    in_sync(primary, "m1")
    primary.stop()
    stranger = nodes.mirror("m2")
    source = nodes.serve("q", *PRIMARY, "--mirror-to", f"{nodes.link('m2')},name=m2")
    in_sync(source, "m2")
    source.stop()
    stranger.stop()
    mirror.stop()
    nodes.serve("m1", "--mirror-listen", nodes.link("m2"))
    source = nodes.serve("q")
    until("it is refused", lambda: source.mirror["state"] == "refused")
    status = told("status", mirror.directory)
    assert status["source"]["removed"] == "" and members(mirror)["m1"]["this"]
