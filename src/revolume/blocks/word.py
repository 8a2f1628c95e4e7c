"""The word: where a block's newest version lies, in 64 bits.

    bit 63..62  kind
    bit 61..0   address in the local log, strictly increasing along it (in fact below 2^60)

Because addresses only grow, the word answers two questions at once: where, and how new. Of two words for
one block the one with the higher address is the newer, whatever their kinds, and a bound on addresses cuts
a map into what is older and what is newer without rewriting it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

NONE = 0
"""Unknown here: look further down. The whole word is 0."""
DATA = 1
"""The block lies at the address."""
ZERO = 2
"""The block reads as zeroes; the address is that of the transfer that said so."""
PARTIAL = 3
"""The newest version lies in the partial buffer; the address is that of its newest fragment's transfer."""

KIND_SHIFT = 62
ADDRESS_MASK = (1 << KIND_SHIFT) - 1
ADDRESS_MAX = (1 << 60) - 1

_SHIFT = np.array(KIND_SHIFT, np.uint64)
_MASK = np.array(ADDRESS_MASK, np.uint64)


def pack(kind: int, address: int) -> int:
    """One word."""
    assert 0 <= kind <= PARTIAL and 0 <= address <= ADDRESS_MAX
    return kind << KIND_SHIFT | address


def unpack(word: int) -> tuple[int, int]:
    """(kind, address) of one word."""
    return word >> KIND_SHIFT, word & ADDRESS_MASK


def pack_all(kind: int, addresses: U64) -> U64:
    """Words of one kind."""
    words: U64 = addresses | np.uint64(kind << KIND_SHIFT)
    return words


def kinds(words: U64) -> U64:
    """The kind of every word."""
    found: U64 = words >> _SHIFT
    return found


def addresses(words: U64) -> U64:
    """The address of every word."""
    found: U64 = words & _MASK
    return found
