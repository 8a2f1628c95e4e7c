"""Of all transfers that lie in a log's files, those that led to its newest state.

There may be others: of uses of a segment that are over, and behind the place where an opening after a crash
ended the log and went on from there. So the chain is followed from the newest transfer back, each naming the
checksum of the one before it. Where that one is missing, the walk goes on from the newest that can have come
before; what lies behind such a gap still happened, if the gap was durable. If it was not, it was never
promised, and neither was anything behind it: the log ends before it, as an opening would have it.
"""

from __future__ import annotations

from revolume.log.scan import Found, chain_behind, complete_prefix, payload_holds
from revolume.log.transfer import Kind


def lineage(found: list[Found], durable: int) -> list[Found]:
    """In the log's order, with the local records that belong between them."""
    chained = [one for one in found if one.transfer.kind != Kind.FIXUP]
    standing = _promised(_walked_back(chained, durable), durable)
    chains = {chain_behind(one.transfer) for one in standing}
    fixed = [one for one in found if one.transfer.kind == Kind.FIXUP and one.transfer.previous in chains]
    return sorted(standing + fixed, key=lambda one: (one.transfer.position, one.transfer.kind == Kind.FIXUP))


def _walked_back(chained: list[Found], durable: int) -> list[Found]:
    """Newest first of those at the same position: an opening after a crash has written the end of the log once
    more."""
    ordered = sorted(chained, key=lambda one: (one.transfer.epoch, one.transfer.position, one.segment.use))
    by_chain = {one.transfer.chain: one for one in ordered}
    standing: list[Found] = []
    at = ordered.pop() if ordered else None
    while at is not None:
        standing.append(at)
        before = by_chain.get(at.transfer.previous) or _newest_before(ordered, at)
        if before is not None and durable < before.transfer.position + 1 < at.transfer.position:
            standing.clear()
        at = before
    return standing[::-1]


def _newest_before(ordered: list[Found], at: Found) -> Found | None:
    """The newest that can have come before ``at``, not directly. Those behind it are not looked at again."""
    while ordered:
        one = ordered.pop()
        if one.transfer.epoch <= at.transfer.epoch and one.transfer.position < at.transfer.position - 1:
            return one
    return None


def _promised(standing: list[Found], durable: int) -> list[Found]:
    """Without a torn end, and without a write at the end of which only the first parts arrived."""
    for number, one in enumerate(standing):
        if one.transfer.position > durable and not _holds(one):
            return complete_prefix(standing[:number])
    return complete_prefix(standing)


def _holds(found: Found) -> bool:
    try:
        return payload_holds(found)
    except OSError:
        return False
