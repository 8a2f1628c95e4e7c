"""Of all transfers that lie in a log's files, those that led to its newest state.

There may be others: of uses of a segment that are over, and behind the place where an opening after a crash
ended the log and went on from there. So the chain is followed from the newest transfer back, each naming the
checksum of the one before it. Where that one is missing, the walk goes on from the newest that can have come
before; what lies behind such a gap still happened, if the gap was durable. If it was not, it was never
promised, and neither was anything behind it: the log ends before it, as an opening would have it.

NodeHeader records stand outside the chain, and are left out: what they hold is found by its digest, where it is
missed.
"""

from __future__ import annotations

from collections.abc import Mapping

from revolume.blocks.numbers import Position
from revolume.log.format.transfer import Kind
from revolume.log.read.scan import FoundTransfer, complete_prefix, payload_holds


def lineage(found: list[FoundTransfer], durable: Position, begins: Mapping[int, Position]) -> list[FoundTransfer]:
    """The transfers that led to the newest state, in log order. ``durable``: a position known to be durable.
    ``begins``: epoch number to the position after which the epoch began, as far as known."""
    chained = [one for one in found if one.transfer.kind != Kind.LOCAL_BLOCKS]
    standing = _ChainWalk(chained, durable, begins).back()
    for number, one in enumerate(standing):
        if one.transfer.position > durable and not _payload_is_valid(one):
            return complete_prefix(standing[:number])
    return complete_prefix(standing)


class _ChainWalk:
    def __init__(self, chained: list[FoundTransfer], durable: Position, begins: Mapping[int, Position]) -> None:
        self._durable = durable
        self._begins = begins
        self._ordered = sorted(
            chained, key=lambda one: (one.transfer.epoch, one.transfer.position, one.segment.use)
        )
        self._copies: dict[bytes, list[FoundTransfer]] = {}
        for one in self._ordered:
            self._copies.setdefault(one.transfer.chain, []).append(one)

    def back(self) -> list[FoundTransfer]:
        standing: list[FoundTransfer] = []
        at = self._whole(self._ordered.pop().transfer.chain) if self._ordered else None
        while at is not None:
            standing.append(at)
            before = self._whole(at.transfer.previous) or self._newest_before(at)
            if before is not None and self._durable < before.transfer.position + 1 < at.transfer.position:
                standing.clear()
            at = before
        return standing[::-1]

    def _whole(self, chain: bytes) -> FoundTransfer | None:
        """The transfer with this chain checksum; of several copies one whose payload is valid. (An opening after a
        crash copies the end of the log. If power is lost meanwhile, either copy may be the valid one.)"""
        copies = self._copies.get(chain, [])
        return next((one for one in copies[:0:-1] if _payload_is_valid(one)), copies[0]) if copies else None

    def _newest_before(self, at: FoundTransfer) -> FoundTransfer | None:
        """The newest transfer that can have come before ``at``, where its direct predecessor is missing."""
        while self._ordered:
            one = self._ordered.pop()
            if one.transfer.epoch > at.transfer.epoch or one.transfer.position >= at.transfer.position - 1:
                continue
            begin = self._begins.get(at.transfer.epoch, at.transfer.position)
            if one.transfer.epoch == at.transfer.epoch or one.transfer.position <= begin:
                return self._whole(one.transfer.chain)
        return None


def _payload_is_valid(found: FoundTransfer) -> bool:
    try:
        return payload_holds(found)
    except OSError:
        return False
