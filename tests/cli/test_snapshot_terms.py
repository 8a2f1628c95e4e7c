"""``revolume snapshot`` with an end, held, and with commands around it, on real daemons."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mirrors import Node, refused, revolume, until, write

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    started = Node(tmp_path / "v", "--size", "16M", "--cp-interval", "200ms")
    yield started
    started.kill()


def listed(node: Node) -> dict[str, Any]:
    found = json.loads(revolume("snapshot", node.directory, "--json").stdout)["snapshots"]
    return {each["name"]: each for each in found}


def test_a_snapshot_ends_by_itself_unless_it_is_held(node: Node) -> None:
    write(node.uri("v"), (0, bytes(4096)))
    revolume("snapshot", node.directory, "short", "--expires", "2s")
    revolume("snapshot", node.directory, "held", "--expires", "2s")
    revolume("snapshot", node.directory, "held", "--hold")
    assert refused("snapshot", node.directory, "held", "--drop")["code"] == "snapshot-held"
    until("the end of a snapshot", lambda: "short" not in listed(node))
    assert listed(node)["held"]["held"] and listed(node)["held"]["exclusive_bytes"] == 0
    assert any("snapshot short is dropped" in event["message"] for event in node.status["events"])
    revolume("snapshot", node.directory, "held", "--release")
    until("the end of a released one", lambda: not listed(node))


def test_commands_run_around_a_snapshot(node: Node, tmp_path: Path) -> None:
    """The second runs too when the first, or the snapshot, fails; neither runs on for ever."""
    notes = tmp_path / "notes"

    def note(word: str, then: str = "true") -> str:
        return f"sh -c 'echo {word} $REVOLUME_SNAPSHOT >> {notes}; {then}'"

    revolume("snapshot", node.directory, "one", "--before", note("freeze"), "--after", note("thaw"))
    assert notes.read_text().split("\n") == ["freeze one", "thaw one", ""]
    revolume("snapshot", node.directory, "one", "--before", note("a"), "--after", note("b"), status=4)
    assert notes.read_text().endswith("a one\nb one\n")
    revolume("snapshot", node.directory, "two", "--before", note("c", "false"), "--after", note("d"), status=1)
    assert notes.read_text().endswith("c two\nd two\n") and "two" not in listed(node)
    began = time.monotonic()
    slow = ("--before", "sleep 60", "--after", note("e"), "--command-timeout", "1s")
    assert "within 1 seconds" in revolume("snapshot", node.directory, "three", *slow, status=1).stderr
    assert time.monotonic() - began < 30 and notes.read_text().endswith("e three\n")
    revolume("snapshot", node.directory, "four", "--before", "/no/such/program", status=2)
    revolume("snapshot", node.directory, "four", "--expires", "0", status=2)
    revolume("snapshot", node.directory, "four", "--hold", "--drop", status=2)
