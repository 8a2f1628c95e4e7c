"""A moment that another copy holds, for a node that lacks it: since version 8. No I/O.

MOMENTS_ASK (anybody -> a node that listens): which moments do you hold? The link is closed behind the answer
     0  FETCH (``tail_messages.py``): who asks; a volume id of zeroes: whatever volume is there
MOMENTS (the node -> who asks): all isolated points, and the newest of the others
     0  H  protocol version chosen     2 H bytes of the volume's name     4 I rows
     8     rows x (Q write, Q point, Q time, B 1: isolated, 2: suspect; H bytes of names): oldest first
           the volume's name, then the names of each row's snapshots, separated by commas, UTF-8
RECALL (anybody -> a node that listens): hold this moment open for me
     0  FETCH as above     120 H 1: although it is suspect     122 H bytes of the moment     124 the moment, as
           people write it, UTF-8
RECALLED (the node -> who asked): it is open. Its frame carries the session id
     0  H  protocol version chosen     2 B 1: it is suspect, 2: this node is the volume's primary, 4: its primary
           is connected     3 B zero     4 I blocks of a segment
     8 16s node id     24 16s volume id     40 Q number of the newest opening that this node knows
    48  Q  write numbers up to this may have been given out     56 Q blocks of the volume's largest transfer
    64  H  bytes of the volume's name     66 H bytes of a note     68 4x zero
    72     name, note, UTF-8
           the point, as a base's start in BEGIN (``begin_messages.py``), with the openings up to there
COMPARE_ASK, COMPARED (``comparison_messages.py``) follow, as often as the asker likes, about that moment
RECALL_BLOCKS (who asked -> the node)
     0     as REQUEST_BLOCKS (``block_messages.py``), of that point
RECALLED_BLOCKS (the node -> who asked)
     0     as BLOCKS. A block that is damaged there and that nobody can heal travels as zeroes, with the digest
           that it should have
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.mirror.wire.begin_messages import BaseStart, pack_start, unpack_start
from revolume.mirror.wire.block_messages import (
    BLOCK_REQUEST,
    BlockRows,
    ascending,
    content_holds,
    unpack_rows,
)
from revolume.mirror.wire.codec import exact, strict
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME_SIZE, ProtocolError
from revolume.mirror.wire.tail_messages import FETCH, Fetch, pack_fetch, unpack_fetch
from revolume.mirror.wire.version import OURS, check_chosen

MOMENTS: Final = struct.Struct("<HHI")
MOMENT_ROW: Final = struct.Struct("<QQQBH")
RECALL: Final = struct.Struct("<HH")
RECALLED: Final = struct.Struct("<HBxI16s16sQQQHH4x")
TEXT_BYTES_MAX: Final = 1024
"""Of a moment, a name, a note."""
ROWS_MAX: Final = 4096
"""Moments that are told at most."""
NAMES_BYTES_MAX: Final = 512
"""Of the names at one moment; what is longer is cut."""
MOMENTS_ASK_BODY_MAX: Final = FETCH.size + CHECK_SIZE
MOMENTS_BODY_MAX: Final = 4 << 20
RECALL_BODY_MAX: Final = FETCH.size + RECALL.size + TEXT_BYTES_MAX + CHECK_SIZE
RECALLED_BODY_MAX: Final = 4 << 20

assert (RECALL.size, RECALLED.size) == (4, 72)

_ISOLATED, _SUSPECT = 1, 2
_IS_SUSPECT, _IS_PRIMARY, _FED = 1, 2, 4


@dataclass(frozen=True, slots=True)
class MomentEntry:
    """A moment that a node holds. ``names``: of the snapshots there. ``isolated``: what lies around it is gone."""

    write: WriteNumber
    point: int
    time_ns: int
    isolated: bool
    suspect: bool
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Moments:
    """MOMENTS: of the volume ``name``, oldest first."""

    name: str
    entries: tuple[MomentEntry, ...]
    version: int = OURS.highest


@dataclass(frozen=True, slots=True)
class Recall:
    """RECALL. ``moment``: as people write it. ``suspect``: also one that is known to be suspect."""

    asker: Fetch
    moment: str
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Recalled:
    """RECALLED: a moment, which is open. ``start``: the point, and the openings up to it. ``opening``: the newest
    that the node knows; ``numbers``: write numbers up to this may have been given out; ``fed``: its primary is
    connected; ``note``: what is to be said of the moment, "" if nothing."""

    node: bytes
    volume: bytes
    name: str
    start: BaseStart
    opening: int
    numbers: WriteNumber
    segment_blocks: int
    largest_blocks: int
    suspect: bool = False
    primary: bool = False
    fed: bool = False
    note: str = ""
    version: int = OURS.highest


def pack_moments_ask(asker: Fetch) -> bytes:
    """The body of MOMENTS_ASK."""
    return pack_fetch(asker)


def unpack_moments_ask(body: memoryview) -> Fetch:
    """MOMENTS_ASK. RevolumeError: there is no version that both ends speak."""
    return unpack_fetch(body)


def pack_moments(moments: Moments) -> bytes:
    """The body of MOMENTS."""
    name = moments.name.encode()
    rows, texts = list[bytes](), [name]
    for each in moments.entries:
        text = ",".join(each.names).encode()[:NAMES_BYTES_MAX]
        flags = _ISOLATED * each.isolated | _SUSPECT * each.suspect
        rows.append(MOMENT_ROW.pack(each.write, each.point, each.time_ns, flags, len(text)))
        texts.append(text)
    return MOMENTS.pack(moments.version, len(name), len(rows)) + b"".join([*rows, *texts])


@strict
def unpack_moments(body: memoryview) -> Moments:
    """MOMENTS. RevolumeError: this node does not speak the version that was chosen."""
    version, name_size, count = MOMENTS.unpack_from(body)
    check_chosen(version)
    data, at = bytes(body), MOMENTS.size + count * MOMENT_ROW.size
    if count > ROWS_MAX or at > len(data):
        raise ValueError(f"{count} moments in {len(data)} bytes")
    name, at = _text(data, at, name_size)
    entries = list[MomentEntry]()
    for write, point, time_ns, flags, size in MOMENT_ROW.iter_unpack(
        data[MOMENTS.size : MOMENTS.size + count * MOMENT_ROW.size]
    ):
        text, at = _text(data, at, size)
        names = tuple(text.split(",")) if text else ()
        entries.append(MomentEntry(write, point, time_ns, bool(flags & _ISOLATED), bool(flags & _SUSPECT), names))
    exact(body, at)
    return Moments(name, tuple(entries), version)


def pack_recall(recall: Recall) -> bytes:
    """The body of RECALL."""
    text = recall.moment.encode()
    return pack_fetch(recall.asker) + RECALL.pack(recall.suspect, len(text)) + text


@strict
def unpack_recall(body: memoryview) -> Recall:
    """RECALL. RevolumeError: there is no version that both ends speak."""
    suspect, size = RECALL.unpack_from(body, FETCH.size)
    text, at = _text(bytes(body), FETCH.size + RECALL.size, size)
    exact(body, at)
    if suspect > 1:
        raise ValueError(f"{suspect} says nothing of a suspect moment")
    return Recall(unpack_fetch(body[: FETCH.size]), text, bool(suspect))


def pack_recalled(r: Recalled) -> bytes:
    """The body of RECALLED."""
    name, note = r.name.encode(), r.note.encode()[:TEXT_BYTES_MAX]
    flags = _IS_SUSPECT * r.suspect | _IS_PRIMARY * r.primary | _FED * r.fed
    head = RECALLED.pack(
        r.version, flags, r.segment_blocks, r.node, r.volume, r.opening, r.numbers, r.largest_blocks, len(name),
        len(note),
    )  # fmt: skip
    return head + name + note + pack_start(r.start, r.version)


@strict
def unpack_recalled(body: memoryview) -> Recalled:
    """RECALLED. RevolumeError: this node does not speak the version that was chosen."""
    (
        version, flags, segment_blocks, node, volume, opening, numbers, largest, name_size, note_size,
    ) = RECALLED.unpack_from(body)  # fmt: skip
    check_chosen(version)
    data = bytes(body)
    name, at = _text(data, RECALLED.size, name_size)
    note, at = _text(data, at, note_size)
    return Recalled(
        node=node,
        volume=volume,
        name=name,
        start=unpack_start(body[at:], version),
        opening=opening,
        numbers=WriteNumber(numbers),
        segment_blocks=segment_blocks,
        largest_blocks=largest,
        suspect=bool(flags & _IS_SUSPECT),
        primary=bool(flags & _IS_PRIMARY),
        fed=bool(flags & _FED),
        note=note,
        version=version,
    )


def unpack_recalled_blocks(frame: memoryview) -> BlockRows:
    """RECALLED_BLOCKS: blocks with their digests, and content that has them, or zeroes in its place."""
    if len(frame) < FRAME_SIZE + BLOCK_REQUEST.size:
        raise ProtocolError("A message is not what its type says.")
    _, count, _ = BLOCK_REQUEST.unpack_from(frame, FRAME_SIZE)
    rows = unpack_rows(frame, BLOCK_REQUEST.size, count)
    filled = rows.digests[rows.digests != 0]
    if len(rows.payload) != len(filled) * 4096 or not ascending(rows.blocks):
        raise ProtocolError("Blocks of a moment do not add up to their frame.")
    if not content_holds(rows.payload, filled, zeroes=True):
        raise ProtocolError("A block of a moment is not what its digest says.")
    return rows


def _text(data: bytes, at: int, size: int) -> tuple[str, int]:
    """The text of so many bytes that begins there, and where it ends."""
    piece = data[at : at + size]
    if len(piece) != size or size > TEXT_BYTES_MAX:
        raise ValueError(f"a text of {size} bytes")
    text = piece.decode(errors="replace")
    if not text.isprintable():
        raise ValueError("a text that nobody can read")
    return text, at + size
