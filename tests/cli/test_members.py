"""A mirror is one copy: what else turns up at its address gets nothing and stands for nothing."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mirrors import SMALL, MiB, Node, promote, read, refused, revolume, told, until, write

SIZE = 8 * MiB
PRIMARY = ("--size", str(SIZE), "--cp-interval", "200ms", *SMALL)
QUICK_S = 1.2
"""Longer than a base of this size takes, and than a source waits before it tries again."""
pytestmark = pytest.mark.timeout(180)


class Place:
    """A primary ``p`` and whatever listens at the address of its mirror ``m``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.link = f"unix:{folder}/link"
        self.nodes: list[Node] = []

    def serve(self, name: str, *words: str) -> Node:
        self.nodes.append(Node(self.folder / name, *words))
        return self.nodes[-1]

    def mirror(self, name: str = "m", *more: str) -> Node:
        return self.serve(name, "--mirror-listen", self.link, *SMALL, *more)

    def primary(self, *more: str) -> Node:
        return self.serve("p", *PRIMARY, "--mirror-to", f"{self.link},name=m", *more)

    def pair(self) -> tuple[Node, Node]:
        mirror, primary = self.mirror(), self.primary()
        primary.until_joined()
        write(primary.uri(), (0, b"before" * 600))
        primary.until_agreed()
        return primary, mirror

    def copy(self, directory: Path, name: str) -> Path:
        """Of the directory of a node that is stopped or frozen."""
        return Path(shutil.copytree(directory, self.folder / name, ignore=shutil.ignore_patterns("*.sock")))

    def close(self) -> None:
        for node in self.nodes:
            print(f"--- {node.directory.name}\n{node.log.read_text()}")  # shown with a failing test
            if node.process.poll() is None:
                node.thaw()
                node.kill()


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    made = Place(folder)
    yield made
    made.close()


class Waiting:
    """A write whose answer is waited for."""

    def __init__(self, uri: str, offset: int, data: bytes) -> None:
        self.answered = threading.Event()
        self._thread = threading.Thread(target=self._write, args=(uri, offset, data), daemon=True)
        self._thread.start()

    def _write(self, uri: str, offset: int, data: bytes) -> None:
        try:
            write(uri, (offset, data))
        except Exception:
            return
        self.answered.set()


def reason(primary: Node, words: str) -> Callable[[], Any]:
    """What the primary says of its mirror, once it has these words."""

    def look() -> Any:
        with primary.control as control:
            found = control.status()["mirrors"][0]
        return found if words in found["reason"] else None

    return look


# --- who stands at its address -----------------------------------------------------------------------------


def _nothing(place: Place, mirror: Node) -> str:
    """An empty directory: a disk that was replaced, or is not mounted."""
    shutil.rmtree(mirror.directory)
    return "it is empty"


def _another_volume(place: Place, mirror: Node) -> str:
    shutil.rmtree(mirror.directory)
    other_link = f"unix:{place.folder}/other"
    other = place.serve("m", "--mirror-listen", other_link, *SMALL)
    source = place.serve("q", *PRIMARY, "--mirror-to", f"{other_link},name=m")
    source.until_joined()
    source.stop()
    other.stop()
    return "it holds another volume"


@pytest.mark.parametrize("replacement", [_nothing, _another_volume])
def test_a_required_mirror_is_not_replaced_by_something_else(
    place: Place, replacement: Callable[[Place, Node], str]
) -> None:
    """Nothing is answered on the word of a node that is not the copy that has joined; the copy itself is still the
    mirror when it is back."""
    primary, mirror = place.pair()
    mirror.kill()
    kept = place.copy(mirror.directory, "kept")
    waiting = Waiting(primary.uri(), MiB, b"waits" * 400)
    until("a write waits", lambda: primary.mirror["waits"])
    what = replacement(place, mirror)
    stranger = place.mirror()
    found = until("it is refused", reason(primary, what))
    assert found["state"] == "refused"
    assert found["required"] and found["joined"]
    assert found["refusals"] >= 1
    assert "mirror replace DIR m" in found["reason"]
    assert "is not the copy that mirror m" in primary.mirror["waits"]
    assert not waiting.answered.wait(QUICK_S)
    assert what in stranger.status["source"]["reason"]
    assert stranger.status["source"]["refusals"] >= 1
    stranger.kill()
    assert not waiting.answered.wait(0.2)

    shutil.rmtree(mirror.directory)
    shutil.copytree(kept, mirror.directory)
    place.mirror()
    assert waiting.answered.wait(30)
    primary.until_agreed()


def test_another_copy_of_the_same_volume_is_not_the_mirror(place: Place) -> None:
    """Also not if its log continues the source's: what was acknowledged was acknowledged by another node."""
    primary, mirror = place.pair()
    mirror.kill()
    first = place.copy(mirror.directory, "first")
    shutil.rmtree(mirror.directory)
    revolume("mirror", "replace", primary.directory, "m", "--yes")
    place.mirror()
    primary.until_joined()
    primary.until_agreed()
    place.nodes[-1].kill()
    shutil.rmtree(mirror.directory)
    shutil.copytree(first, mirror.directory)
    place.mirror()
    found = until("it is refused", reason(primary, "it is another copy of the volume"))
    assert found["required"] and found["state"] == "refused"


def test_an_order_lets_another_copy_become_the_mirror(place: Place) -> None:
    primary, mirror = place.pair()
    before = primary.mirror["node"]
    mirror.kill()
    shutil.rmtree(mirror.directory)
    waiting = Waiting(primary.uri(), MiB, b"waits" * 400)
    until("a write waits", lambda: primary.mirror["waits"])
    error = refused("mirror", "replace", primary.directory, "m")
    assert error["code"] == "mirror-required"
    assert "is known to hold cp" in error["cause"]
    assert refused("mirror", "replace", primary.directory, "x", status=3)["code"] == "no-mirror"
    assert not waiting.answered.is_set()
    said = revolume("mirror", "replace", primary.directory, "m", "--yes").stdout
    assert "until then answers do not wait" in said
    assert waiting.answered.wait(30)
    assert not primary.mirror["required"]
    place.mirror()
    primary.until_joined()
    assert primary.mirror["node"] not in ("", before)
    primary.until_agreed()


def test_an_order_reaches_a_stopped_volume(place: Place) -> None:
    primary, mirror = place.pair()
    primary.stop()
    mirror.stop()
    shutil.rmtree(mirror.directory)
    assert refused("mirror", "replace", primary.directory, "m")["code"] == "mirror-required"
    revolume("mirror", "replace", primary.directory, "m", "--yes")
    (state,) = told("status", primary.directory)["mirrors"]
    assert not state["joined"] and not state["required"] and state["node"] == ""
    place.mirror()
    again = place.primary()
    again.until_joined()
    again.until_agreed()


# --- an older state of the same copy ----------------------------------------------------------------------


def test_an_older_state_of_the_copy_does_not_stand_for_what_it_had_acknowledged(place: Place) -> None:
    primary, mirror = place.pair()
    mirror.stop()
    older = place.copy(mirror.directory, "older")
    mirror = place.mirror()
    write(primary.uri(), *((at * MiB, os.urandom(MiB)) for at in range(1, 4)))
    primary.until_agreed()
    acknowledged = until("it is durable there", lambda: primary.mirror["durable"])
    mirror.kill()
    primary.freeze()
    shutil.rmtree(mirror.directory)
    shutil.copytree(older, mirror.directory)
    again = place.mirror()
    primary.thaw()

    def told() -> str:
        return "\n".join(event["message"] for event in primary.status["events"])

    until("it is level again", lambda: "has everything again" in told())
    until("that is noted", lambda: not primary.mirror["level_at"])
    assert "mirror m has come back with less than it had acknowledged" in told()
    found = re.search(r"had acknowledged (\d+)", told())
    assert found is not None
    assert int(found[1]) >= acknowledged
    primary.until_agreed()
    assert read(again.uri()) == read(primary.uri())


# --- a primary that slept while another took over ----------------------------------------------------------


def test_a_primary_that_was_paused_through_a_promotion_answers_nothing(place: Place) -> None:
    primary, mirror = place.pair()
    primary.freeze()
    waiting = Waiting(primary.uri(), MiB, b"too late" * 400)
    mirror.kill()  # instead of waiting until it takes its source as lost
    mirror = place.mirror()
    promote(mirror.directory)
    write(mirror.uri("p"), (2 * MiB, b"new" * 800))
    primary.thaw()
    assert not waiting.answered.wait(QUICK_S)
    until("it meets the primary", lambda: "This node is the primary of p" in primary.mirror["reason"])
    Path(place.link.removeprefix("unix:")).unlink()  # as on another machine, which has that address now
    place.mirror("m2")  # an empty one, at the address that the old primary knows
    found = until("it is refused", reason(primary, "it is empty"))
    assert found["required"] and found["joined"]
    assert not waiting.answered.wait(QUICK_S)
    assert read(mirror.uri("p"))[MiB : MiB + 8] == bytes(8)
