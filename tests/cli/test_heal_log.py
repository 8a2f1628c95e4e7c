"""What a running node's log has beside whole blocks, damaged and healed from the other node: headers, records of
points, fragments. The bytes that both nodes share are the same again, and the stopped store checks clean."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from revolume.log.format.transfer import (
    NODE_HEADER_MAGIC,
    NODE_HEADER_SIZE,
    Kind,
    NodeHeader,
    Transfer,
    unpack_node_header,
    unpack_shared_header,
)
from tests.support import live_files
from tests.support.mirrors import SMALL, Node, client, revolume, until, write

BLOCK = 4096
MiB = 1 << 20
SIZE = 8 * MiB
pytestmark = pytest.mark.timeout(240)
Found = tuple[Path, int, NodeHeader, Transfer]


@pytest.fixture
def pair(folder: Path) -> Iterator[tuple[Node, Node]]:
    link = f"unix:{folder}/link"
    options = ("--cp-interval", "200ms", *SMALL)
    mirror = Node(folder / "m", "--mirror-listen", link, *options)
    primary = Node(folder / "p", "--size", str(SIZE), *options, "--mirror-to", f"{link},name=m")
    try:
        primary.until_joined()
        yield primary, mirror
    finally:
        for node in (primary, mirror):
            node.kill()
            print(node.log.read_text())


def history(primary: Node) -> None:
    """Some segments of whole blocks, sectors, and points."""
    for number in range(12):
        whole = ((number * 40 + at * 3) * BLOCK for at in range(6))
        sectors = (number * 40 + 2) * BLOCK + 512
        write(primary.uri("p"), *((at, os.urandom(2 * BLOCK)) for at in whole))
        write(primary.uri("p"), (sectors, os.urandom(1024)))
        revolume("snapshot", primary.directory, f"s{number}")
    primary.until_agreed()


def transfers(node: Node) -> list[Found]:
    """File, byte, node header and header of all in the log, in its order."""
    found: list[Found] = []
    for path, held in live_files.contents(node.directory, "log/*.seg"):
        content = memoryview(held)
        for at in range(0, len(content), BLOCK):
            if content[at : at + 8] == NODE_HEADER_MAGIC:
                header = unpack_node_header(content[at : at + NODE_HEADER_SIZE])
                transfer = unpack_shared_header(content[at + NODE_HEADER_SIZE :])
                if header is not None and transfer is not None:
                    found.append((path, at, header, transfer))
    return sorted(found, key=lambda each: each[3].position)


def bend(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def scrub(node: Node, status: int) -> dict[str, Any]:
    job: dict[str, Any] = json.loads(revolume("scrub", node.directory, "--json", status=status).stdout)
    return dict(job["result"])


def a_write(found: list[Found]) -> tuple[Path, int]:
    later = (each for each in found[len(found) // 2 :] if each[1] and each[3].kind == Kind.WRITES)
    path, at, _, _ = next(each for each in later if not each[3].fragment_bytes)
    return path, at + NODE_HEADER_SIZE + 30


def a_point(found: list[Found]) -> tuple[Path, int]:
    later = (each for each in found[len(found) // 2 :] if each[1] and each[3].kind == Kind.POINT)
    path, at, _, transfer = next(later)
    return path, at + NODE_HEADER_SIZE + transfer.shared_header_size - 20


def the_newest(found: list[Found]) -> tuple[Path, int]:
    path, at, _, _ = found[-1]
    return path, at + NODE_HEADER_SIZE + 60


def the_first_of_a_segment(found: list[Found]) -> tuple[Path, int]:
    path, at, _, _ = next(each for each in found if not each[1] and each[3].position > 3)
    return path, at + NODE_HEADER_SIZE + 125


def a_fragment(found: list[Found]) -> tuple[Path, int]:
    path, at, _, transfer = next(each for each in found[5:] if each[1] and each[3].fragment_bytes)
    return path, at + (transfer.header_blocks + transfer.blocks) * BLOCK + 100


Choose = Callable[[list[Found]], tuple[Path, int]]
SHARED: list[Choose] = [a_write, a_point, the_newest, the_first_of_a_segment, a_fragment]


@pytest.mark.parametrize("which", ["primary", "mirror"])
def test_what_both_nodes_share_is_the_same_again(which: str, pair: tuple[Node, Node]) -> None:
    history(pair[0])
    node = pair[0] if which == "primary" else pair[1]
    assert scrub(node, 0)["damaged"] == 0
    until("nothing is being written", lambda: transfers(node)[-1][3].kind in (Kind.POINT, Kind.FACT))
    places = {choose(transfers(node)) for choose in SHARED}
    before = {path: path.read_bytes() for path, _ in places}
    for place in places:
        bend(*place)
    found = scrub(node, 5)
    assert (found["damaged"], found["healed"]) == (len(places), len(places)), found
    for path, offset in places:
        assert path.read_bytes()[offset - 60 : offset + 60] == before[path][offset - 60 : offset + 60]
    assert scrub(node, 0)["damaged"] == 0
    told = [event["message"] for event in node.status["events"] if event["kind"] == "healed"]
    source = "mirror m" if which == "primary" else "the source"
    assert sum(f": header, from {source}" in message for message in told) == len(places) - 1
    assert sum(f": fragments, from {source}" in message for message in told) == 1
    node.stop()
    revolume("check", node.directory)


@pytest.mark.parametrize("which", ["primary", "mirror"])
def test_the_nodes_own_header_is_made_anew(which: str, pair: tuple[Node, Node]) -> None:
    """It states what the one before it did; recovery and a check find nothing wrong with it."""
    history(pair[0])
    node = pair[0] if which == "primary" else pair[1]
    found = transfers(node)
    index = next(at for at in range(len(found) // 2, len(found)) if found[at][3].kind == Kind.WRITES)
    path, at, header, transfer = found[index]
    bend(path, at + 25)
    bend(path, at + 60)
    assert scrub(node, 5)["healed"] == 1
    made = next(each for each in transfers(node) if each[3].position == transfer.position)
    assert made[3].chain == transfer.chain
    assert (made[2].use, made[2].block) == (header.use, header.block)
    assert made[2].durable == found[index - 1][2].durable <= header.durable
    assert header.lived_ns <= made[2].lived_ns < header.lived_ns + 1_000_000
    node.stop()
    revolume("check", node.directory)


def test_without_a_sibling_it_is_named_and_stays(pair: tuple[Node, Node]) -> None:
    primary, mirror = pair
    history(primary)
    mirror.kill()
    path, offset = a_point(transfers(primary))
    bend(path, offset)
    found = scrub(primary, 5)
    assert (found["damaged"], found["healed"]) == (1, 0)
    assert "header at log/" in found["found"][0] and "nobody has put it right" in found["found"][0]


def test_what_is_damaged_at_both_in_the_same_place_stays(pair: tuple[Node, Node]) -> None:
    """And nothing else: the one before and the one behind are put right."""
    history(pair[0])
    positions = [each[3].position for each in transfers(pair[0]) if each[3].kind == Kind.WRITES][5:8]
    for node in pair:
        for path, at, _, transfer in transfers(node):
            if transfer.position == positions[1] or (node is pair[0] and transfer.position in positions):
                bend(path, at + NODE_HEADER_SIZE + 30)
    found = scrub(pair[0], 5)
    assert (found["damaged"], found["healed"]) == (3, 2), found


def test_a_mirrors_view_needs_a_damaged_record_and_gets_it(pair: tuple[Node, Node]) -> None:
    """Without a scrub: whoever meets it has it healed."""
    primary, mirror = pair
    history(primary)
    path, offset = a_point(transfers(mirror))
    bend(path, offset)

    async def job(opened: Any) -> bytes:
        return bytes(await opened.read(0, MiB))

    assert client(mirror.uri("p@s11"), job) == client(primary.uri("p@s11"), job)
    assert any("header, from the source" in event["message"] for event in mirror.status["events"])
    assert scrub(mirror, 0)["damaged"] == 0


def test_a_mirrors_fold_needs_a_damaged_record_and_gets_it(folder: Path) -> None:
    """And none fails on the way. The primary keeps more, so it has the record still."""
    link, options = f"unix:{folder}/link", ("--cp-interval", "200ms", *SMALL)
    mirror = Node(folder / "m", "--mirror-listen", link, "--keep", "6s", *options)
    primary = Node(folder / "p", "--size", str(SIZE), *options, "--mirror-to", f"{link},name=m")
    try:
        primary.until_joined()
        for number in range(6):
            write(primary.uri("p"), (number * MiB, os.urandom(MiB)))
            primary.until_agreed()
        bend(*a_point(transfers(mirror)))
        assert not mirror.status["folds"]

        def folded() -> bool:
            write(primary.uri("p"), (SIZE // 2, os.urandom(MiB // 16)))  # a new base map is not due
            return any("header, from the source" in event["message"] for event in mirror.status["events"])

        until("the mirror folds", folded, 30)
        until("it folds on", lambda: not folded() or mirror.status["folds"])
        assert not any("folding failed" in event["message"] for event in mirror.status["events"])
    finally:
        for node in (primary, mirror):
            node.kill()
            print(node.log.read_text())
