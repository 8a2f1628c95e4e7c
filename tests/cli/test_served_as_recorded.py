"""``serve DIR`` starts what is there: the role, the mirrors and the listener are what the directory says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mirrors import SMALL, MiB, Node, promote, read, revolume, told, until, write

PRIMARY = ("--size", "8M", "--cp-interval", "200ms", *SMALL)
pytestmark = pytest.mark.timeout(180)


class Nodes:
    """Primary ``p``, and mirrors at ``link-NAME``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []

    def link(self, name: str) -> str:
        return f"unix:{self.folder}/link-{name}"

    def serve(self, name: str, *words: str) -> Node:
        self.nodes.append(Node(self.folder / name, *words))
        return self.nodes[-1]

    def mirror(self, name: str) -> Node:
        return self.serve(name, "--mirror-listen", self.link(name), *SMALL)

    def close(self) -> None:
        for node in self.nodes:
            print(f"--- {node.directory.name}\n{node.log.read_text()}")  # shown with a failing test
            node.kill()


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def in_sync(node: Node, name: str) -> None:
    revolume("wait", node.directory, "--mirror", name)


def test_a_pair_is_started_again_by_its_directories_alone(nodes: Nodes) -> None:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m")
    primary.until_joined()
    write(primary.uri(), (0, b"first" * 1000))
    primary.stop()
    mirror.stop()
    mirror, primary = nodes.serve("m"), nodes.serve("p")
    in_sync(primary, "m")
    assert mirror.status["role"] == "secondary"
    assert mirror.status["source"]["listening"] == nodes.link("m")
    assert primary.mirror["address"] == nodes.link("m")
    write(primary.uri(), (MiB, b"second" * 1000))
    primary.kill()
    nodes.serve("p")
    in_sync(primary, "m")
    primary.until_agreed()
    assert read(mirror.uri()) == read(primary.uri())


def test_a_promoted_copy_is_served_as_a_primary_by_its_directory_alone(nodes: Nodes) -> None:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m")
    primary.until_joined()
    primary.kill()
    promote(mirror.directory)
    mirror.stop()
    again = nodes.serve("m")
    assert again.status["role"] == "primary"
    write(again.uri(), (0, b"after" * 1000))


def test_other_addresses_are_kept_and_said(nodes: Nodes) -> None:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m,mode=async")
    until("it joins", lambda: primary.mirror["joined"])
    primary.stop()
    mirror.stop()
    mirror = nodes.serve("m", "--mirror-listen", nodes.link("moved"))
    mirror.until_logged(f"listens for other nodes at {nodes.link('moved')} from now on")
    primary = nodes.serve("p", "--mirror-to", f"{nodes.link('moved')},name=m")
    primary.until_logged(f"Mirror m is at {nodes.link('moved')} from now on")
    in_sync(primary, "m")
    assert primary.mirror["mode"] == "async"  # nothing was said of it
    primary.stop()
    mirror.stop()
    nodes.serve("m")
    in_sync(nodes.serve("p"), "m")


def test_a_mirror_that_is_not_named_again_is_served_beside_a_new_one(nodes: Nodes) -> None:
    nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m")
    primary.until_joined()
    primary.stop()
    nodes.mirror("n")
    primary = nodes.serve("p", "--mirror-to", f"{nodes.link('n')},name=n")
    in_sync(primary, "m")
    in_sync(primary, "n")
    assert {m["name"]: m["address"] for m in told("status", primary.directory)["mirrors"]} == {
        name: nodes.link(name) for name in ("m", "n")
    }
