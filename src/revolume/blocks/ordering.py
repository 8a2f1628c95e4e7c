"""Sorted columns: the order of keys, the first or last of equal ones, membership in a sorted column.

Every map of blocks is a set of parallel columns in ascending order of block. What makes one from a journal, or two
into one, is a stable order and the choice of one entry for each block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

FEW = 1024
"""Below this many keys the plain stable sort is as fast."""


def stable_order(keys: U64) -> I64:
    """The indexes that sort ``keys``; equal keys stay in their order. One sort of single numbers (key, index) is
    several times as fast as a stable sort of indexes, where both fit 64 bits."""
    if len(keys) < FEW:
        return np.argsort(keys, kind="stable")
    bits = (len(keys) - 1).bit_length()
    if int(keys.max()) >> (64 - bits):
        return np.argsort(keys, kind="stable")
    numbers = keys << np.uint64(bits) | np.arange(len(keys), dtype=np.uint64)
    numbers.sort()
    return (numbers & np.uint64((1 << bits) - 1)).astype(np.int64)


def ascends(keys: U64) -> bool:
    """Whether every key is greater than the one before it."""
    return bool((keys[1:] > keys[:-1]).all())


def distinct(keys: U64) -> U64:
    """Every key once, ascending. (``np.unique`` goes by a hash table, several times as slow for numbers.)"""
    if ascends(keys):
        return keys
    ordered = np.sort(keys)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    found: U64 = ordered[first]
    return found


def last_of_each(keys: U64) -> I64:
    """The index of the last occurrence of every key, in order of key."""
    return _last_in(keys, stable_order(keys)) if not ascends(keys) else np.arange(len(keys))


def last_in_runs(keys: U64) -> I64:
    """The same of a few ascending runs, one behind the other: the plain stable sort merges them in one pass."""
    return _last_in(keys, np.argsort(keys, kind="stable")) if not ascends(keys) else np.arange(len(keys))


def first_of_each(keys: U64) -> I64:
    """The index of the first occurrence of every key, in order of key."""
    if ascends(keys):
        return np.arange(len(keys))
    order = stable_order(keys)
    ordered = keys[order]
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]


def among(keys: U64, known: U64) -> npt.NDArray[np.bool_]:
    """Which of ``keys``, in any order, are in ``known``, which ascends."""
    if not len(known):
        return np.zeros(len(keys), bool)
    at = np.searchsorted(known, keys)
    at[at == len(known)] = 0
    found: npt.NDArray[np.bool_] = known[at] == keys
    return found


def _last_in(keys: U64, order: I64) -> I64:
    ordered = keys[order]
    last = np.ones(len(ordered), bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return order[last]
