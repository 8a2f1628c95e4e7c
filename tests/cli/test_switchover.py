"""A running primary hands over to its mirror: writes go on there, nothing that was answered is lost, and there is
never more than one primary, whoever is killed or paused meanwhile."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_demote import pair
from tests.cli.test_membership import members
from tests.cli.test_served_as_recorded import PRIMARY, Nodes, in_sync
from tests.support.handover_relay import HandoverRelay
from tests.support.load import Load, content
from tests.support.mirrors import REVOLUME, MiB, Node, promote, read, refused, revolume, told, until, write
from tests.support.sectors import SECTOR, Book
from tests.support.tally import SEED, rounds

pytestmark = pytest.mark.timeout(600)
SIZE = 8 * MiB


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def roles(*nodes: Node) -> list[str]:
    return [node.status["role"] for node in nodes]


def switch(node: Node, name: str) -> str:
    return revolume("switchover", node.directory, "--to", name).stdout


@pytest.mark.soak
def test_roles_are_exchanged_there_and_back_under_writes(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    revolume("snapshot", primary.directory, "before")
    former = next(name for name, member in members(primary).items() if member["this"])
    book = Book(0, SIZE // SECTOR)
    for number in range(rounds(20, 2)):
        one, other, name = (primary, mirror, "m") if number % 2 == 0 else (mirror, primary, former)
        load = Load(one.uri(), book, number)
        time.sleep(0.3)
        said = switch(one, name)
        assert said.startswith(f"{name} is the primary of p now"), said
        load.end(flushed=False)  # its connection is closed, and no request was answered with an error
        assert roles(one, other) == ["secondary", "primary"]
        assert book.problems(content(other.uri(), book)) == []
        again = other.mirror
        assert again["required"] and again["state"] == "in sync", again
        other.until_agreed()
        assert content(one.uri(), book) == content(other.uri(), book)
    assert read(primary.uri("p@before")) == read(mirror.uri("p@before")) == bytes(SIZE)
    for node in (primary, mirror):
        node.stop()
        revolume("check", node.directory)


def test_all_other_members_go_on_as_mirrors_of_the_new_primary(nodes: Nodes) -> None:
    nodes.mirror("m"), nodes.mirror("n")
    links = [word for name in "mn" for word in ("--mirror-to", f"{nodes.link(name)},name={name}")]
    primary = Node(nodes.folder / "p", *PRIMARY, *links, "--mirror-listen", nodes.link("p"))
    nodes.nodes.append(primary)
    for name in ("m", "n"):
        in_sync(primary, name)
    write(primary.uri(), (0, b"before" * 1000))
    former = next(name for name, member in members(primary).items() if member["this"])
    switch(primary, "m")
    new = nodes.nodes[0]
    for name in (former, "n"):
        in_sync(new, name)
    mirrors = {mirror["name"]: mirror for mirror in new.status["mirrors"]}
    assert {name: mirror["required"] for name, mirror in mirrors.items()} == {former: True, "n": True}
    assert mirrors[former]["address"] == nodes.link("p")
    write(new.uri(), (MiB, b"after" * 1000))
    new.until_agreed()
    until("all are equal", lambda: read(primary.uri()) == read(nodes.nodes[1].uri()) == read(new.uri()))


def test_what_is_not_ready_is_refused_and_nothing_changes(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    assert refused("switchover", primary.directory, "--to", "x", status=3)["code"] == "no-mirror"
    assert refused("switchover", mirror.directory, "--to", "m")["code"] == "is-mirror"
    nodes.mirror("n")
    revolume("mirror", "add", primary.directory, "n", nodes.link("n"), "--mode", "async")
    revolume("mirror", "add", primary.directory, "away", nodes.link("away"), "--mode", "async")
    error = refused("switchover", primary.directory, "--to", "away")
    assert error["code"] == "not-ready" and "has not joined" in error["cause"]
    in_sync(primary, "n")
    mirror.freeze()
    assert refused("switchover", primary.directory, "--to", "m")["code"] == "not-ready"
    error = refused("switchover", primary.directory, "--to", "n")
    assert "Answers rest on mirror m too" in error["cause"] and "is away" in error["cause"]
    mirror.thaw()
    in_sync(primary, "m")
    assert roles(primary, mirror) == ["primary", "secondary"]
    write(primary.uri(), (0, b"goes on" * 1000))
    primary.stop()
    assert refused("switchover", primary.directory, "--to", "m", status=2)["code"] == "not-running"


def test_a_primary_that_listens_nowhere_is_told_how(nodes: Nodes) -> None:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m")
    in_sync(primary, "m")
    error = refused("switchover", primary.directory, "--to", "m")
    assert error["code"] == "no-listener" and "--mirror-listen" in error["try"]
    revolume("switchover", primary.directory, "--to", "m", "--mirror-listen", nodes.link("p"))
    assert roles(primary, mirror) == ["secondary", "primary"]
    assert mirror.mirror["address"] == nodes.link("p")


def broken_pair(nodes: Nodes, *, passes: bool) -> tuple[Node, Node, HandoverRelay]:
    """The cable between primary and mirror breaks at the handover."""
    mirror, cable = nodes.mirror("m"), f"unix:{nodes.folder}/cable"
    relay = HandoverRelay(nodes.folder / "cable", nodes.folder / "link-m", passes=passes)
    primary = Node(
        nodes.folder / "p", *PRIMARY, "--mirror-to", f"{cable},name=m", "--mirror-listen", nodes.link("p")
    )
    nodes.nodes.append(primary)
    in_sync(primary, "m")
    write(primary.uri(), (0, b"before" * 1000))
    primary.until_agreed()
    return primary, mirror, relay


def test_a_handover_that_is_lost_leaves_two_mirrors_and_words(nodes: Nodes) -> None:
    primary, mirror, relay = broken_pair(nodes, passes=False)
    error = refused("switchover", primary.directory, "--to", "m", status=6)
    assert error["code"] == "handover-unanswered" and "promote" in error["try"], error
    status = primary.status
    assert status["role"] == "secondary" and "has handed over to m" in status["source"]["before"]
    assert refused("promote", primary.directory)["code"] == "handover-unanswered"
    primary.kill()
    assert refused("promote", primary.directory)["code"] == "handover-unanswered"
    assert "has handed over to m" in told("status", primary.directory)["source"]["before"]
    primary = nodes.serve("p")
    assert roles(primary, mirror) == ["secondary", "secondary"]
    relay.mend()
    promote(primary.directory)  # the mirror is asked, and has not taken over
    in_sync(primary, "m")
    assert primary.mirror["required"] and read(primary.uri()).startswith(b"before")
    write(primary.uri(), (MiB, b"after" * 1000))
    primary.until_agreed()
    assert read(mirror.uri()) == read(primary.uri())


def test_an_answer_that_is_lost_leaves_the_mirror_as_the_primary(nodes: Nodes) -> None:
    primary, mirror, relay = broken_pair(nodes, passes=True)
    assert "m is the primary of p now" in switch(primary, "m")  # it has connected, which says as much
    assert roles(primary, mirror) == ["secondary", "primary"]
    assert primary.status["source"]["before"] == ""
    assert refused("promote", primary.directory)["code"] == "source-alive"
    write(mirror.uri(), (MiB, b"after" * 1000))
    mirror.until_agreed()
    assert read(mirror.uri()) == read(primary.uri())
    assert relay.broken.is_set()


def test_a_copy_that_handed_over_is_not_promoted_beside_the_primary(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    revolume("demote", primary.directory)
    until("the mirror misses its source", lambda: not mirror.status["source"]["connected"])
    assert "has heard of no other since" in primary.status["source"]["before"]
    promote(mirror.directory)
    assert refused("promote", primary.directory)["code"] == "another-primary"
    assert roles(primary, mirror) == ["secondary", "primary"]


@pytest.mark.soak
def test_whoever_is_killed_at_whatever_time_there_is_one_primary_at_most(nodes: Nodes) -> None:
    """Kills fall anywhere in the half second that a handover takes."""
    chance = random.Random(SEED)
    primary, mirror = pair(nodes)
    book = Book(0, SIZE // SECTOR)
    for number in range(rounds(20, 2)):
        names = {
            node: member["name"]
            for node in (primary, mirror)
            for member in node.status["members"]
            if member["this"]
        }
        load = Load(primary.uri(), book, number)
        command = [REVOLUME, "switchover", str(primary.directory), "--to", names[mirror]]
        said = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        time.sleep(chance.uniform(0.2, 1.2))
        victim = chance.choice([primary, mirror])
        whose = "primary" if victim is primary else "mirror"
        victim.kill()
        if victim is mirror:  # a required mirror is away: writes wait until it is back
            again = mirror = nodes.serve(mirror.directory.name)
        answer = said.communicate(timeout=60)[0]
        if victim is primary:
            again = primary = nodes.serve(primary.directory.name)
        load.end(flushed=False)
        found = roles(primary, mirror)
        print(f"round {number}: {whose} killed, {found}: {answer.strip()}")
        assert found.count("primary") <= 1, (found, again.directory)
        if "primary" not in found:
            assert "has handed over to" in primary.status["source"]["before"]
            until("nobody is connected", lambda node=mirror: not node.status["source"]["connected"])
            promote(chance.choice([primary, mirror]).directory)
        if roles(primary, mirror) == ["secondary", "primary"]:
            primary, mirror = mirror, primary
        rejoin(nodes, primary, mirror)
        assert book.problems(content(primary.uri(), book)) == []
        primary.until_agreed()
        assert content(mirror.uri(), book) == content(primary.uri(), book)


def rejoin(nodes: Nodes, primary: Node, mirror: Node) -> None:
    """The former primary is a mirror of the one that was promoted: by hand that is one more order."""
    if not primary.status["mirrors"]:
        revolume("mirror", "add", primary.directory, "back", nodes.link(mirror.directory.name))
    in_sync(primary, primary.mirror["name"])
