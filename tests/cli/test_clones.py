"""Clones of real daemons: writable volumes over a moment, with a history of their own."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mirrors import MiB, Node, client, read, refused, revolume, told, until, write
from tests.support.servers import revolume_only
from tests.support.suspect import plant_marks

BLOCK = 4096
SIZE = 8 * MiB
FOLDS = ("--keep", "1s", "--cp-interval", "200ms", "--segment-size", "1M", "--budget", "32M", "--spare", "2M")
pytestmark = [revolume_only, pytest.mark.timeout(240)]


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    started: list[Node] = []
    yield started
    for node in started:
        node.kill()
        print(node.log.read_text())


def served(folder: Path, nodes: list[Node], *words: str) -> Node:
    node = Node(folder / "v", *(words or ("--size", str(SIZE), *FOLDS)))
    nodes.append(node)
    return node


def content(seed: int, blocks: int) -> bytes:
    return random.Random(seed).randbytes(blocks * BLOCK)


def filled(node: Node, seed: int, size: int = SIZE) -> bytes:
    """Every block written, in pieces."""
    data = content(seed, size // BLOCK)
    write(node.uri("v"), *((at, data[at : at + MiB]) for at in range(0, size, MiB)))
    return data


def scribble(node: Node, export: str, seed: int, total: int = 48 * MiB) -> None:
    """More than the budget, all over the volume."""
    chance = random.Random(seed)
    for _ in range(0, total, MiB):
        writes = [(chance.randrange(SIZE // BLOCK - 64) * BLOCK, chance.randbytes(64 * BLOCK)) for _ in range(4)]
        write(node.uri(export), *writes)


def folded(node: Node, directory: Path, beyond: int) -> bool:
    return bool(told("status", directory)["horizon_write"] > beyond)


def test_a_clone_is_a_volume_with_a_past_and_snapshots_of_its_own(folder: Path, nodes: list[Node]) -> None:
    node = served(folder, nodes)
    write(node.uri("v"), (0, content(1, 512)))
    made = told("clone", node.directory, "c")
    before = read(node.uri("v"))
    assert (made["open"], made["size"]) == (True, SIZE)
    assert read(node.uri("c")) == before
    write(node.uri("c"), (100 * BLOCK, content(2, 8)))
    c = node.directory / "clones" / "c"
    revolume("snapshot", c, "mine")
    write(node.uri("c"), (100 * BLOCK + 512, b"x" * 512), (3 * BLOCK, bytes(BLOCK)))
    changed = bytearray(before)
    changed[100 * BLOCK : 108 * BLOCK] = content(2, 8)
    assert read(node.uri("c@mine")) == bytes(changed)
    changed[100 * BLOCK + 512 : 100 * BLOCK + 1024] = b"x" * 512
    changed[3 * BLOCK : 4 * BLOCK] = bytes(BLOCK)
    assert read(node.uri("c")) == bytes(changed)
    assert read(f"nbd+unix:///?socket={c}/nbd.sock") == bytes(changed)
    assert read(node.uri("v")) == before
    status = told("status", c)
    assert (status["origin"]["parent"], status["snapshots"][0]["name"]) == ("v", "mine")
    assert [each["name"] for each in node.status["holders"]] == ["clone c"]
    node.stop()
    assert read_stopped(folder, c, "mine") != read_stopped(folder, c, "now")
    assert read_stopped(folder, c, "now") == bytes(changed)
    revolume("check", c)
    revolume("check", node.directory)


def read_stopped(folder: Path, directory: Path, moment: str) -> bytes:
    image = folder / "stopped.img"
    image.unlink(missing_ok=True)
    revolume("copy", f"{directory}@{moment}", image)
    return image.read_bytes()


def test_parent_and_clone_fold_on_and_neither_loses_what_it_was(folder: Path, nodes: list[Node]) -> None:
    """The parent's window leaves the point; the clone's snapshot needs blocks that lie in the parent."""
    node = served(folder, nodes)
    filled(node, 1)
    write(node.uri("v"), (5 * BLOCK + 512, b"part"))  # between two points
    moment = told("points", node.directory, "--at", "now")["at"]["write"]
    wanted = read(node.uri(f"v@w{moment}"))
    made = told("clone", f"{node.directory}@w{moment}", "c")
    c = node.directory / "clones" / "c"
    revolume("snapshot", c, "first")
    for seed in (1, 2):
        scribble(node, "v", seed)
        scribble(node, "c", 10 + seed)
    until("the parent folds", lambda: folded(node, node.directory, made["write"]))
    until("the clone folds", lambda: folded(node, c, 2))
    now = read(node.uri("c"))
    assert read(node.uri("c@first")) == wanted
    assert any(each["rescued_bytes"] for each in told("snapshot", c)["snapshots"])
    assert told("status", c)["healed_blocks"] == 0  # it was read where it lies, and nobody had to be asked
    node.kill()
    revolume("check", c)
    again = served(folder, nodes, *FOLDS)
    assert (read(again.uri("c@first")), read(again.uri("c"))) == (wanted, now)
    revolume("scrub", c)
    revolume("scrub", again.directory)


def test_detached_it_needs_no_parent(folder: Path, nodes: list[Node]) -> None:
    node = served(folder, nodes)
    filled(node, 1)
    revolume("snapshot", node.directory, "s")
    revolume("clone", f"{node.directory}@s", "c", "--at", folder / "elsewhere")
    write(node.uri("c"), (9 * BLOCK, content(2, 9)))
    wanted = read(node.uri("c"))
    assert refused("snapshot", node.directory, "s", "--drop")["code"] == "has-clones"
    job = told("detach-clone", folder / "elsewhere")
    assert job["result"]["bytes"] > SIZE // 2
    assert told("clone", node.directory)["clones"] == []
    assert read(node.uri("c")) == wanted
    revolume("snapshot", node.directory, "s", "--drop")
    node.stop()
    shutil.rmtree(node.directory)
    revolume("check", folder / "elsewhere")
    alone = Node(folder / "elsewhere")
    nodes.append(alone)
    assert read(alone.uri("c")) == wanted
    assert "origin" not in {path.name for path in (folder / "elsewhere").iterdir()}


def test_a_clone_that_was_killed_while_it_was_detached_goes_on(folder: Path, nodes: list[Node]) -> None:
    size = 256 * MiB
    node = served(folder, nodes, "--size", str(size))
    write(node.uri("v"), *((at, content(at, 256)) for at in range(0, size, MiB)))
    wanted = read(node.uri("v"))
    revolume("clone", node.directory, "c")
    c = node.directory / "clones" / "c"
    revolume("detach-clone", c, "--timeout", "0s", status=6)
    until("some of it is there", lambda: own_below(c) != 0)
    node.kill()
    reached = told("status", c)["origin"]["own_below"]
    again = Node(node.directory)
    nodes.append(again)
    until("it is done", lambda: told("status", c)["origin"] is None)
    assert reached > 0
    assert read(again.uri("c")) == wanted
    again.stop()
    revolume("check", c)


def own_below(directory: Path) -> int:
    origin = told("status", directory)["origin"]
    return -1 if origin is None else int(origin["own_below"])


def test_what_can_not_be_cloned_is_said(folder: Path, nodes: list[Node]) -> None:
    node = served(folder, nodes)
    write(node.uri("v"), (0, content(1, 16)))
    revolume("snapshot", node.directory, "s")
    revolume("clone", f"{node.directory}@s", "c")
    assert "snapshot s" in refused("clone", node.directory, "s")["cause"]
    assert "clone c" in refused("clone", node.directory, "c")["cause"]
    assert "a volume v" in refused("clone", node.directory, "v")["cause"]
    refused("clone", node.directory, "-x", status=2)
    assert refused("clone", f"{node.directory}@w999999", "d", status=3)["code"] == "moment-not-retained"
    refused("clone", f"{node.directory}@2099-01-01T00:00:00Z", "d", status=3)
    refused("clone", f"{node.directory}@2026-01-01T00:00:00", "d", status=2)
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    assert refused("clone", node.directory, "d", "--at", folder / "full")["code"] == "dir-not-empty"
    assert "c" in refused("demote", node.directory, "--mirror-listen", f"unix:{folder}/l", "--yes")["cause"]
    c = node.directory / "clones" / "c"
    assert refused("demote", c, "--mirror-listen", f"unix:{folder}/l", "--yes")["code"] == "is-clone"
    assert refused("mirror", "add", c, "m", f"unix:{folder}/l")["code"] == "is-clone"
    assert refused("clone", node.directory, "c", "--drop")["code"] == "drop-clone"
    assert refused("clone", node.directory, "d", "--drop", "--yes", status=3)["code"] == "no-clone"
    revolume("clone", c, "below")
    assert read(node.uri("below")) == read(node.uri("c"))
    assert "below" in refused("clone", node.directory, "c", "--drop", "--yes")["cause"]
    node.stop()
    assert refused("serve", c)["code"] == "is-clone"
    assert refused("demote", node.directory, "--mirror-listen", f"unix:{folder}/l")["code"] == "has-clones"
    revolume("clone", c.parent.parent, "e")  # of a stopped one
    revolume("clone", node.directory, "e", "--drop", "--yes")
    assert [each["name"] for each in told("clone", node.directory)["clones"]] == ["c"]


def test_a_clone_whose_disk_is_away_keeps_its_point(folder: Path, nodes: list[Node]) -> None:
    node = served(folder, nodes)
    filled(node, 1)
    wanted = read(node.uri("v"))
    revolume("clone", node.directory, "c", "--at", folder / "far")
    node.stop()
    (folder / "far").rename(folder / "away")
    again = served(folder, nodes, *FOLDS)
    (clone,) = again.status["clones"]
    assert (clone["open"], "does not hold it" in clone["reason"]) == (False, True)
    scribble(again, "v", 3)
    again.stop()
    (folder / "away").rename(folder / "far")
    back = served(folder, nodes, *FOLDS)
    assert read(back.uri("c")) == wanted
    revolume("clone", back.directory, "c", "--drop", "--yes")
    assert list((folder / "far").iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_step_a_clone_is_there_whole_or_not_at_all(
    seed: int, folder: Path, nodes: list[Node]
) -> None:
    chance = random.Random(seed)
    node = served(folder, nodes)
    write(node.uri("v"), (0, content(seed, SIZE // BLOCK // 2)), (512, b"x"))
    wanted = read(node.uri("v"))
    for number in range(4):
        name, drop = f"c{number}", chance.random() < 0.4
        if drop:
            revolume("clone", node.directory, name)
        order = threading.Thread(target=_ordered, args=(node, name, drop))
        order.start()
        time.sleep(chance.uniform(0, 0.12))
        node.kill()
        order.join()
        node = served(folder, nodes, *FOLDS)
        listed = {each["name"]: each for each in node.status["clones"]}
        inside = node.directory / "clones"
        there = {path.name for path in inside.iterdir()} if inside.exists() else set()
        assert there == set(listed)
        for each in listed.values():
            assert each["open"], each["reason"]
            assert read(node.uri(each["name"])) == wanted


def _ordered(node: Node, name: str, drop: bool) -> None:
    try:
        with node.control as control:
            if drop:
                control.drop_clone(name)
            else:
                control.make_clone(name, "now")
    except Exception as error:
        print(f"{name}: {error}")


def test_damage_in_the_parent_is_healed_for_the_clone_by_the_parents_mirror(
    folder: Path, nodes: list[Node]
) -> None:
    mirror = Node(folder / "m", "--mirror-listen", f"unix:{folder}/link", *FOLDS)
    nodes.append(mirror)
    node = served(folder, nodes, "--size", str(SIZE), *FOLDS, "--mirror-to", f"unix:{folder}/link,name=m")
    node.until_joined()
    write(node.uri("v"), (7 * BLOCK, content(1, 1)))
    revolume("clone", node.directory, "c")
    write(node.uri("v"), *((MiB + 64 * at * BLOCK, content(at, 64)) for at in range(24)))
    until("it is in the parent's image", lambda: folded(node, node.directory, 1))
    for path in [*(node.directory / "rescue").glob("*.blocks"), node.directory / "image"]:
        held = path.read_bytes()
        if (at := held.find(content(1, 1))) >= 0:
            with path.open("r+b") as file:
                file.seek(at + 10)
                file.write(b"\0rot\0")
    assert client(node.uri("c"), lambda opened: opened.read(7 * BLOCK, BLOCK)) == content(1, 1)


def test_a_suspect_moment_is_cloned_only_by_whoever_says_so(folder: Path, nodes: list[Node]) -> None:
    node = served(folder, nodes)
    write(node.uri("v"), (0, content(1, 16)))
    revolume("snapshot", node.directory, "s")
    at = told("snapshot", node.directory)["snapshots"][0]["write"]
    node.stop()
    plant_marks(node.directory, (3, 1, at, at + 1))
    again = served(folder, nodes, *FOLDS)
    said = refused("clone", f"{node.directory}@s", "c")
    assert said["code"] == "suspect-moment"
    revolume("clone", f"{node.directory}@s,suspect", "c")
    assert read(again.uri("c"))[: 16 * BLOCK] == content(1, 16)


def test_what_is_left_of_a_clone_alone_is_salvaged_and_said_to_be_part(folder: Path, nodes: list[Node]) -> None:
    node = served(folder, nodes)
    write(node.uri("v"), (0, content(1, 16)))
    revolume("clone", node.directory, "c")
    write(node.uri("c"), (BLOCK, content(2, 1)))
    node.stop()
    said = revolume("salvage", node.directory / "clones" / "c", folder / "rescued.img", status=5)
    assert "lies in v" in said.stderr
    assert (folder / "rescued.img").read_bytes()[BLOCK : 2 * BLOCK] == content(2, 1)
