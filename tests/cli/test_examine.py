"""Every node that listens says what it is and has, to whoever asks; nobody is cut off for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.host import real_host
from revolume.mirror.recovery.examine import examine
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.examine_messages import Examined, Standing
from revolume.mirror.wire.tail_messages import Fetch
from revolume.mirror.wire.version import Versions
from tests.cli.test_served_as_recorded import PRIMARY, Nodes, in_sync
from tests.support.mirrors import SMALL, MiB, Node, promote, read, refused, revolume, told, until, write

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def asked(address: str, volume: bytes = bytes(16), versions: Versions | None = None) -> Examined:
    """What the node at this address says of itself."""
    question = Fetch(volume, b"somebody".ljust(16), NOWHERE)
    if versions is not None:
        question = Fetch(volume, b"somebody".ljust(16), NOWHERE, versions=versions)

    async def ask() -> Examined:
        host = real_host()
        try:
            return await examine(host, address, None, question)
        finally:
            await host.work.close()

    return asyncio.run(ask())


def pair(nodes: Nodes) -> tuple[Node, Node]:
    """A primary that listens, and its mirror in sync."""
    mirror = nodes.mirror("m")
    words = ("--mirror-listen", nodes.link("p"), "--mirror-to", f"{nodes.link('m')},name=m")
    primary = nodes.serve("p", *PRIMARY, *words)
    in_sync(primary, "m")
    write(primary.uri(), (0, b"one" * 1000))
    primary.until_agreed()
    return primary, mirror


def test_each_says_what_it_is_and_has_and_no_session_notices(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    until("the mirror knows all", lambda: len(mirror.status["members"]) == 2)
    since = mirror.status["source"]["since_ns"]
    there, here = asked(nodes.link("m")), asked(nodes.link("p"))
    assert (there.standing, here.standing) == (Standing.SECONDARY, Standing.PRIMARY)
    assert there.volume == here.volume == bytes.fromhex(primary.status["volume_id"])
    assert there.end == here.end and there.epochs == here.epochs and here.epochs
    assert there.points and there.points == here.points[: len(there.points)]
    assert there.points[0].number == primary.status["point"]
    assert set(there.members) == set(here.members) and len(here.members) == 2
    assert (there.name, there.why_not, there.whole) == ("p", "", True)
    assert "is a primary already" in here.why_not
    assert (there.address, here.address) == (nodes.link("m"), nodes.link("p"))
    assert there.node.hex() == primary.mirror["node"] and here.node != there.node
    found = mirror.status["source"]
    assert found["connected"] and (found["since_ns"], found["refusals"]) == (since, 0)
    assert "is gone" not in mirror.log.read_text()
    empty = nodes.mirror("e")
    nothing = asked(nodes.link("e"))
    assert (nothing.standing, nothing.why_not) == (Standing.EMPTY, "No source has connected yet.")
    assert empty.status["state"] == "empty"


def test_who_speaks_the_version_before_is_told_what_that_had(nodes: Nodes) -> None:
    pair(nodes)
    for name in ("m", "p"):
        now, before = asked(nodes.link(name)), asked(nodes.link(name), versions=Versions(2, 2))
        assert (before.version, before.end, before.node, before.whole) == (2, now.end, now.node, True)
        assert before.members == ()


def test_a_primary_is_not_its_own_mirror_nor_anybody_elses(nodes: Nodes) -> None:
    primary, _ = pair(nodes)
    assert refused("mirror", "add", primary.directory, "x", nodes.link("p"))["code"] == "mirror-is-itself"
    os.symlink(nodes.link("p").removeprefix("unix:"), nodes.folder / "other-way")
    found = refused("mirror", "add", primary.directory, "x", f"unix:{nodes.folder}/other-way")
    assert found["code"] == "mirror-is-itself"
    other = nodes.serve("q", *PRIMARY)
    assert refused("mirror", "add", other.directory, "x", nodes.link("p"))["code"] == "other-volume"
    other.stop()
    other = nodes.serve("q", *SMALL, "--mirror-to", f"{nodes.link('p')},name=x")
    until("it is refused", lambda: "This node is the primary of p" in other.mirror["reason"])


def test_a_promoted_copy_answers_where_it_listened_and_the_old_primary_finds_out(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    primary.kill()
    promote(mirror.directory)
    write(mirror.uri(), (MiB, b"two" * 1000))
    assert asked(nodes.link("m")).standing == Standing.PRIMARY
    assert told("status", mirror.directory)["listening"] == nodes.link("m")
    found = refused("serve", primary.directory)
    assert found["code"] == "another-primary" and "another node has been primary since" in str(found)
    mirror.stop()
    mirror = nodes.serve("m")
    assert asked(nodes.link("m")).standing == Standing.PRIMARY
    assert read(mirror.uri())[MiB : MiB + 3] == b"two"


def test_an_address_that_is_taken_keeps_no_primary_from_its_clients(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    primary.stop()
    nodes.serve("x", "--mirror-listen", nodes.link("p"))
    primary = nodes.serve("p")
    primary.until_logged("Other nodes can't reach this one")
    in_sync(primary, "m")
    assert mirror.status["source"]["connected"]


def test_a_primary_that_was_stopped_in_order_asks_before_it_opens_too(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    primary.stop()
    promote(mirror.directory)
    found = refused("serve", primary.directory)
    assert found["code"] == "another-primary" and "another node has been primary since" in str(found)
    mirror.stop()
    revolume("mirror", "remove", primary.directory, "m")  # by order: what the other has does not count
    assert nodes.serve("p").status["role"] == "primary"
