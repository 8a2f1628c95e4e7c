"""Damage that a view meets: a mirror, read through views alone, says so in its state; a primary by an event."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import RevolumeError
from tests.support.mirrors import SMALL, Node, read, revolume, write

BLOCK = 4096
PAYLOAD = bytes(range(256)) * 16
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def pair(folder: Path) -> Iterator[tuple[Node, Node]]:
    mirror = Node(folder / "m", "--mirror-listen", f"unix:{folder}/link", *SMALL)
    primary = Node(
        folder / "p", "--size", "8M", "--cp-interval", "200ms", *SMALL, "--mirror-to", f"unix:{folder}/link,name=m"
    )
    yield primary, mirror
    for node in (primary, mirror):
        node.kill()
        print(node.log.read_text())


def bend(node: Node) -> None:
    """One bit of the payload, wherever the log has it."""
    for path in (node.directory / "log").iterdir():
        if (at := path.read_bytes().find(PAYLOAD)) >= 0:
            with path.open("r+b") as file:
                file.seek(at + 100)
                file.write(b"\xff")
            return
    pytest.fail("the payload is not in the log")


@pytest.mark.parametrize("which", ["primary", "mirror"])
def test_status_tells_of_damage_that_a_view_met(pair: tuple[Node, Node], which: str) -> None:
    primary, mirror = pair
    primary.until_joined()
    write(primary.uri("p"), (7 * BLOCK, PAYLOAD))
    revolume("snapshot", primary.directory, "s")
    primary.until_agreed()
    node = primary if which == "primary" else mirror
    assert node.status["state"] == "online"
    bend(primary)
    bend(mirror)  # or each would be healed by the other
    with pytest.raises(RevolumeError):
        read(node.uri("p@s"))
    status = node.status
    assert any("block 7 of p@w1" in event["message"] for event in status["events"])
    if which == "mirror":
        assert status["state"] == "degraded" and "block 7 of p@w1" in status["reason"]
