"""What every byte of a cleanly stopped store is, by the kind of region that it lies in.

Whoever flips bytes draws from here, so that no kind of file or region is missed by chance, and so that it is known
of which kinds a flipped byte has to be told: all that hold something which somebody may need.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from revolume.blocks.geometry import BLOCK
from revolume.host.disk import Directory
from revolume.log.format.segment import TRAILER, Segment, footer_blocks, read_footer, segment_name
from revolume.log.format.transfer import NODE_HEADER_SIZE, SHARED_HEADER_SIZE, Kind
from revolume.log.read.scan import FoundTransfer, SegmentReader
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.digest_pages import HEADER as TAGS_HEADER
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest import EDIT, HEADER, NAMES, load
from revolume.volume.metadata.manifest_state import State

FOLDERS = (layout.LOG, layout.MAPS)
Contents = dict[str, bytes]
"""Files by their names within the store."""

TOLD = frozenset({
    "manifest header", "manifest edit", "node header", "header", "columns", "point record", "fact",
    "whole block", "fragments", "point's block", "footer columns", "trailer",
    "map header", "map page", "map ranges", "map fences",
    "rung header", "rung page", "rung ranges", "rung fences",
    "sums header", "sums page", "tags header", "tags", "image block",
})  # fmt: skip
IDLE = frozenset({"padding", "unused log", "older segment", "other sums place", "image hole"})
"""Of these a flipped byte needs no telling: nobody reads them. (It must not make anything else wrong.)"""


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes [start, end) of a file, all of one kind."""

    kind: str
    name: str
    start: int
    end: int


def regions(directory: Directory) -> list[Region]:
    """Every byte of the store, each in one region."""
    contents = contents_of(directory)
    state = load(directory).state
    found = [
        *_manifests(contents), *_log(directory.child(layout.LOG), contents, state),
        *_maps(contents, state), *_sums(contents), *_image(directory, contents, state),
    ]  # fmt: skip
    return _with_the_rest(contents, [region for region in found if region.start < region.end])


def contents_of(directory: Directory) -> Contents:
    """All files, by name within the store."""
    found = {name: _content(directory, name) for name in directory.names() if name not in FOLDERS}
    for folder in FOLDERS:
        child = directory.child(folder)
        found |= {f"{folder}/{name}": _content(child, name) for name in child.names()}
        child.close()
    return found


def _content(directory: Directory, name: str) -> bytes:
    file = directory.open(name, write=False)
    content = bytearray(file.size())
    file.preadv([content], 0)
    file.close()
    return bytes(content)


def _with_the_rest(contents: Contents, found: list[Region]) -> list[Region]:
    """What lies between is padding."""
    rest = []
    for name, content in sorted(contents.items()):
        at = 0
        for region in sorted((r for r in found if r.name == name), key=lambda r: r.start):
            assert region.start >= at, f"{region} overlaps"
            if region.start > at:
                rest.append(Region("padding", name, at, region.start))
            at = region.end
        assert at <= len(content), f"{name} is shorter than its regions"
        if at < len(content):
            rest.append(Region("padding", name, at, len(content)))
    return found + rest


def _manifests(contents: Contents) -> Iterator[Region]:
    for name in NAMES:
        content = contents[name]
        yield Region("manifest header", name, 0, HEADER.size)
        at = HEADER.size
        while at < len(content):
            end = at + EDIT.size + EDIT.unpack_from(content, at)[0] + 8
            yield Region("manifest edit", name, at, end)
            at = end


# The log


def _log(log: Directory, contents: Contents, state: State) -> Iterator[Region]:
    assert state.clean is not None
    first, last = state.horizon.address // state.segment_blocks, state.clean.address // state.segment_blocks
    chain = state.horizon.chain
    live = {}
    for index, use in sorted(state.uses.items(), key=lambda pair: pair[1]):
        if not first <= use <= last or not use:
            continue
        segment = Segment(index, use, state.segment_blocks, log.open(segment_name(index), write=False))
        live[segment_name(index)] = segment
        begin = max(0, state.horizon.address - segment.base)
        yield from _older(segment, begin)
        for found in SegmentReader(segment, state.volume).chain_from(begin, chain, state.ends.get(use)):
            yield from _transfer(found)
            chain = found.transfer.chain
        yield from _footer(segment, state)
        segment.file.close()
    for name, content in contents.items():
        folder, _, file = name.partition("/")
        if folder == layout.LOG and file not in live:
            yield Region("unused log", name, 0, len(content))


def _name(segment: Segment) -> str:
    return f"{layout.LOG}/{segment_name(segment.index)}"


def _older(segment: Segment, begin: int) -> Iterator[Region]:
    yield Region("older segment", _name(segment), 0, begin * BLOCK)


def _transfer(found: FoundTransfer) -> Iterator[Region]:
    name, transfer = _name(found.segment), found.transfer
    at = found.block * BLOCK
    columns = at + NODE_HEADER_SIZE + SHARED_HEADER_SIZE
    body = columns + 16 * len(transfer.offsets) + 8 * len(transfer.digests)
    payload = found.payload_block * BLOCK
    fragments = payload + transfer.blocks * BLOCK
    bodies = {Kind.POINT: "point record", Kind.FACT: "fact"}
    whole = "point's block" if transfer.kind == Kind.POINT else "whole block"
    yield Region("node header", name, at, at + NODE_HEADER_SIZE)
    yield Region("header", name, at + NODE_HEADER_SIZE, columns)
    yield Region("columns", name, columns, body)
    yield Region(bodies.get(Kind(transfer.kind), "body"), name, body, body + len(transfer.body))
    yield Region(whole, name, payload, fragments)
    yield Region("fragments", name, fragments, fragments + transfer.fragment_bytes)


def _footer(segment: Segment, state: State) -> Iterator[Region]:
    footer = read_footer(segment, state.volume)
    if footer is None:
        return
    columns = footer.columns
    size = 64 * len(columns.rows) + 16 * len(columns.offsets) + 8 * len(columns.digests)
    first = (segment.blocks - footer_blocks(size)) * BLOCK
    last = (segment.blocks - 1) * BLOCK
    name = _name(segment)
    yield Region("footer columns", name, first, first + size)
    yield Region("trailer", name, last, last + TRAILER.size)


# What stands below it


def _maps(contents: Contents, state: State) -> Iterator[Region]:
    rungs = [("rung", layout.rung_name(rung.number)) for rung in state.rungs]
    for kind, file in [("map", state.base_map), *rungs]:
        if file:
            yield from _map(contents, kind, f"{layout.MAPS}/{file}")


def _map(contents: Contents, kind: str, name: str) -> Iterator[Region]:
    data, ranges, fences = (struct.unpack_from("<Q", contents[name], 8 * n)[0] for n in (9, 11, 12))
    at = 0
    for part, pages in (("header", 1), ("page", data), ("ranges", ranges), ("fences", fences)):
        yield Region(f"{kind} {part}", name, at * BLOCK, (at + pages) * BLOCK)
        at += pages


def _sums(contents: Contents) -> Iterator[Region]:
    tags, size = contents[layout.PAGES], len(contents[layout.SUMS])
    yield Region("tags header", layout.PAGES, 0, TAGS_HEADER.size + 8)
    yield Region("tags", layout.PAGES, TAGS_HEADER.size + 8, len(tags))
    yield Region("sums header", layout.SUMS, 0, BLOCK)
    for page, tag in enumerate(np.frombuffer(tags, "<u4", offset=TAGS_HEADER.size + 8).tolist()):
        for place in (0, 1):
            at = (2 + 2 * page + place) * BLOCK
            kind = "sums page" if tag and tag >> 31 == place else "other sums place"
            if at < size:
                yield Region(kind, layout.SUMS, at, min(at + BLOCK, size))


def _image(directory: Directory, contents: Contents, state: State) -> Iterator[Region]:
    sums = BlockDigests.open(directory, state.volume, state.horizon.pages_generation)
    held = {int(block) for blocks, _ in sums.within(0, sums.blocks) for block in blocks}
    sums.close()
    size = len(contents[layout.IMAGE])
    for block in range(size // BLOCK):
        kind = "image block" if block in held else "image hole"
        yield Region(kind, layout.IMAGE, block * BLOCK, (block + 1) * BLOCK)
