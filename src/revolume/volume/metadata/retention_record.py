"""What the manifest knows of retention: the policy, how old the points are that the log does not know any more,
what was given up of them, and on which terms snapshots are kept.

KEEP_POLICY (98)  see ``keep_policy.py``
LIVED (99)        rows: Q write of a point, Q this copy's lived time when it was made, in ms
GIVEN_UP (100)    Q    the policy's points up to this lived time, in ms, are given up for want of room
TERMS (101)       0 Q  lived time at which the snapshot is dropped, in ms; 0: never     8 B held     9 7x zero
                 16    its name, UTF-8
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.volume.metadata.keep_policy import KeepPolicy, pack_policy, unpack_policy

KEEP_POLICY: Final = 98
LIVED: Final = 99
GIVEN_UP: Final = 100
TERMS: Final = 101
KINDS: Final = (KEEP_POLICY, LIVED, GIVEN_UP, TERMS)
_NUMBER: Final = struct.Struct("<Q")
_ROW: Final = struct.Struct("<QQ")
_TERMS: Final = struct.Struct("<QB7x")


@dataclass(frozen=True, slots=True)
class SnapshotTerms:
    """``expires_ms``: the lived time at which it is dropped, 0: never. ``held``: nobody drops it until it is
    released, nor does its end of time."""

    name: str
    expires_ms: int = 0
    held: bool = False


@dataclass(frozen=True, slots=True)
class RetentionRecord:
    """``policy``: None where an older release made the store. ``lived``: by the write of a point at which the
    image stood while the policy kept it, its lived time in ms; in order of age. ``given_up_ms``: the policy's
    points up to this lived time are given up; 0: none."""

    policy: KeepPolicy | None = None
    lived: dict[WriteNumber, int] = field(default_factory=dict)
    given_up_ms: int = 0
    terms: tuple[SnapshotTerms, ...] = ()

    def terms_of(self, name: str) -> SnapshotTerms:
        """Those of a snapshot; where nothing was said, it is kept until somebody drops it."""
        return next((terms for terms in self.terms if terms.name == name), SnapshotTerms(name))


NOTHING_KEPT: Final = RetentionRecord()


def pack_lived(rows: Iterable[tuple[int, int]]) -> bytes:
    """LIVED: write numbers with lived times."""
    return b"".join(_ROW.pack(*row) for row in rows)


def pack_given_up(lived_ms: int) -> bytes:
    """GIVEN_UP."""
    return _NUMBER.pack(lived_ms)


def pack_terms(terms: SnapshotTerms) -> bytes:
    """TERMS."""
    return _TERMS.pack(terms.expires_ms, terms.held) + terms.name.encode()


def retained(record: RetentionRecord, kind: int, body: bytes) -> RetentionRecord:
    """The record after one of these edits. ValueError, struct.error: it is not whole."""
    if kind == KEEP_POLICY:
        return replace(record, policy=unpack_policy(body))
    if kind == LIVED:
        known = {**record.lived, **{WriteNumber(write): lived for write, lived in _ROW.iter_unpack(body)}}
        return replace(record, lived=dict(sorted(known.items())))
    if kind == GIVEN_UP:
        return replace(record, given_up_ms=_NUMBER.unpack(body)[0])
    expires, held = _TERMS.unpack_from(body)
    terms = SnapshotTerms(body[_TERMS.size :].decode(), expires, bool(held))
    return replace(record, terms=(*_others(record.terms, terms.name), terms))


def without_terms(record: RetentionRecord, name: str) -> RetentionRecord:
    """Once the snapshot of this name is dropped."""
    return replace(record, terms=_others(record.terms, name)) if record.terms else record


def lived_only(record: RetentionRecord, writes: Collection[int]) -> RetentionRecord:
    """Of points at other writes nothing is known any more."""
    if all(write in writes for write in record.lived):
        return record
    return replace(record, lived={write: lived for write, lived in record.lived.items() if write in writes})


def _others(terms: tuple[SnapshotTerms, ...], name: str) -> tuple[SnapshotTerms, ...]:
    return tuple(each for each in terms if each.name != name)


def retention_edits(record: RetentionRecord) -> Iterator[tuple[int, bytes]]:
    """The whole record as edits, by their numbers."""
    if record.policy is not None:
        yield KEEP_POLICY, pack_policy(record.policy)
    if record.lived:
        yield LIVED, pack_lived(record.lived.items())
    if record.given_up_ms:
        yield GIVEN_UP, pack_given_up(record.given_up_ms)
    for terms in record.terms:
        if terms != SnapshotTerms(terms.name):
            yield TERMS, pack_terms(terms)
