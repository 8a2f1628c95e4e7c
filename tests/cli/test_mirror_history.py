"""What a new mirror has of the past: snapshots and moments that were there before it was."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from revolume.errors import RevolumeError
from revolume.nbd.client import Client
from tests.support.mirrors import MiB, Node, client, promote, read, refused, revolume, until, write
from tests.support.servers import short_folder

SIZE = 4 * MiB
SMALL = ("--segment-size", "256K", "--budget", "64M", "--spare", "1M")
PRIMARY = ("--size", str(SIZE), "--cp-interval", "200ms", *SMALL)
Serve = Callable[..., Node]
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def serving(folder: Path) -> Iterator[Serve]:
    """``serving(NAME, *words)``; what still runs at the end is killed."""
    nodes: list[Node] = []

    def start(name: str, *words: str | Path) -> Node:
        nodes.append(Node(folder / name, *words))
        return nodes[-1]

    yield start
    for node in nodes:
        print(f"--- {node.directory.name}\n{node.log.read_text()}")  # shown with a failing test
        node.kill()


def status(node: Node) -> dict[str, Any]:
    with node.control as control:
        return control.status()


def mirror_of(node: Node) -> dict[str, Any]:
    return dict(status(node)["mirrors"][0])


def change(node: Node, count: int = 8) -> None:
    pieces = [(os.urandom(1)[0] * 4096 * 3, os.urandom(40_000)) for _ in range(count)]
    write(node.uri(), *pieces, (SIZE - 5000, os.urandom(700)))


def name(node: Node, name: str) -> bytes:
    with node.control as control:
        control.snapshot(name)
    return read(node.uri())


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Path, dict[str, bytes]]]:
    """A volume with a past, and its content at each moment of it: names, one of which was dropped and one given
    twice, and write numbers before, between and behind them."""
    with short_folder() as folder:
        node, at = Node(folder / "p", *PRIMARY), dict[str, bytes]()

        def moment() -> None:
            at[f"w{status(node)['write']}"] = read(node.uri())

        change(node)
        moment()
        change(node)
        for each in ("first", "dropped", "twice", "last"):
            at[each] = name(node, each)
            change(node)
        for each in ("dropped", "twice"):
            with node.control as control:
                control.drop_snapshot(each)
            del at[each]
        moment()
        change(node)
        at["twice"] = name(node, "twice")
        change(node)
        node.stop()
        yield node.directory, at


@pytest.fixture
def past(made: tuple[Path, dict[str, bytes]], folder: Path) -> dict[str, bytes]:
    """It is where the primary of this test will be."""
    shutil.copytree(made[0], folder / "p")
    return dict(made[1])


def mirrored(serving: Serve, folder: Path, history: str) -> tuple[Node, Node]:
    there = serving("m", "--mirror-listen", f"unix:{folder}/link", *SMALL)
    source = serving("p", *PRIMARY, "--mirror-to", f"unix:{folder}/link,name=m,history={history}")
    source.until_joined()
    source.until_agreed()
    return source, there


def names(node: Node) -> set[str]:
    return {snapshot["name"] for snapshot in status(node)["snapshots"]}


@pytest.mark.parametrize("history", ["named", "all"])
def test_names_and_moments_of_before_survive_a_failover(
    past: dict[str, bytes], serving: Serve, folder: Path, history: str
) -> None:
    source, there = mirrored(serving, folder, history)
    past["after"] = name(source, "after")
    source.until_agreed()
    assert names(source) == names(there) == {"first", "twice", "last", "after"}
    assert mirror_of(source)["lacks"] == status(there)["lacks"] == []
    assert (mirror_of(source)["older"] == "") == (history == "all")
    source.kill()
    with there.control as control:
        control.promote()
    for moment, content in past.items():
        if moment[0] != "w" or history == "all":
            assert read(there.uri(f"p@{moment}")) == content, moment
    write(there.uri(), (0, b"on" * 2048))
    there.kill()
    revolume("check", there.directory)
    again = serving("m", *SMALL)
    for moment in ("first", "twice", "last", "after"):
        assert read(again.uri(f"p@{moment}")) == past[moment], moment


def test_what_a_mirror_begins_without_is_said_beforehand(
    past: dict[str, bytes], serving: Serve, folder: Path
) -> None:
    source, there = mirrored(serving, folder, "none")
    lacks = ["first", "last", "twice"]
    assert sorted(mirror_of(source)["lacks"]) == sorted(status(there)["lacks"]) == lacks
    assert names(there) == set()
    for node in (source, there):
        words = "Snapshots first, last, twice are older than this"
        assert words in revolume("status", node.directory).stdout
    source.until_logged(words)
    begins = status(there)["horizon_write"]
    older = f"Its history begins at w{begins}: the moments before it (w0 to w{begins - 1}) are not on it."
    assert mirror_of(source)["older"] == older and older in revolume("status", source.directory).stdout
    assert any(older in event["message"] for event in status(source)["events"]), "said before it began"
    with source.control as control:
        control.drop_snapshot("twice")
    until("the mirror drops it too", lambda: sorted(status(there)["lacks"]) == ["first", "last"])
    source.stop()
    promoted = promote(there.directory)
    assert "Snapshots first, last are older" in promoted.stderr
    assert f"its history begins at w{begins}" in promoted.stderr
    assert status(there)["lacks"] == ["first", "last"]
    assert "no snapshot first" in refused("copy", f"{there.directory}@first", folder / "x", status=3)["cause"]


def test_a_target_without_room_is_refused_before_anything_is_sent(
    past: dict[str, bytes], serving: Serve, folder: Path
) -> None:
    small = ("--segment-size", "256K", "--budget", "1M", "--spare", "256K")
    there = serving("m", "--mirror-listen", f"unix:{folder}/link", *small)
    to = f"unix:{folder}/link,name=m"
    source = serving("p", *PRIMARY, "--mirror-to", to)
    state = until("it is refused", lambda: mirror_of(source)["state"] == "refused" and mirror_of(source))
    assert "for the log that the oldest snapshot keeps; its log may take 1.0 MiB" in state["reason"]
    assert "--budget" in state["reason"]
    assert (status(there)["state"], state["base_bytes"]) == ("empty", 0)
    assert [holder for holder in status(source)["holders"] if "mirror" in holder["name"]] == []
    write(source.uri(), (0, b"nothing waits for it"))
    source.stop()
    source = serving("p", *PRIMARY, "--mirror-to", f"{to},history=none")
    source.until_joined()
    assert mirror_of(source)["lacks"]


def test_neither_a_snapshot_nor_a_view_nor_a_small_budget_at_a_mirror_stops_its_primary(
    serving: Serve, folder: Path
) -> None:
    small = ("--segment-size", "128K", "--budget", "1M", "--spare", "128K")
    there = serving("m", "--mirror-listen", f"unix:{folder}/link", *small)
    source = serving(
        "p", "--size", str(SIZE), "--cp-interval", "200ms", "--segment-size", "128K", "--budget", "64M",
        "--spare", "1M", "--mirror-to", f"unix:{folder}/link,name=m",
    )  # fmt: skip
    change(source)
    source.until_joined()
    source.until_agreed()

    async def watched(view: Client) -> None:
        await asyncio.to_thread(change, source, 60)
        await asyncio.to_thread(until, "the view gives way", lambda: status(there)["gave_way"] == 1)
        with pytest.raises((RevolumeError, OSError)):
            await view.read(0, 4096)

    client(there.uri("p@now"), watched)
    pinned = name(source, "pinned")
    change(source, 60)
    until("it is within its budget", lambda: log_within(status(there)))
    assert read(there.uri("p@pinned")) == pinned
    with source.control as control:
        control.drop_snapshot("pinned")
    change(source)
    until("it is within its budget still", lambda: log_within(status(there)))


def log_within(state: dict[str, Any]) -> bool:
    return bool(state["log_bytes"] + state["log_ready_bytes"] <= state["log_budget_bytes"] + MiB // 2)
