"""What a manifest says of clones: of those that lie over this volume, and over what this one lies.

CLONE (108): replaces the record of the same name
  0  Q   write of the pinned point      8 Q its number      16 Q label time of the clone's moment, ns
 24  Q   when it was made, ns          32 16s identity      48 I stage (``CloneStage``)
 52  I   bytes of the name             56 I of the path     60 I of the moment's text
 64      name, path (empty: in ``clones/``), moment

DROP_CLONE (109): the name
ORIGIN (110): empty: independent from now on
  0 16s  the parent's volume id        16 16s identity      32 Q write of the pinned point
 40  Q   blocks below this are the clone's own              48 I bytes of the parent's name
 52  I   of its directory              56 I of the moment's text    60 I 1: it is being detached
 64      name, directory, moment
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.errors import Damaged

CLONE: Final = 108
DROP_CLONE: Final = 109
ORIGIN: Final = 110
_CLONE = struct.Struct("<QQQQ16sIIII")
_ORIGIN = struct.Struct("<16s16sQQIIII")

assert _CLONE.size == _ORIGIN.size == 64


class CloneStage(IntEnum):
    """How far a clone is there. MAKING: its directory may be no volume yet; DROPPING: none any more."""

    MAKING = 0
    MADE = 1
    DROPPING = 2


@dataclass(frozen=True, slots=True)
class CloneRecord:
    """A clone of this volume, which pins the point ``point`` at ``write``. ``path``: its directory, "" for the one
    of its name in ``clones/``. ``moment``: the text of the moment that was asked for, whose label is
    ``time_ns``. ``identity``: in the clone's manifest too."""

    name: str
    write: WriteNumber
    point: int
    time_ns: int
    made_ns: int
    identity: bytes
    stage: CloneStage
    moment: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class CloneOrigin:
    """Over what a clone lies: the point at ``write`` of the volume ``parent``, found in ``directory``.
    Blocks below ``own_below`` are in the clone's image whatever their digests say. ``detaching``: it is being
    made independent."""

    volume: bytes
    identity: bytes
    write: WriteNumber
    parent: str
    directory: str
    moment: str = ""
    own_below: int = 0
    detaching: bool = False


@dataclass(frozen=True, slots=True)
class CloneFacts:
    """``records``: clones of this volume, oldest first. ``origin``: None unless this is a clone itself."""

    records: tuple[CloneRecord, ...] = ()
    origin: CloneOrigin | None = None

    def writes(self) -> set[WriteNumber]:
        """The points that are pinned for clones."""
        return {record.write for record in self.records}

    def named(self, name: str) -> CloneRecord | None:
        """The record of the clone of this name."""
        return next((record for record in self.records if record.name == name), None)


NO_CLONES: Final = CloneFacts()


def pack_clone(record: CloneRecord) -> bytes:
    """CLONE."""
    texts = [text.encode() for text in (record.name, record.path, record.moment)]
    head = _CLONE.pack(
        record.write, record.point, record.time_ns, record.made_ns, record.identity, record.stage, *map(len, texts)
    )
    return head + b"".join(texts)


def pack_origin(origin: CloneOrigin | None) -> bytes:
    """ORIGIN."""
    if origin is None:
        return b""
    texts = [text.encode() for text in (origin.parent, origin.directory, origin.moment)]
    head = _ORIGIN.pack(
        origin.volume, origin.identity, origin.write, origin.own_below, *map(len, texts), origin.detaching
    )
    return head + b"".join(texts)


def cloned(facts: CloneFacts, kind: int, body: bytes) -> CloneFacts:
    """The facts after CLONE, DROP_CLONE or ORIGIN. Damaged: the edit is not whole."""
    try:
        if kind == ORIGIN:
            return replace(facts, origin=_origin(body) if body else None)
        gone = body.decode() if kind == DROP_CLONE else _record(body).name
        others = tuple(each for each in facts.records if each.name != gone)
        return replace(facts, records=others if kind == DROP_CLONE else (*others, _record(body)))
    except (ValueError, struct.error) as error:
        cause = "What the manifest says of a clone is not whole."
        raise Damaged("manifest-damaged", cause, "Restore it from a mirror.") from error


def clone_edits(facts: CloneFacts) -> Iterator[tuple[int, bytes]]:
    """The facts as edits: kind and body."""
    for record in facts.records:
        yield CLONE, pack_clone(record)
    if facts.origin is not None:
        yield ORIGIN, pack_origin(facts.origin)


def _record(body: bytes) -> CloneRecord:
    write, point, time_ns, made_ns, identity, stage, *lengths = _CLONE.unpack_from(body)
    name, path, moment = _texts(body, _CLONE.size, lengths)
    return CloneRecord(
        name, WriteNumber(write), point, time_ns, made_ns, identity, CloneStage(stage), moment, path
    )


def _origin(body: bytes) -> CloneOrigin:
    volume, identity, write, own_below, *lengths, detaching = _ORIGIN.unpack_from(body)
    parent, directory, moment = _texts(body, _ORIGIN.size, lengths)
    return CloneOrigin(volume, identity, WriteNumber(write), parent, directory, moment, own_below, bool(detaching))


def _texts(body: bytes, at: int, lengths: list[int]) -> list[str]:
    if at + sum(lengths) != len(body):
        raise ValueError("the counts are wrong")
    texts = []
    for length in lengths:
        texts.append(body[at : at + length].decode())
        at += length
    return texts
