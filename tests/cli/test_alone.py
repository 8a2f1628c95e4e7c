"""A primary that opens after a crash asks every mirror that can be asked, also if another one can't be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import TimedOut
from tests.support.mirrors import SMALL, MiB, Node, promote, read, refused, revolume, told, until, write
from tests.support.surgery import patched

SIZE = 8 * MiB
PRIMARY = ("--size", str(SIZE), "--cp-interval", "200ms", *SMALL)
pytestmark = pytest.mark.timeout(180)

IMPATIENT = """
    import revolume.mirror.recovery.recover_from_mirrors as recovery
    import revolume.volume.primary as volume
    recovery.REQUIRED_SECONDS, volume.CONFIRMED_SECONDS = 1.0, 0.3
"""
"""How long a primary waits for a required mirror that is gone is not what is shown here."""


class Trio:
    """A primary and two required mirrors, ``m1`` and ``m2``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self.impatient = patched(folder / "impatient", IMPATIENT)

    def mirror(self, name: str) -> Node:
        self.nodes.append(Node(self.folder / name, "--mirror-listen", f"unix:{self.folder}/{name}.link", *SMALL))
        return self.nodes[-1]

    @property
    def to(self) -> list[str]:
        both = [("--mirror-to", f"unix:{self.folder}/{name}.link,name={name}") for name in ("m1", "m2")]
        return [word for words in both for word in words]

    def primary(self, *more: str) -> Node:
        self.nodes.append(Node(self.folder / "p", *PRIMARY, *self.to, *more, environment=self.impatient))
        return self.nodes[-1]

    def close(self) -> None:
        for node in self.nodes:
            print(f"--- {node.directory.name}\n{node.log.read_text()}")  # shown with a failing test
            if node.process.poll() is None:
                node.thaw()
                node.kill()


@pytest.fixture
def trio(folder: Path) -> Iterator[Trio]:
    made = Trio(folder)
    yield made
    made.close()


def all_joined(primary: Node) -> bool:
    with primary.control as control:
        return all(mirror["joined"] for mirror in control.status()["mirrors"])


def test_with_one_of_two_mirrors_gone_the_other_is_asked(trio: Trio) -> None:
    """The primary's own end of the log is lost with its power, and one required mirror for good: what was answered
    is at the other."""
    first, second = trio.mirror("m1"), trio.mirror("m2")
    primary = trio.primary()
    until("both join", lambda: all_joined(primary))
    write(primary.uri(), (0, b"before" * 700))
    until("both hold a point", lambda: all(m["held_from_point"] > 1 for m in primary.status["mirrors"]))
    primary.freeze()
    disk = shutil.copytree(primary.directory, trio.folder / "disk", ignore=shutil.ignore_patterns("*.sock"))
    primary.thaw()
    write(primary.uri(), (MiB, b"answered" * 512))
    whole = read(primary.uri())
    primary.kill()
    first.kill()
    shutil.rmtree(primary.directory)
    shutil.copytree(disk, primary.directory)

    words = ["serve", primary.directory, *PRIMARY, *trio.to]
    said = " ".join(revolume(*words, status=4, environment=trio.impatient).stderr.split())
    assert "Mirror m1" in said and "can't be asked" in said and "it is known to hold cp" in said
    assert "mirror m2" in said.lower() and "was asked, and what it has is here" in said
    assert said.index("revolume detach DIR m1") < said.index("--alone")

    shutil.rmtree(primary.directory)
    shutil.copytree(disk, primary.directory)
    again = trio.primary("--alone")
    for words in ("Mirror m2 had a longer log", "Opened alone, without asking m1", "it is known to hold cp"):
        again.until_logged(words)
    assert read(again.uri()) == whole
    second.kill()


def test_of_two_mirrors_the_longer_one_is_promoted(trio: Trio) -> None:
    first, second = trio.mirror("m1"), trio.mirror("m2")
    primary = trio.primary()
    until("both join", lambda: all_joined(primary))
    write(primary.uri(), (0, b"before" * 700))
    until("both have it", lambda: len({m["received"] for m in primary.status["mirrors"]}) == 1)
    first.kill()
    with primary.control as control, pytest.raises(TimedOut, match="made; the confirmation waits for mirror m1"):
        control.snapshot("named")  # goes to the second alone
    until("one has more", lambda: len({m["received"] for m in primary.status["mirrors"]}) == 2)
    primary.kill()
    first = trio.mirror("m1")
    links = [f"unix:{trio.folder}/{name}.link" for name in ("m1", "m2")]
    until("no source is connected", lambda: not second.status["source"]["connected"])

    error = refused("promote", first.directory, "--others", links[1])
    assert error["code"] == "other-is-longer"
    assert "its log ends at position" in error["cause"] and "this one's log ends at position" in error["cause"]
    assert refused("promote", first.directory, "--others", f"{links[1]}x")["code"] == "other-not-asked"
    assert told("status", first.directory)["role"] == "secondary"
    said = promote(second.directory, "--others", links[0])
    assert "is a primary now" in said.stdout
    assert "this mirror holds the log up to position" in said.stderr
    assert [snapshot["name"] for snapshot in second.status["snapshots"]] == ["named"]
    until("the promoted one feeds the other", lambda: first.status["source"]["connected"])
    second.kill()
    until("no source is connected", lambda: not first.status["source"]["connected"])
    promote(first.directory, "--others", f"{links[1]}x", "--yes")
