"""What proves that a promotion loses nothing is said before it is done; where nothing does it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_demote import pair
from tests.cli.test_served_as_recorded import PRIMARY, Nodes, in_sync
from tests.support.mirrors import MiB, Node, promote, read, refused, revolume, told, until, write

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def source(node: Node) -> dict[str, object]:
    found: dict[str, object] = node.status["source"]
    return found


def test_a_required_mirror_says_what_it_proves(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    write(primary.uri(), (0, b"both" * 1000))
    primary.until_agreed()
    until("it knows itself", lambda: any(m["this"] for m in mirror.status["members"]))
    primary.kill()
    until("its source is gone", lambda: not source(mirror)["connected"])
    said = promote(mirror.directory).stderr
    assert "it was required up to position" in said and "unless this mirror was given up" in said


def test_an_async_mirror_says_what_may_be_lost(nodes: Nodes) -> None:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m,mode=async")
    in_sync(primary, "m")
    write(primary.uri(), (0, b"both" * 1000))
    primary.until_agreed()
    until("it knows itself", lambda: any(m["this"] for m in mirror.status["members"]))
    primary.kill()
    until("its source is gone", lambda: not source(mirror)["connected"])
    said = promote(mirror.directory).stderr
    assert "it is async: what was answered after its last write, of " in said and "away since" in said


def test_a_mirror_that_was_detached_says_so_and_is_promoted_only_by_force(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    write(primary.uri(), (0, b"both" * 1000))
    primary.until_agreed()
    revolume("detach", primary.directory, "m")
    write(primary.uri(), (MiB, b"alone" * 1000))
    until("it knows", lambda: not source(mirror)["promotable"])
    assert "was given up by its source" in str(source(mirror)["why_not"])
    assert refused("promote", mirror.directory)["code"] == "not-proved"
    mirror.kill()
    stopped = told("status", mirror.directory)["source"]
    assert not stopped["promotable"] and "was given up by its source" in stopped["why_not"]
    assert refused("promote", mirror.directory)["code"] == "not-proved"
    mirror = nodes.serve("m")
    assert refused("promote", mirror.directory)["code"] == "not-proved"
    revolume("mirror", "add", primary.directory, "m", nodes.link("m"))
    in_sync(primary, "m")
    until("it counts again", lambda: source(mirror)["promotable"])
    revolume("detach", primary.directory, "m")
    until("it knows", lambda: not source(mirror)["promotable"])
    assert "may be lost" in promote(mirror.directory, "--force").stderr
    assert read(mirror.uri())[MiB:].startswith(b"alone")


def test_a_mirror_that_is_refused_as_another_copy_says_so(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    mirror.stop()
    revolume("mirror", "replace", primary.directory, "m", "--yes")
    other = nodes.serve("o", "--mirror-listen", nodes.link("m"))
    in_sync(primary, "m")
    other.stop()
    mirror = nodes.serve("m")
    until("it is told", lambda: not source(mirror)["promotable"])
    assert "does not count on it" in str(source(mirror)["why_not"])


def test_a_loss_is_told_once(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    mirror.kill()
    until("it has been tried again", lambda: "cannot be reached" in primary.mirror["reason"])
    kinds = [event["kind"] for event in primary.status["events"] for _ in range(event["count"])]
    assert kinds.count("mirror-lost") == 1
    nodes.serve("m")
    in_sync(primary, "m")
    mirror = nodes.nodes[-1]
    mirror.kill()
    until("it is told again", lambda: "cannot be reached" in primary.mirror["reason"])
    kinds = [event["kind"] for event in primary.status["events"] for _ in range(event["count"])]
    assert kinds.count("mirror-lost") == 2
