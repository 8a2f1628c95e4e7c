"""``revolume mirror add|set|remove|list``: on a primary that runs, and on one that is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_served_as_recorded import PRIMARY, Nodes, in_sync
from tests.support.mirrors import MiB, read, refused, revolume, told, until, write

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def test_a_mirror_is_added_while_the_primary_runs_and_says_what_it_takes(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    write(primary.uri(), (0, b"\x11" * MiB))
    mirror = nodes.mirror("m")
    answer = told("mirror", "add", primary.directory, "m", nodes.link("m"))
    assert (answer["name"], answer["address"], answer["mode"]) == ("m", nodes.link("m"), "sync")
    assert answer["answers"] and answer["send_bytes"] >= MiB
    assert answer["assumed_bytes_per_s"] == 100 << 20
    assert "It protects nothing yet: " in answer["told"] and "at an assumed 100.0 MiB/s" in answer["told"]
    in_sync(primary, "m")
    primary.until_agreed()
    assert read(mirror.uri()) == read(primary.uri())
    primary.kill()
    in_sync(nodes.serve("p"), "m")


def test_who_can_not_be_the_mirror_is_refused_in_a_sentence(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    nodes.mirror("m")
    revolume("mirror", "add", primary.directory, "m", nodes.link("m"))
    in_sync(primary, "m")
    other = nodes.serve("q", *PRIMARY)

    def add(node: object, name: str, address: str, status: int = 4) -> str:
        return refused("mirror", "add", primary.directory if node is None else other.directory, name, address,
                       status=status)["code"]  # fmt: skip

    assert add(None, "m", nodes.link("n")) == "mirror-exists"
    assert add(None, "n", nodes.link("m")) == "mirror-address-taken"
    another_way = Path(nodes.link("m").removeprefix("unix:")).with_name("other")
    another_way.symlink_to(nodes.link("m").removeprefix("unix:"))
    assert add(None, "n", f"unix:{another_way}") == "same-copy"
    assert add(other, "m", nodes.link("m")) == "other-volume"
    assert add(None, "n", "192.0.2.1") == "mirror-plaintext"
    assert add(None, "", nodes.link("n"), 2) == "mirror-name"
    assert add(None, "n", "unix:", 2) == "address-syntax"
    for verb in (("set", "--mode", "async"), ("remove",), ("replace",)):
        found = refused("mirror", verb[0], primary.directory, "nobody", *verb[1:], status=3)
        assert found["code"] == "no-mirror"
    assert refused("mirror", "set", primary.directory, "m", status=2)["code"] == "nothing-to-set"
    assert [mirror["name"] for mirror in told("mirror", "list", primary.directory)] == ["m"]
    assert other.status["mirrors"] == []


def test_where_nobody_answers_a_mirror_is_added_all_the_same(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    answer = told("mirror", "add", primary.directory, "m", nodes.link("m"), "--mode", "async", "--history", "none")
    assert not answer["answers"] and "Nobody answers there as a mirror yet" in answer["told"]
    assert "m at unix:" in revolume("mirror", "list", primary.directory).stdout
    nodes.mirror("m")
    in_sync(primary, "m")


def test_mode_and_address_are_changed_while_it_runs(nodes: Nodes) -> None:
    primary, mirror = nodes.serve("p", *PRIMARY), nodes.mirror("m")
    revolume("mirror", "add", primary.directory, "m", nodes.link("m"))
    in_sync(primary, "m")
    assert primary.mirror["required"]
    assert "m is async" in told("mirror", "set", primary.directory, "m", "--mode", "async")["told"]
    assert not primary.mirror["required"]
    write(primary.uri(), (0, b"async" * 800))
    in_sync(primary, "m")
    assert (
        "answers wait for it from now on"
        in told("mirror", "set", primary.directory, "m", "--mode", "sync")["told"]
    )
    assert primary.mirror["required"]
    revolume("mirror", "set", primary.directory, "m", "--mode", "async")
    mirror.stop()
    until("it is missed", lambda: primary.mirror["state"] == "connecting")
    write(primary.uri(), (0, b"alone" * 800))
    assert refused("mirror", "set", primary.directory, "m", "--mode", "sync")["code"] == "mirror-behind"
    nodes.serve("m", "--mirror-listen", nodes.link("elsewhere"))
    revolume("mirror", "set", primary.directory, "m", "--address", nodes.link("elsewhere"))
    in_sync(primary, "m")
    assert primary.mirror["address"] == nodes.link("elsewhere")
    nodes.mirror("n")
    assert (
        refused("mirror", "set", primary.directory, "m", "--address", nodes.link("n"))["code"] == "member-replaced"
    )
    answer = told("mirror", "set", primary.directory, "m", "--address", nodes.link("nowhere"))
    assert "Nobody answers there as a mirror yet" in answer["told"]


def test_a_removed_mirror_is_a_stranger_until_it_is_added_again(nodes: Nodes) -> None:
    primary, mirror = nodes.serve("p", *PRIMARY), nodes.mirror("m")
    revolume("mirror", "add", primary.directory, "m", nodes.link("m"))
    in_sync(primary, "m")
    write(primary.uri(), (0, b"one" * 1000))
    primary.until_agreed()
    assert told("mirror", "remove", primary.directory, "m") == {"removed": "m"}
    write(primary.uri(), (0, b"two" * 1000))
    assert primary.status["mirrors"] == []
    until("it is left alone", lambda: not mirror.status["source"]["connected"])
    assert refused("mirror", "remove", primary.directory, "m", status=3)["code"] == "no-mirror"
    answer = told("mirror", "add", primary.directory, "m", nodes.link("m"))
    assert answer["answers"] and "0 bytes of base" in answer["told"]
    in_sync(primary, "m")
    primary.until_agreed()
    assert read(mirror.uri())[:3] == b"two"


def test_a_stopped_primary_knows_its_mirrors_when_it_is_served(nodes: Nodes) -> None:
    primary, mirror = nodes.serve("p", *PRIMARY), nodes.mirror("m")
    primary.stop()
    answer = told("mirror", "add", primary.directory, "m", nodes.link("wrong"), "--mode", "async")
    assert "It is connected to when the volume is served." in answer["told"]
    assert refused("mirror", "add", primary.directory, "m", nodes.link("n"))["code"] == "mirror-exists"
    assert refused("mirror", "add", primary.directory, "n", nodes.link("wrong"))["code"] == "mirror-address-taken"
    told("mirror", "set", primary.directory, "m", "--address", nodes.link("m"), "--mode", "sync")
    assert refused("mirror", "set", primary.directory, "n", "--mode", "sync", status=3)["code"] == "no-mirror"
    (listed,) = told("mirror", "list", primary.directory)
    assert (listed["name"], listed["address"], listed["mode"]) == ("m", nodes.link("m"), "sync")
    primary = nodes.serve("p")
    in_sync(primary, "m")
    assert refused("mirror", "add", mirror.directory, "x", nodes.link("x"))["code"] == "is-mirror"
    primary.kill()
    assert refused("mirror", "set", primary.directory, "m", "--mode", "async")["code"] == "mirror-required"
    told("mirror", "remove", primary.directory, "m")
    mirror.stop()
    assert refused("mirror", "add", mirror.directory, "x", nodes.link("x"))["code"] == "is-mirror"
    assert told("mirror", "list", primary.directory) == []
