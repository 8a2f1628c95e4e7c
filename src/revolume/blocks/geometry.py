"""Blocks and bytes: the one place where an offset becomes a block number.

A block is 4 KiB, the unit of maps and references. Clients may write any bytes, so a write covers some
blocks wholly and at most two in part: its *head* (it begins inside a block) and its *tail* (it ends inside
one). A write that lies inside a single block is one head and no tail.
"""

from __future__ import annotations

BLOCK = 4096
BLOCK_SHIFT = 12

assert 1 << BLOCK_SHIFT == BLOCK


def ceil_div(number: int, divisor: int) -> int:
    """Division rounded up."""
    return -(-number // divisor)


def whole_blocks(offset: int, length: int) -> tuple[int, int]:
    """(first, count) of the blocks that the bytes cover wholly; count 0 where there are none."""
    first = (offset + BLOCK - 1) >> BLOCK_SHIFT
    return first, max(0, ((offset + length) >> BLOCK_SHIFT) - first)


def touched_blocks(offset: int, length: int) -> tuple[int, int]:
    """(first, count) of the blocks that the bytes touch at all."""
    first = offset >> BLOCK_SHIFT
    if not length:
        return first, 0
    return first, ((offset + length - 1) >> BLOCK_SHIFT) - first + 1


def fragments(offset: int, length: int) -> list[tuple[int, int, int]]:
    """(block, offset in it, length) of the partly covered blocks, head before tail: two at most."""
    end = offset + length
    first, last = offset >> BLOCK_SHIFT, end >> BLOCK_SHIFT
    if first == last:
        return [(first, offset & (BLOCK - 1), length)] if length else []
    found = []
    if inside := offset & (BLOCK - 1):
        found.append((first, inside, BLOCK - inside))
    if rest := end & (BLOCK - 1):
        found.append((last, 0, rest))
    return found
