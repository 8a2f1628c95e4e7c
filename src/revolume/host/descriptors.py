"""How many descriptors this process may have, and how they are divided.

A process without descriptors can neither read its log nor make a segment of it, so connections must not be able
to take the last ones: a quarter of the limit is never given to an accepted connection, and a quarter is what
the files of one directory that are only kept open for speed may take.
"""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Final

_FILES_MIN: Final = 8
_FILES_MAX: Final = 4096


def raise_limit() -> None:
    """As many as the system lets us have: the soft limit becomes the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Descriptors that this process may have; they are numbered from 0 to one less."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def files_kept_open() -> int:
    """Files of one directory that may be open at once although nobody needs them to be."""
    return max(_FILES_MIN, min(_FILES_MAX, limit() // 4))


def left_for_connections() -> bool:
    """Whether one connection more leaves enough descriptors for files. The kernel gives out the lowest free
    number, so that one tells how many are in use."""
    try:
        lowest = os.dup(2)
    except OSError:
        return False
    os.close(lowest)
    return lowest < limit() - max(_FILES_MIN, limit() // 4)
