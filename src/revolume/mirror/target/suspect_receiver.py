"""Marks that a target receives: durable, with those of earlier comparisons, before they are answered."""

from __future__ import annotations

from typing import Protocol

from revolume.mirror.link import Link
from revolume.mirror.wire.frames import ProtocolError, Type
from revolume.mirror.wire.session_messages import pack_number
from revolume.mirror.wire.suspect_messages import MARKS_ROWS_MAX, SuspectPart, unpack_suspect_part
from revolume.mirror.wire.version import COMPARISON
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_rows import joined


class MarksStore(Protocol):
    """Where they go."""

    @property
    def differs_since(self) -> int:
        """The point at which its root was found to differ from its source's; 0: it does not."""

    async def add_marks(self, marks: Marks) -> None:
        """They are durable when it returns."""

    async def proved_equal(self, point: int) -> None:
        """At this point the copy is what it should be: durable when it returns. Refused: it does not stand
        there."""


class SuspectReceiver:
    """Of one link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._store: MarksStore | None = None
        self._version = 0
        self._parts: list[SuspectPart] = []
        self._told = 0

    def begin(self, store: MarksStore, version: int) -> None:
        """The copy mirrors from now on, over a link of this version."""
        self._store, self._version = store, version
        self.tell()

    def tell(self) -> None:
        """Tell the source if the copy has been found to differ from it, or to be equal again. An older one does
        not ask."""
        since = 0 if self._store is None else self._store.differs_since
        if since != self._told and self._version >= COMPARISON:
            self._told = since
            self._link.send_control(Type.DIVERGED, pack_number(since))

    def frame(self, body: memoryview) -> None:
        """The body of a SUSPECT frame."""
        assert self._store is not None
        part = unpack_suspect_part(body)
        if part.equal:
            self._link.spawn(self._equal(part, self._store))
            return
        if self._parts and part.number != self._parts[0].number:
            raise ProtocolError("Other marks have begun before the last ones had all come.")
        self._parts.append(part)
        if sum(len(each.rows) for each in self._parts) > MARKS_ROWS_MAX:
            raise ProtocolError(f"More than {MARKS_ROWS_MAX} rows of marks.")
        if part.last:
            parts, self._parts = self._parts, []
            self._link.spawn(self._add(parts, self._store))

    async def _equal(self, part: SuspectPart, store: MarksStore) -> None:
        await store.proved_equal(part.point)
        self.tell()
        self._link.send_control(Type.SUSPECT_AT, pack_number(part.number))

    async def _add(self, parts: list[SuspectPart], store: MarksStore) -> None:
        first = parts[0]
        rows = joined(each.rows for each in parts)
        if len(rows):
            now_ns = self._link.host.clock.wall_ns()
            await store.add_marks(Marks(first.reign, first.point, now_ns, first.cause, rows))
        self._link.send_control(Type.SUSPECT_AT, pack_number(first.number))
