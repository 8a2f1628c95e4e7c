"""The volume root: equality of whole volumes, kept up to date by addition.

The root is a sum over all blocks of a term made from (block, digest), in two independent 64-bit lanes
modulo 2^64. A sum, so that a change costs one subtraction and one addition and the order of changes does
not matter; a mixed term, so that exchanging two blocks' contents changes it. Blocks that read as zeroes
contribute nothing, whether they were never written (digest 0) or written as zeroes (``ZERO_DIGEST``): two
volumes with equal contents have equal roots however they came to be.

It tells accidents apart, not attackers: XXH3 is not a cryptographic hash.

Lane: x = (digest ^ salt) + block · odd, then splitmix64's finaliser.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from revolume.blocks.digest import ZERO_DIGEST

U64 = npt.NDArray[np.uint64]
Root = tuple[int, int]

EMPTY: Root = (0, 0)
"""The root of a volume that reads as zeroes throughout."""

_MOD = (1 << 64) - 1
_ZERO = np.array(ZERO_DIGEST, np.uint64)
# Per lane: salt, odd multiplier of the block number, the finaliser's two multipliers (splitmix64, murmur3).
_LANES = (
    (0x243F6A8885A308D3, 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB),
    (0x13198A2E03707344, 0xD1342543DE82EF95, 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53),
)


def root_terms(blocks: U64, digests: U64) -> tuple[U64, U64]:
    """What each (block, digest) contributes to either lane; 0 where the block reads as zeroes."""
    empty = (digests == 0) | (digests == _ZERO)
    low, high = (_mixed(blocks, digests, *lane) for lane in _LANES)
    low[empty] = 0
    high[empty] = 0
    return low, high


def add(root: Root, blocks: U64, digests: U64) -> Root:
    """The root with these blocks added, each named once. ``blocks``, ``digests``: uint64, in any order."""
    low, high = root_terms(blocks, digests)
    return (root[0] + int(low.sum())) & _MOD, (root[1] + int(high.sum())) & _MOD


def combine(one: Root, other: Root) -> Root:
    """The root of blocks of which each is in one of the two."""
    return (one[0] + other[0]) & _MOD, (one[1] + other[1]) & _MOD


def subtract(root: Root, blocks: U64, digests: U64) -> Root:
    """The root with these blocks removed; the digests must be those with which they were added."""
    low, high = root_terms(blocks, digests)
    return (root[0] - int(low.sum())) & _MOD, (root[1] - int(high.sum())) & _MOD


def interval_digest(blocks: U64, digests: U64) -> int:
    """XXH3-64 over the little-endian columns, blocks ascending: what changed between two points."""
    assert len(blocks) == len(digests)
    state = xxhash.xxh3_64(np.ascontiguousarray(blocks, "<u8").data.cast("B"))
    state.update(np.ascontiguousarray(digests, "<u8").data.cast("B"))
    return state.intdigest()


def _mixed(blocks: U64, digests: U64, salt: int, odd: int, first: int, second: int) -> U64:
    mixed: U64 = (digests ^ np.uint64(salt)) + blocks * np.uint64(odd)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(first)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(second)
    mixed ^= mixed >> np.uint64(31)
    return mixed
