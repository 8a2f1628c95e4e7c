"""A block's location: where its newest version lies, and how new it is, in one 64-bit number (a *word*).

    bit 63..62  kind
    bit 61..0   address in the local log, strictly increasing along it (in fact below 2^60)

Addresses only grow, so a location answers two questions at once, *where* and *how new*. Who uses which:

**Place**: whoever reads. ``livemap/reader.py`` and ``image/fold_job.py`` read the block at the address;
``points/compose.py`` makes references of addresses, and ``chain/reference_resolver.py`` looks them up.

**Order**: whoever keeps maps. Of two locations of one block the one with the higher address is the newer,
whatever their kinds, so a bound on addresses cuts a map into older and newer without rewriting it:
``Overlay.forget_below``, ``Ranges.without_below``, a live map's ``folded`` (what lies below the horizon's cut is
in the image), an interval's ``begin``, ``apply_zero_ranges`` in ``livemap/live_map.py``, ``ChangedSince`` in
``history/allocation.py``.

**Where the address does not tell the order.** Some versions lie behind writes that are newer than they are. Each
place that meets one says how it tells the age instead:

    what                                            told by
    partial blocks that a point's record carries    the point's cut: ``LiveMap.relocate`` puts them only
                                                    where nothing newer than the cut is known
    blocks sent whole to a mirror (LOCAL_BLOCKS)           the same, by the point that asked for them
    both, met by the next point                     ``Interval.note_old`` is told that they are old
    both, met by a bitmap of changes                ``ChangedSince`` leaves out the record's own addresses
    entries of a map file under a zero range        the map's cut: ``over_base``; within one map an entry wins
    a mirror's zero runs                            they stand just below their point's cut
    versions out of many transfers and records      write numbers, not addresses: ``chain/versions.py``
    a primary's lost blocks, carried on             ``LiveMap.carry_forward``: part of the open interval again

A place that compares addresses and is not in this list relies on the order; a new kind of version has to keep the
rule (get a fresh address) or be added here.
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

RESCUED = 1 << 61
"""Addresses from here on are not in the log: the block lies in a rescue file (``volume/rescue/``), whose number
stands above ``RESCUED_SHIFT`` and the block's index in it below. They never tell an order."""
RESCUED_SHIFT = 32

DATA_WORD, ZERO_WORD, PARTIAL_WORD = (kind << KIND_SHIFT for kind in (DATA, ZERO, PARTIAL))
"""The location of each kind with address 0: an address is added with ``|``."""

_SHIFT = np.array(KIND_SHIFT, np.uint64)
_MASK = np.array(ADDRESS_MASK, np.uint64)


def pack(kind: int, address: int) -> int:
    """One location."""
    assert 0 <= kind <= PARTIAL and 0 <= address <= ADDRESS_MAX
    return kind << KIND_SHIFT | address


def unpack(word: int) -> tuple[int, int]:
    """(kind, address) of one location."""
    return word >> KIND_SHIFT, word & ADDRESS_MASK


def pack_all(kind: int, addresses: U64) -> U64:
    """Locations (uint64) of one kind, one for each of ``addresses``."""
    words: U64 = addresses | np.uint64(kind << KIND_SHIFT)
    return words


def rescued_address(file: int, index: int) -> int:
    """The address of a block in a rescue file."""
    assert 0 <= file < 1 << 29 and 0 <= index < 1 << RESCUED_SHIFT
    return RESCUED | file << RESCUED_SHIFT | index


def kinds(words: U64) -> U64:
    """The kind of each location (uint64)."""
    found: U64 = words >> _SHIFT
    return found


def addresses(words: U64) -> U64:
    """The address of each location (uint64)."""
    found: U64 = words & _MASK
    return found
