"""What of the past there is, when bytes last changed, and what each holder takes: asked of real daemons."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cli.test_clones import BLOCK, FOLDS, SIZE, content, filled, folded, scribble
from tests.support.mirrors import REVOLUME, Node, refused, revolume, told, until, write
from tests.support.servers import revolume_only

pytestmark = [revolume_only, pytest.mark.timeout(240)]


@pytest.fixture
def node(folder: Path) -> Iterator[Node]:
    started = Node(folder / "v", "--size", str(SIZE), *FOLDS)
    yield started
    started.kill()
    print(started.log.read_text())


def test_stretches_gaps_and_single_moments(node: Node) -> None:
    """Two snapshots from which the history has gone on: a gap before, between and behind them."""
    filled(node, 1)
    revolume("snapshot", node.directory, "a")
    scribble(node, "v", 2)
    revolume("snapshot", node.directory, "b")
    scribble(node, "v", 3)
    last = told("snapshot", node.directory)["snapshots"][-1]["write"]
    until("both are alone", lambda: folded(node, node.directory, last + 1))
    found = told("points", node.directory, "--timeline")["timeline"]
    kinds = [each["kind"] for each in found]
    assert kinds == ["gap", "point", "gap", "point", "gap", "every"]
    assert [each["cause"] for each in found if each["kind"] == "point"] == ["snapshot a", "snapshot b"]
    assert all(each["until"] + 1 == following["since"] for each, following in pairwise(found))
    assert found[1]["bytes"] > 0
    told_at = refused("points", node.directory, "--at", f"w{found[2]['since'] + 1}", status=3)
    hint = json.dumps(told_at)
    assert f"before it w{found[1]['since']}" in hint
    assert f"after it w{found[3]['since']}" in hint
    told_at = refused("points", node.directory, "--at", "2020-01-01T00:00:00Z", status=3)
    assert f"after it w{found[1]['since']}" in json.dumps(told_at)
    assert "every moment" in revolume("points", node.directory, "--timeline").stdout
    node.stop()
    assert [each["kind"] for each in told("points", node.directory, "--timeline")["timeline"]][:5] == kinds[:5]


def test_when_bytes_last_changed(node: Node) -> None:
    uri = node.uri("v")
    write(uri, (0, content(1, 4)), (2 * BLOCK, b"x" * 512), (9 * BLOCK, content(2, 1)), (BLOCK, bytes(BLOCK)))
    found = told("history", node.directory, "--range", "0:12K")["changes"]
    assert [(each["write"], each["offset"], each["length"]) for each in found] == [
        (4, BLOCK, BLOCK), (2, 2 * BLOCK, 512), (1, 0, 4 * BLOCK),
    ]  # fmt: skip
    beside = told("history", node.directory, "--range", "8704:9216")["changes"]
    assert [each["write"] for each in beside] == [1]
    assert len(told("history", node.directory, "--range", "0:8M", "--limit", "2")["changes"]) == 2
    assert told("history", node.directory, "--range", "4M:5M")["changes"] == []
    for wrong in ("5", "4K:4K", "8K:4K", "0:1G", "a:b"):
        refused("history", node.directory, "--range", wrong, status=2)
    node.stop()
    refused("history", node.directory, "--range", "0:4K", status=2)


def test_what_dropping_gives_back_is_what_comes_back(node: Node) -> None:
    filled(node, 1)
    revolume("snapshot", node.directory, "old")
    scribble(node, "v", 2)
    revolume("snapshot", node.directory, "new")
    revolume("clone", f"{node.directory}@old", "c")
    scribble(node, "v", 3)
    until("both are alone", lambda: _rescued(node, "new") > 0)
    found = {each["name"]: each for each in told("du", node.directory)["holders"]}
    assert found["snapshot old"]["exclusive_bytes"] == 0
    assert found["snapshot old"]["shared_bytes"] == found["clone c"]["shared_bytes"] > 0
    before = told("du", node.directory)["rescued_bytes"]
    expected = {each["name"]: each for each in told("du", node.directory)["holders"]}["snapshot new"]
    assert expected["shared_bytes"] > 0
    revolume("snapshot", node.directory, "new", "--drop")
    revolume("clone", node.directory, "c", "--drop", "--yes")
    alone = {each["name"]: each for each in told("du", node.directory)["holders"]}["snapshot old"]
    assert alone["shared_bytes"] == 0
    revolume("snapshot", node.directory, "old", "--drop")
    scribble(node, "v", 4, total=16 << 20)
    until("all of it comes back", lambda: told("du", node.directory)["rescued_bytes"] == 0)
    assert before > 0


def _rescued(node: Node, name: str) -> int:
    named = {each["name"]: each for each in told("snapshot", node.directory)["snapshots"]}
    return int(named[name]["rescued_bytes"])


def test_a_command_proves_moments_and_the_newest_that_passes_is_found(node: Node) -> None:
    """The moment is writable, thrown away, and what was found outlives a kill."""
    good = b"good" * 1024
    write(node.uri("v"), (0, good))
    revolume("snapshot", node.directory, "whole")
    wanted = told("snapshot", node.directory)["snapshots"][0]["write"]
    for seed in (1, 2):
        write(node.uri("v"), (0, content(seed, 1)))
        revolume("snapshot", node.directory, f"broken{seed}")
    probe = (
        "import subprocess, sys; uri = sys.argv[1]; "
        "subprocess.run(['qemu-io', '-f', 'raw', '-c', 'write -P 7 8k 4k', uri], check=True); "
        "said = subprocess.run(['qemu-io', '-f', 'raw', '-r', '-c', 'read -v 0 4', uri], capture_output=True); "
        "sys.exit(b'good' not in said.stdout)"
    )
    command = (sys.executable, "-c", probe, "{uri}")
    first = json.loads(revolume("prove", node.directory, "--json", "--", *command, status=5).stdout)["proofs"]
    assert [each["verdict"] for each in first] == ["failed"]
    found = json.loads(revolume("prove", node.directory, "--find-good", "--json", "--", *command).stdout)["proofs"]
    assert [each["verdict"] for each in found] == ["failed", "failed", "passed"]
    assert found[-1]["write"] == wanted
    slow = ("--moment", "whole", "--timeout", "1s", "--json", "--", "sh", "-c", "sleep 9", "{uri}")
    late = revolume("prove", node.directory, *slow, status=5)
    assert json.loads(late.stdout)["proofs"][0]["verdict"] == "timed-out"
    revolume("prove", node.directory, "--", "true", status=2)
    revolume("prove", node.directory, "--moment", "w999", "--", "true", "{uri}", status=3)
    assert "passed in" in revolume("points", node.directory).stdout
    node.kill()
    listed = told("points", node.directory)["proofs"]
    assert [each["verdict"] for each in listed] == ["failed", "failed", "failed", "passed", "timed-out"]


def test_new_points_are_proved_again_and_again(node: Node) -> None:
    """What has passed is not looked at again while nothing is newer; a daemon that is away is waited for."""
    probe = (
        "import subprocess, sys; "
        "said = subprocess.run(['qemu-io', '-f', 'raw', '-c', 'read -v 0 4', sys.argv[1]], capture_output=True); "
        "sys.exit(b'good' not in said.stdout)"
    )
    revolume("prove", node.directory, "--every", "0", "--", "true", "{uri}", status=2)
    revolume("prove", node.directory, "--every", "6h", "--moment", "now", "--", "true", "{uri}", status=2)
    words = ("prove", node.directory, "--every", "1s", "--json", "--", sys.executable, "-c", probe, "{uri}")
    command = [REVOLUME, *map(str, words)]
    proving = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert proving.stdout is not None
    rounds = map(json.loads, proving.stdout)

    def comes(*wanted: str) -> None:
        """A round with these verdicts, or with this refusal."""
        for each in rounds:
            if tuple([proof["verdict"] for proof in each["proofs"]] or [each.get("code", "none")]) == wanted:
                return
        pytest.fail(f"it ended before {wanted}")

    try:
        comes("no-point")
        write(node.uri("v"), (0, b"good" * 1024))
        revolume("snapshot", node.directory, "whole")
        comes("passed")
        comes("none")
        write(node.uri("v"), (0, b"evil" * 1024))
        revolume("snapshot", node.directory, "ruined")
        comes("failed")
        node.kill()
        comes("not-served")
        again = Node(node.directory)
        try:
            comes("failed")
        finally:
            again.kill()
        proving.send_signal(signal.SIGINT)
        assert proving.wait(60) == 130
    finally:
        proving.kill()
        proving.wait()
    assert [each["verdict"] for each in told("points", node.directory)["proofs"]][:2] == ["passed", "failed"]
