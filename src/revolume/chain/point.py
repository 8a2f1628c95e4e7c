"""A consistency point, and its record in the log.

A point is a numbered cut of the log: the volume's whole state as of a write. Its record says which blocks
changed since the point before and where their newest versions travelled:

    references   wholly modified blocks: which transfer (epoch, position), from which block in it, how many
    partials     partially modified blocks, whole: the record's own entries and payload
    zero runs    blocks that read as zero; they apply first, references and partials win over them

so that a receiver which holds the transfers can build the same delta map from what it received, byte for
byte of data saved. The record is one or more POINT transfers among the writes; the last carries SEALS and
the totals. Everything in it is "as of the cut": what was written later is never undone by it.

Body of each part (little endian)
     0  Q  point number           8 Q number of the point before, 0 = none
    16  Q  position of the cut   24 Q write number of the cut   32 Q wall time of the cut, ns
    40  I  part, from 0          44 I  parts in all
    48  Q  blocks referenced     56 Q partial blocks    64 Q zero runs, in the whole record
    72  Q  interval digest       80 Q volume root, low  88 Q volume root, high  (the same in every part)
    96  16s chain checksum at the cut
   112  I  transfers named here 116 I references here  120 I zero runs here   124 I zero
   128     transfers x (Q epoch, Q position)
           references x (I transfer named here, I block in the transfer, I run length)
           zero runs x (Q first block, Q blocks)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from revolume.blocks.numbers import Address, Position, WriteNumber

Buffer = bytes | memoryview
U64 = npt.NDArray[np.uint64]

BODY = struct.Struct("<QQQQQIIQQQQQQ16sIIII")
TRANSFER_ROW = np.dtype([("epoch", "<u8"), ("position", "<u8")])
REFERENCE_ROW = np.dtype([("transfer", "<u4"), ("block", "<u4"), ("run", "<u4")])
ZERO_ROW = np.dtype([("first", "<u8"), ("count", "<u8")])

assert BODY.size == 128
assert REFERENCE_ROW.itemsize == 12


@dataclass(frozen=True, slots=True)
class Point:
    """A closed consistency point. Its value is (epoch, number, digest); equal ``root``s prove whole volumes
    equal."""

    number: int
    previous: int
    position: Position
    write: WriteNumber
    time_ns: int
    epoch: int
    digest: int
    root: tuple[int, int]
    chain: bytes
    changed_blocks: int
    address: Address = Address(0)
    """Where the cut lies in this node's log."""
    record: Address = Address(0)
    """Where the sealing transfer of the record lies in this node's log."""
    lived_ms: int = 0
    """This node's lived time when it kept the record, in ms; 0: not known, which is long ago."""


@dataclass(frozen=True, slots=True)
class References:
    """Runs of wholly modified blocks: transfer ID (epoch, position), block number in the transfer, length."""

    epochs: U64
    positions: U64
    blocks: U64
    runs: U64


@dataclass(frozen=True, slots=True)
class Part:
    """One decoded part of a record."""

    number: int
    previous: int
    position: Position
    write: WriteNumber
    time_ns: int
    part: int
    parts: int
    referenced: int
    partials: int
    zero_runs: int
    digest: int
    root: tuple[int, int]
    chain: bytes
    references: References
    zeroes: tuple[U64, U64]


@dataclass(frozen=True, slots=True)
class Totals:
    """What every part repeats."""

    number: int
    previous: int
    position: Position
    write: WriteNumber
    time_ns: int
    referenced: int
    partials: int
    zero_runs: int
    digest: int
    root: tuple[int, int]
    chain: bytes


def pack_part(totals: Totals, part: tuple[int, int], references: References, zeroes: tuple[U64, U64]) -> bytes:
    """The body of one part; ``part`` is (index, parts in all)."""
    names, index = _transfers_named(references)
    rows = np.empty(len(references.runs), REFERENCE_ROW)
    rows["transfer"], rows["block"], rows["run"] = index, references.blocks, references.runs
    runs = np.empty(len(zeroes[0]), ZERO_ROW)
    runs["first"], runs["count"] = zeroes
    head = BODY.pack(
        totals.number, totals.previous, totals.position, totals.write, totals.time_ns, *part,
        totals.referenced, totals.partials, totals.zero_runs, totals.digest, *totals.root, totals.chain,
        len(names), len(rows), len(runs), 0,
    )  # fmt: skip
    return b"".join((head, names.tobytes(), rows.tobytes(), runs.tobytes()))


def _transfers_named(references: References) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """Each transfer once, and which of them each reference is into. References stand in the log's order, so
    those into the same transfer are neighbours."""
    begins = np.ones(len(references.runs), bool)
    begins[1:] = (np.diff(references.positions) != 0) | (np.diff(references.epochs) != 0)
    names = np.empty(int(begins.sum()), TRANSFER_ROW)
    names["epoch"], names["position"] = references.epochs[begins], references.positions[begins]
    return names, np.cumsum(begins) - 1


def named_positions(body: Buffer) -> U64:
    """The positions of the transfers that one part's references name. ValueError: the part's counts are wrong."""
    named = BODY.unpack_from(body)[14]
    return np.frombuffer(body, TRANSFER_ROW, named, BODY.size)["position"]


def unpack_part(body: bytes) -> Part | None:
    """The part, or None if its counts don't agree with its size."""
    if len(body) < BODY.size:
        return None
    fields: tuple[Any, ...] = BODY.unpack_from(body)
    named, referenced, zero_runs = fields[14:17]
    if BODY.size + named * 16 + referenced * 12 + zero_runs * 16 != len(body):
        return None
    at = BODY.size
    names = np.frombuffer(body, TRANSFER_ROW, named, at)
    rows = np.frombuffer(body, REFERENCE_ROW, referenced, at + named * 16)
    runs = np.frombuffer(body, ZERO_ROW, zero_runs, at + named * 16 + referenced * 12)
    if referenced and int(rows["transfer"].max()) >= named:
        return None
    chosen = names[rows["transfer"]]
    references = References(
        chosen["epoch"].astype(np.uint64), chosen["position"].astype(np.uint64),
        rows["block"].astype(np.uint64), rows["run"].astype(np.uint64),
    )  # fmt: skip
    zeroes = runs["first"].astype(np.uint64), runs["count"].astype(np.uint64)
    root: tuple[int, int] = fields[11:13]
    values = (*fields[:11], root, fields[13], references, zeroes)
    return Part(*values)


def stated_point(parts: Sequence[Part], *, epoch: int, address: Address, record: Address, lived_ms: int) -> Point:
    """The point of a whole record, with what only this node knows: where cut and record lie in its log, and its
    lived time."""
    part = parts[0]
    return Point(
        number=part.number, previous=part.previous, position=part.position, write=part.write, time_ns=part.time_ns,
        epoch=epoch, digest=part.digest, root=part.root, chain=part.chain, changed_blocks=changed_blocks(parts),
        address=address, record=record, lived_ms=lived_ms,
    )  # fmt: skip


def changed_blocks(parts: Sequence[Part]) -> int:
    """How many blocks a record names, all of its parts taken together."""
    zeroed = sum(int(part.zeroes[1].sum()) for part in parts)
    return parts[0].referenced + parts[0].partials + zeroed


def split_references(references: References, per_part: int) -> Iterator[References]:
    """The references in pieces of at most ``per_part`` rows."""
    for at in range(0, len(references.runs), per_part):
        here = slice(at, at + per_part)
        yield References(
            references.epochs[here],
            references.positions[here],
            references.blocks[here],
            references.runs[here],
        )
