"""Room for large tables of which often little is used."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt


def reserved(count: int) -> npt.NDArray[np.uint64]:
    """An array of ``count`` zeroes (uint64) that takes memory in small pages, as they are touched. (numpy asks for
    huge pages, and the first touch of one was seen to take two milliseconds.)"""
    return np.frombuffer(mmap.mmap(-1, count * 8), np.uint64)
