"""A scrub of real daemons: what is damaged is found and healed, nothing else is, and it goes on after kill -9."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mirrors import SMALL, Node, client, revolume, told, until, write

BLOCK = 4096
MiB = 1 << 20
FOLDS = ("--keep", "1s", "--cp-interval", "200ms", "--segment-size", "1M", "--budget", "16M", "--spare", "4M")
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    started: list[Node] = []
    yield started
    for node in started:
        node.kill()
        print(node.log.read_text())


def content(seed: int, blocks: int = 1) -> bytes:
    return random.Random(seed).randbytes(blocks * BLOCK)


def damaged(directory: Path, wanted: bytes, folder: str) -> int:
    """Bend one bit wherever files in this folder, or this file, have these bytes; how often that was."""
    place = directory / folder
    count = 0
    for path in sorted(place.iterdir()) if place.is_dir() else [place]:
        held, at = path.read_bytes(), -1
        while (at := held.find(wanted, at + 1)) >= 0:
            with path.open("r+b") as file:
                file.seek(at + 100)
                file.write(bytes([held[at + 100] ^ 1]))
            count += 1
    return count


def scrub(node: Node, status: int, *words: str) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(revolume("scrub", node.directory, "--json", *words, status=status).stdout)
    return dict(job["result"])


def pair(folder: Path, nodes: list[Node]) -> tuple[Node, Node]:
    mirror = Node(folder / "m", "--mirror-listen", f"unix:{folder}/link", *FOLDS)
    nodes.append(mirror)
    primary = Node(folder / "p", "--size", "16M", *FOLDS, "--mirror-to", f"unix:{folder}/link,name=m")
    nodes.append(primary)
    primary.until_joined()
    return primary, mirror


def written(primary: Node, mirror: Node | None) -> dict[str, bytes]:
    """Blocks that lie, at each node, in its image, in its rescue files and in its log; by where."""
    wanted = {"rescue": content(1), "image": content(2), "log": content(3)}
    uri = primary.uri(primary.directory.name)
    write(uri, (7 * BLOCK, wanted["rescue"]), (9 * BLOCK, wanted["image"]))
    revolume("snapshot", primary.directory, "s")
    nodes = [node for node in (primary, mirror) if node is not None]

    def lies(node: Node, where: str) -> bool:
        place = node.directory / where
        paths = list(place.iterdir()) if place.is_dir() else [place] if place.exists() else []
        return any(wanted[where] in path.read_bytes() for path in paths)

    seed = 100

    def folded() -> bool:
        nonlocal seed
        seed += 1
        write(uri, (7 * BLOCK, content(seed)), (20 * BLOCK, content(seed, 512)))
        time.sleep(0.4)
        return all(lies(node, "rescue") and lies(node, "image") for node in nodes)

    until("both places are there", folded, 90)
    write(uri, (11 * BLOCK, wanted["log"]))
    if mirror is not None:
        primary.until_agreed()
    return wanted


@pytest.mark.parametrize("which", ["primary", "mirror"])
def test_damage_everywhere_is_found_and_healed_from_the_other_node(
    which: str, folder: Path, nodes: list[Node]
) -> None:
    primary, mirror = pair(folder, nodes)
    wanted = written(primary, mirror)
    node = primary if which == "primary" else mirror
    assert scrub(node, 0)["damaged"] == 0
    count = sum(damaged(node.directory, wanted[where], where) for where in ("rescue", "image", "log"))
    assert count >= 3
    found = scrub(node, 5)
    assert (found["damaged"], found["healed"]) == (count, count), found
    names = " ".join(found["found"])
    assert "block 7 at rescue/" in names and "block 9 at image, byte 36864 " in names
    assert re.search(r"block 11 at log/\d+\.seg, byte", names)
    assert scrub(node, 0)["damaged"] == 0
    for where in ("rescue", "image", "log"):
        assert damaged(node.directory, wanted[where], where), f"what was in {where} is there again"
    status = node.status["scrub"]
    assert (status["last_damaged"], status["under_way"]) == (0, False)
    assert any("scrub: block 9 at image" in event["message"] for event in node.status["events"])


def test_without_a_mirror_damage_is_named_and_stays(folder: Path, nodes: list[Node]) -> None:
    node = Node(folder / "v", "--size", "16M", *FOLDS)
    nodes.append(node)
    wanted = written(node, None)
    count = damaged(node.directory, wanted["image"], "image")
    assert count == 1
    said = revolume("scrub", node.directory, status=5).stdout
    assert "block 9 at image, byte 36864 is not what was written; nobody has put it right." in said
    assert "1 place was damaged, 0 of them healed." in said
    assert node.status["unhealed_count"] == 1
    assert "1 place damaged, 0 healed" in revolume("status", node.directory).stdout
    node.stop()
    assert "image block 9" in revolume("check", node.directory, status=5).stdout
    error = json.loads(revolume("scrub", node.directory, "--json", status=2).stderr)["error"]
    assert "revolume check" in error["try"]


def test_a_scrub_goes_on_where_it_was_after_kill_9_and_holds_its_rate(folder: Path, nodes: list[Node]) -> None:
    words = ("--cp-interval", "1s", *SMALL)
    node = Node(folder / "v", "--size", "64M", *words)
    nodes.append(node)
    write(node.uri("v"), *((at * MiB, content(at, 256)) for at in range(40)))
    with node.control as control:
        job = control.start_job("scrub", rate=2 * MiB)
        until("some of it has been read", lambda: control.job(job["id"])["done"] > 15 * MiB)
        began, now = control.job(job["id"])["started_ns"], time.time_ns()
        rate = control.job(job["id"])["done"] / ((now - began) / 1e9)
        assert 1.2 * MiB < rate < 2.6 * MiB, f"{rate / MiB:.2f} MiB/s"
        before = control.status()["scrub"]
    node.kill()
    again = Node(folder / "v", *words)
    nodes.append(again)
    scrubs = until("it goes on by itself", lambda: (s := again.status["scrub"])["running"] and s)
    assert scrubs["started_ns"] == before["started_ns"] and scrubs["rate"] == 2 * MiB
    assert scrubs["bytes_read"] > before["bytes_read"] // 4, "it began anew"
    (job,) = told("jobs", again.directory)
    assert job["kind"] == "scrub" and job["state"] == "running"
    revolume("jobs", again.directory, "--cancel", job["id"])
    assert not again.status["scrub"]["under_way"], "a scrub that was cancelled does not go on"
    assert scrub(again, 0)["bytes_read"] > 40 * MiB


def test_one_begins_by_itself_when_the_last_is_long_ago(folder: Path, nodes: list[Node]) -> None:
    node = Node(folder / "v", "--size", "8M", *SMALL, "--scrub-period", "2s")
    nodes.append(node)
    first = until("one has ended", lambda: node.status["scrub"]["last_ended_ns"])
    until("another has", lambda: node.status["scrub"]["last_ended_ns"] > first)
    other = Node(folder / "w", "--size", "8M", *SMALL, "--scrub-period", "off")
    nodes.append(other)
    time.sleep(3)
    assert told("jobs", other.directory) == []


def peak(node: Node) -> int:
    """The most memory that the daemon has had since ``forgotten``, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{node.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def test_the_memory_of_the_daemon_does_not_grow_with_the_volume(folder: Path, nodes: list[Node]) -> None:
    node = Node(folder / "v", "--size", "512M", "--segment-size", "4M", "--budget", "64M", "--keep", "1s")
    nodes.append(node)
    write(node.uri("v"), *((at * MiB, content(at, 256)) for at in range(300)))
    scrub(node, 0)  # what is made once
    Path(f"/proc/{node.process.pid}/clear_refs").write_text("5")
    before = peak(node)
    found = scrub(node, 0)
    assert found["bytes_read"] > 250 * MiB
    assert peak(node) - before < 24 * MiB, f"{(peak(node) - before) / MiB:.1f} MiB more"


def test_beside_writes_points_and_folds_there_is_no_false_alarm(folder: Path, nodes: list[Node]) -> None:
    primary, mirror = pair(folder, nodes)
    ended = threading.Event()

    def load() -> None:
        chance = random.Random(7)

        async def job(opened: Any) -> None:
            while not ended.is_set():
                blocks = chance.choice((1, 1, 3, 64))
                offset = chance.randrange((16 * MiB - blocks * BLOCK) // 512) * 512
                if chance.random() < 0.1:
                    await opened.zero(offset // BLOCK * BLOCK, blocks * BLOCK)
                else:
                    await opened.write(offset, chance.randbytes(blocks * BLOCK - chance.choice((0, 512))))

        client(primary.uri("p"), job)

    writer = threading.Thread(target=load)
    writer.start()
    try:
        until("folds have begun", lambda: primary.status["folds"] > 2 and mirror.status["folds"] > 2)
        before = primary.status["folds"], mirror.status["folds"]
        deadline = time.monotonic() + 20
        rounds = 0
        while time.monotonic() < deadline:
            for node in (primary, mirror):
                found = scrub(node, 0)
                assert found["found"] == []
            if rounds % 3 == 0:
                revolume("snapshot", primary.directory, f"s{rounds}")
            elif rounds % 3 == 2:
                revolume("snapshot", primary.directory, f"s{rounds - 2}", "--drop")
            rounds += 1
    finally:
        ended.set()
        writer.join()
    print(rounds, "rounds,", before, "folds before", primary.status["folds"], mirror.status["folds"], "after")
    assert rounds > 3 and primary.status["folds"] > before[0] and mirror.status["folds"] > before[1]
