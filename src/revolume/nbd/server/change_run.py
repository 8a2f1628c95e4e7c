"""The changes of a batch that were sorted and are not appended yet: what will be one ``Export.append``."""

from __future__ import annotations

from typing import Final

from revolume.log.write.operations import OP_WRITE, Op
from revolume.nbd.wire.requests import FUA_BIT, Request

OPS_MAX: Final = 256
"""Changes in one ``append``: what one call adds to a map stays small whatever a client sends."""

_EMPTY: Final = memoryview(b"")


class ChangeRun:
    """Operations and the tokens of their requests. The loop over a batch's requests appends to ``ops`` and
    ``plain`` directly, to spare a call for each write."""

    __slots__ = ("fua", "ops", "plain", "received_bytes", "view")

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.plain: list[bytes] = []  # tokens of changes that are answered once they are released
        self.fua: list[bytes] = []  # tokens of changes that are answered once they are durable
        self.view = _EMPTY  # the receive buffer in which the batch lies, payloads included
        self.received_bytes = 0  # in which requests came that are not yet counted as unanswered

    def end_batch(self) -> None:
        """No request of the batch needs its bytes any more."""
        self.view = _EMPTY
        self.received_bytes = 0  # of reads, flushes and the like: no payload of theirs is kept

    def add(self, request: Request, op: int) -> None:
        """Add one change of any kind, FUA or not."""
        kind, token, offset, length, place = request
        payload = self.view[place : place + length] if op == OP_WRITE else None
        self.ops.append((op, offset, length, payload))
        (self.fua if kind & FUA_BIT else self.plain).append(token)

    def clear(self) -> list[bytes]:
        """Drop all changes; the tokens that were to be answered."""
        tokens = self.plain + self.fua
        self.ops.clear()
        self.plain.clear()
        self.fua.clear()
        return tokens
