"""Blocks that rot under running nodes, healed: the reader gets what was written, and the bytes on the disk are
right again. A mirror heals its source, a source its mirror; what nobody has is an error of that block alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.errors import RevolumeError
from revolume.nbd.client import Client
from tests.support import live_files
from tests.support.mirrors import SMALL, Node, client, revolume, until, write

BLOCK = 4096
MiB = 1 << 20
SIZE = 8 * MiB
pytestmark = pytest.mark.timeout(240)


class Pair:
    """A primary and its mirror. ``content``: what was written, by block."""

    def __init__(self, folder: Path, *words: str) -> None:
        link = f"unix:{folder}/link"
        self.mirror = Node(folder / "m", "--mirror-listen", link, *SMALL)
        options = ("--size", str(SIZE), "--cp-interval", "200ms", *SMALL, *words)
        self.primary = Node(folder / "p", *options, "--mirror-to", f"{link},name=m")
        self.primary.until_joined()
        self.content: dict[int, bytes] = {}

    def write(self, *blocks: int) -> None:
        fresh = {block: os.urandom(BLOCK) for block in blocks}
        write(self.primary.uri("p"), *((block * BLOCK, data) for block, data in fresh.items()))
        self.content |= fresh

    def agree(self) -> None:
        with self.primary.control as control:
            control.cut()
        self.primary.until_agreed()

    def until_folded(self, node: Node, block: int) -> None:
        """The image has it: log is written until it is old enough and enough of it."""

        def folded() -> bool:
            write(self.primary.uri("p"), (SIZE // 2, os.urandom(MiB)))
            with (node.directory / "image").open("rb") as image:
                image.seek(block * BLOCK)
                return image.read(BLOCK) == self.content[block]

        until(f"block {block} is folded", folded)
        until("the horizon has moved", lambda: not node.status["folding"] and node.status["folds"])

    def close(self) -> None:
        for node in (self.primary, self.mirror):
            node.kill()
            print(node.log.read_text())


@pytest.fixture
def folded(folder: Path) -> Iterator[Pair]:
    """A pair that keeps little of its log, so that images are filled."""
    made = Pair(folder, "--keep", "1s", "--cp-interval", "100ms")
    yield made
    made.close()


@pytest.fixture
def pair(folder: Path) -> Iterator[Pair]:
    made = Pair(folder)
    yield made
    made.close()


def places(node: Node, content: bytes) -> list[tuple[Path, int]]:
    """File and offset of everything in the node's directory that holds these bytes."""
    files = live_files.contents(node.directory)
    return [(path, at) for path, held in files if (at := held.find(content)) >= 0]


def bend(place: tuple[Path, int]) -> None:
    """One byte in the middle of the block is another one."""
    path, offset = place
    with path.open("r+b") as file:
        file.seek(offset + 1000)
        byte = file.read(1)[0]
        file.seek(offset + 1000)
        file.write(bytes([byte ^ 0xFF]))


def bent(place: tuple[Path, int], content: bytes) -> bool:
    path, offset = place
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(BLOCK) != content


def in_log(node: Node, content: bytes) -> tuple[Path, int]:
    return next(place for place in places(node, content) if place[0].parent.name == "log")


def read_block(node: Node, block: int, export: str = "p") -> bytes:
    async def job(opened: Client) -> bytes:
        return bytes(await opened.read(block * BLOCK, BLOCK))

    return bytes(client(node.uri(export), job))


def messages(node: Node, kind: str) -> list[str]:
    return [event["message"] for event in node.status["events"] if event["kind"] == kind]


def test_a_client_reads_what_a_mirror_has_of_a_damaged_log(pair: Pair) -> None:
    pair.write(7, 8, 9)
    pair.agree()
    place = in_log(pair.primary, pair.content[8])
    bend(place)
    assert read_block(pair.primary, 8) == pair.content[8]
    until("it is healed", lambda: pair.primary.status["healed_blocks"] == 1)
    assert not bent(place, pair.content[8])
    status = pair.primary.status
    assert status["healed_blocks"] == 1 and status["unhealed"] == [] and status["state"] == "online"
    assert status["read_mismatches"] == 0 and status["damaged"] == []
    assert messages(pair.primary, "healed") == ["healed block 8 in the log, from mirror m"]
    shown = revolume("status", pair.primary.directory).stdout
    assert "1 block that was damaged was put right from another copy" in shown


def test_a_client_reads_what_a_mirror_has_of_a_damaged_image(folded: Pair) -> None:
    folded.write(7, 8, 9)
    folded.agree()
    folded.until_folded(folded.primary, 8)
    place = folded.primary.directory / "image", 8 * BLOCK
    bend(place)
    assert read_block(folded.primary, 8) == folded.content[8]
    until("it is healed", lambda: folded.primary.status["healed_blocks"] == 1)
    assert not bent(place, folded.content[8])
    status = folded.primary.status
    assert status["healed_blocks"] == 1 and status["unhealed"] == [] and status["state"] == "online"
    assert messages(folded.primary, "healed") == ["healed block 8 in the image, from mirror m"]


def test_a_mirrors_view_reads_what_its_source_has(pair: Pair) -> None:
    pair.write(7, 8, 9)
    revolume("snapshot", pair.primary.directory, "s")
    pair.agree()
    place = in_log(pair.mirror, pair.content[8])
    bend(place)
    assert read_block(pair.mirror, 8, "p@s") == pair.content[8]
    until("it is healed", lambda: pair.mirror.status["healed_blocks"] == 1)
    assert not bent(place, pair.content[8])
    assert messages(pair.mirror, "healed") == ["healed block 8 in the log, from the source"]
    assert pair.mirror.status["healed_blocks"] == 1 and pair.mirror.status["state"] == "online"


def test_what_both_have_lost_is_an_error_of_that_block_alone(pair: Pair) -> None:
    pair.write(*range(4))
    pair.agree()
    for node in (pair.primary, pair.mirror):
        bend(in_log(node, pair.content[2]))
    for block in (0, 1, 3):
        assert read_block(pair.primary, block) == pair.content[block]
    with pytest.raises(RevolumeError):
        read_block(pair.primary, 2)
    status = pair.primary.status
    assert status["healed_blocks"] == 0 and status["unhealed"] == [{"block": 2, "place": "log"}]
    assert "block 2 can't be healed: no other copy has it" in messages(pair.primary, "damage")
    assert (
        "1 damaged block that no other copy has: block 2 in the log"
        in revolume("status", pair.primary.directory).stdout
    )
    pair.write(2)
    assert read_block(pair.primary, 2) == pair.content[2]


def test_what_could_not_be_healed_is_when_the_mirror_is_back(pair: Pair, folder: Path) -> None:
    pair.write(7)
    pair.agree()
    place = in_log(pair.primary, pair.content[7])
    pair.mirror.kill()
    until("the mirror is missed", lambda: pair.primary.mirror["state"] != "in sync")
    bend(place)
    with pytest.raises(RevolumeError):
        read_block(pair.primary, 7)
    told = "block 7 can't be healed: there is no other copy to ask at the moment"
    assert told in messages(pair.primary, "damage")
    pair.mirror = Node(folder / "m", "--mirror-listen", f"unix:{folder}/link", *SMALL)
    until("it is healed", lambda: not bent(place, pair.content[7]))
    until("status knows", lambda: pair.primary.status["unhealed_count"] == 0)
    assert read_block(pair.primary, 7) == pair.content[7]


def test_a_new_mirror_gets_all_but_the_block_that_nobody_has(folder: Path) -> None:
    """Its base is complete; there that block is an error too, until it is written again."""
    options = ("--size", str(SIZE), "--cp-interval", "200ms", *SMALL)
    primary = Node(folder / "p", *options)
    content = {block: os.urandom(BLOCK) for block in range(300)}
    write(primary.uri("p"), *((block * BLOCK, data) for block, data in content.items()))
    revolume("snapshot", primary.directory, "s")
    bend(in_log(primary, content[77]))
    mirror = Node(folder / "m", "--mirror-listen", f"unix:{folder}/link", *SMALL)
    try:
        revolume("mirror", "add", primary.directory, "m", f"unix:{folder}/link", "--history", "none")
        primary.until_joined()
        write(primary.uri("p"), (400 * BLOCK, content[0]))
        primary.until_agreed()
        for node in (primary, mirror):
            for block in (0, 76, 78, 299):
                assert read_block(node, block) == content[block]
            with pytest.raises(RevolumeError):
                read_block(node, 77)
        write(primary.uri("p"), (77 * BLOCK, content[77]))
        primary.until_agreed()
        assert read_block(mirror, 77) == content[77]
    finally:
        for node in (primary, mirror):
            node.kill()
            print(node.log.read_text())


def test_a_damaged_table_takes_its_snapshots_with_it_and_nothing_else(folder: Path) -> None:
    """Folds go on, a newer snapshot is read, a new mirror is made, without the ones that are lost; status names
    them until they are dropped."""
    options = ("--size", str(SIZE), "--cp-interval", "100ms", "--keep", "1s", *SMALL)
    primary = Node(folder / "p", *options)
    mirror = Node(folder / "m", "--mirror-listen", f"unix:{folder}/link", *SMALL)

    def rewritten(wanted: bytes) -> bool:
        """Until the snapshot's blocks are rescued."""
        write(
            primary.uri("p"), *((block * BLOCK, os.urandom(BLOCK)) for block in range(50)), (SIZE // 2, bytes(MiB))
        )
        return any(place[0].parent.name == "rescue" for place in places(primary, wanted))

    try:
        old, new = os.urandom(BLOCK), os.urandom(BLOCK)
        write(primary.uri("p"), (7 * BLOCK, old))
        revolume("snapshot", primary.directory, "old")
        until("it is rescued", lambda: rewritten(old))
        until("nothing is folded", lambda: not primary.status["folding"])
        tables = sorted((primary.directory / "rescue").glob("*.map"))
        for table in tables:
            for page in range(table.stat().st_size // BLOCK):
                bend((table, page * BLOCK))
        write(primary.uri("p"), (7 * BLOCK, new))
        revolume("snapshot", primary.directory, "new")
        until("it is rescued", lambda: rewritten(new))
        with primary.control as control:
            job = control.start_job("scrub")
            until("it is read", lambda: control.job(job["id"])["state"] not in ("queued", "running"))
        told = primary.status["damaged_tables"]
        assert told and {each["file"] for each in told} <= {table.name for table in tables}
        assert all(each["snapshots"] == ["old"] for each in told)
        shown = revolume("status", primary.directory).stdout
        assert "which says what was rescued" in shown and "snapshots that can't be read whole: old" in shown
        with pytest.raises(RevolumeError):
            read_block(primary, 7, "p@old")
        assert read_block(primary, 7, "p@new") == new
        folds = primary.status["folds"]
        until("it folds on", lambda: rewritten(new) and primary.status["folds"] > folds + 1)
        revolume("mirror", "add", primary.directory, "m", f"unix:{folder}/link")
        primary.until_joined()
        primary.until_agreed()
        assert read_block(mirror, 7, "p@new") == new
        revolume("snapshot", primary.directory, "old", "--drop")
        until("it is let go of", lambda: rewritten(new) and not primary.status["damaged_tables"])
    finally:
        for node in (primary, mirror):
            node.kill()
            print(node.log.read_text())


def test_a_new_mirror_gets_all_of_a_snapshot_but_the_block_that_nobody_has(folder: Path) -> None:
    """A moment that travels before the base."""
    options = ("--size", str(SIZE), "--cp-interval", "100ms", "--keep", "1s", *SMALL)
    primary = Node(folder / "p", *options)
    content = {block: os.urandom(BLOCK) for block in range(100)}
    write(primary.uri("p"), *((block * BLOCK, data) for block, data in content.items()))
    revolume("snapshot", primary.directory, "s")
    mirror = Node(folder / "m", "--mirror-listen", f"unix:{folder}/link", *SMALL)

    def rescued() -> bool:
        write(
            primary.uri("p"), *((block * BLOCK, os.urandom(BLOCK)) for block in content), (SIZE // 2, bytes(MiB))
        )
        return any(place[0].parent.name == "rescue" for place in places(primary, content[77]))

    try:
        until("the snapshot's blocks are rescued", rescued)
        for place in places(primary, content[77]):
            bend(place)
        revolume("mirror", "add", primary.directory, "m", f"unix:{folder}/link")
        primary.until_joined()
        primary.until_agreed()
        for node in (primary, mirror):
            for block in (0, 76, 78, 99):
                assert read_block(node, block, "p@s") == content[block]
            with pytest.raises(RevolumeError):
                read_block(node, 77, "p@s")
    finally:
        for node in (primary, mirror):
            node.kill()
            print(node.log.read_text())
