"""A rate and a window for what is sent in bulk, of real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mirrors import Node, revolume, until, write

MIB = 1 << 20
RATE = 2 * MIB


def away_from_now() -> str:
    """A window of the day that is closed for hours."""
    hour = time.localtime().tm_hour
    return f"{(hour + 5) % 24:02}:00-{(hour + 6) % 24:02}:00"


@pytest.fixture
def nodes(folder: Path) -> Iterator[list[Node]]:
    made: list[Node] = []
    yield made
    for node in made:
        node.kill()


def begun(nodes: list[Node], folder: Path, *words: str) -> Node:
    """A primary with 32 MiB in it, and an empty mirror."""
    link = f"unix:{folder}/link"
    nodes.append(Node(folder / "m", "--mirror-listen", link))
    nodes.append(Node(folder / "p", "--size", "32M", *words))
    primary = nodes[-1]
    write(primary.uri(), *[(at, os.urandom(MIB)) for at in range(0, 32 * MIB, MIB)])
    revolume("mirror", "add", primary.directory, "m1", link, "--mode", "async")
    return primary


def asked(node: Node) -> dict[str, Any]:
    with node.control as control:
        return dict(control.status()["mirrors"][0])


def test_a_rate_is_kept_told_and_lifted(nodes: list[Node], folder: Path) -> None:
    primary = begun(nodes, folder, "--resync-rate", "2MiB")
    until("the base begins", lambda: asked(primary)["base_bytes"])
    began, first = time.monotonic(), asked(primary)["base_bytes"]
    time.sleep(5)
    told = asked(primary)
    took = time.monotonic() - began
    assert 0.5 * RATE * took < told["base_bytes"] - first < 1.2 * RATE * took
    assert "2,048 KiB/s" in told["reason"]
    assert 1 < told["left_seconds"] < 30
    revolume("resync", primary.directory, "--rate", "none")
    primary.until_joined()
    assert time.monotonic() - began < 14


def test_a_window_is_waited_for_while_the_mirror_stays_connected(nodes: list[Node], folder: Path) -> None:
    window = away_from_now()
    primary = begun(nodes, folder, "--resync-window", window, "--resync-rate", "8MiB")
    until("it waits", lambda: "waits for its window" in asked(primary)["reason"])
    time.sleep(3)
    told = asked(primary)
    assert (told["state"], told["base_bytes"]) == ("base", 0)
    assert window in told["reason"]
    assert 4 * 3600 < told["left_seconds"] < 6 * 3600
    revolume("resync", primary.directory, "--window", "none", "--rate", "none")
    primary.until_joined()
