"""``revolume keep`` on real daemons: a policy is remembered through kill -9, and every point that it promises is
open."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mirrors import Node, revolume, write

BLOCK = 4096
SMALL = ("--cp-interval", "200ms", "--segment-size", "256K", "--budget", "16M", "--spare", "1M")
POLICY = "every-write=1s every-cp=3s every-2s=10m"
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    started: list[Node] = []
    yield started
    for node in started:
        node.kill()
        print(node.log.read_text())


def kept(node: Node, *words: str) -> dict[str, Any]:
    return dict(json.loads(revolume("keep", node.directory, *words, "--json").stdout))


def points(node: Node) -> list[dict[str, Any]]:
    return list(json.loads(revolume("points", node.directory, "--json").stdout)["points"])


def settled(node: Node) -> list[dict[str, Any]]:
    """The points, once none goes any more: of periods, and the newest."""
    before, listed = list[dict[str, Any]](), points(node)
    while before != listed:
        time.sleep(2)
        before, listed = listed, points(node)
    return listed


def test_a_policy_is_kept_by_a_daemon_that_is_killed(tmp_path: Path, nodes: list[Node]) -> None:
    directory = tmp_path / "v"
    node = Node(directory, "--size", "16M", *SMALL, "--keep", POLICY)
    nodes.append(node)
    made: dict[int, bytes] = {}
    for life in range(2):
        for at in range(1, 40):
            content = bytes([at + 100 * life]) * (64 * BLOCK)
            write(node.uri("v"), (0, content), (at * 8 * BLOCK, content))
            time.sleep(0.2)
        node.kill()
        stopped = kept(node)
        assert stopped["policy"] == POLICY and stopped["pinned_points"] >= 3
        node = Node(directory, *SMALL)
        nodes.append(node)
        listed = settled(node)  # lived by the daemon: no time has passed while it was away
        # Older than every point is kept: by now only those of periods are listed.
        first = [
            each for each in listed if each["time_ns"] < min(kept(node)["oldest_ns"], time.time_ns() - 4 * 10**9)
        ]
        assert len(first) >= 3
        for each in (first[0], first[len(first) // 2], first[-1]):
            image = tmp_path / "out"
            revolume("copy", f"{directory}@cp{each['number']}", image)
            found = hashlib.sha256(image.read_bytes()).digest()
            assert made.setdefault(each["number"], found) == found, "a point has changed"
            image.unlink()
    node.kill()
    revolume("check", directory)


def test_another_policy_is_tried_first_and_then_set(tmp_path: Path, nodes: list[Node]) -> None:
    node = Node(tmp_path / "v", "--size", "16M", *SMALL, "--keep", "every-write=200ms every-2s=20m")
    nodes.append(node)
    for at in range(1, 25):
        write(node.uri("v"), (0, bytes([at]) * (64 * BLOCK)))
        time.sleep(0.25)
    before = kept(node)
    assert before["pinned_points"] >= 2
    assert node.status["keep"]["policy"] == before["policy"]
    assert f"{before['policy']}, " in revolume("status", node.directory).stdout
    would = kept(node, "1h", "--dry-run")
    assert would["policy"] == before["policy"] and would["going"]["points"] >= before["pinned_points"]
    assert revolume("keep", node.directory, "hourly=2h", status=2).stderr
    assert "too small" in revolume("keep", node.directory, "--budget", "1K", status=2).stderr
    now = kept(node, "every-write=1h", "hourly=2h", "--budget", "24M", "--when-full", "refuse")
    assert (now["policy"], now["budget_bytes"], now["when_full"]) == (
        "every-write=1h hourly=2h",
        24 << 20,
        "refuse",
    )
    node.kill()
    again = Node(node.directory, "--cp-interval", "200ms")
    nodes.append(again)
    after = kept(again)
    assert (after["policy"], after["budget_bytes"], after["when_full"]) == (
        "every-write=1h hourly=2h",
        24 << 20,
        "refuse",
    )


def test_a_mirror_keeps_by_its_own_policy_and_a_promotion_keeps_what_it_kept(
    tmp_path: Path, nodes: list[Node]
) -> None:
    link = f"unix:{tmp_path}/link"
    mirror = Node(tmp_path / "m", "--mirror-listen", link, *SMALL, "--keep", "every-write=300ms every-2s=20m")
    nodes.append(mirror)
    primary = Node(tmp_path / "p", "--size", "16M", *SMALL, "--keep", "1h", "--mirror-to", f"{link},name=m")
    nodes.append(primary)
    primary.until_joined()
    for at in range(1, 40):
        write(primary.uri("p"), (0, bytes([at]) * (64 * BLOCK)))
        time.sleep(0.2)
    assert kept(primary)["policy"] == "1h" and not kept(primary)["pinned_points"]
    there = kept(mirror)
    assert there["policy"] == "every-write=300ms every-2s=20m" and there["pinned_points"] >= 2
    pinned = [each for each in points(mirror) if each["time_ns"] < there["oldest_ns"]]
    revolume("copy", f"{mirror.directory}@cp{pinned[0]['number']}", tmp_path / "before")
    primary.kill()
    revolume("promote", mirror.directory, "--force")
    assert kept(mirror)["policy"] == "every-write=300ms every-2s=20m"
    revolume("copy", f"{mirror.directory}@cp{pinned[0]['number']}", tmp_path / "after")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
