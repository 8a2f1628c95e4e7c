"""No garbage collector while something simulated runs: when one runs is nobody's seed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

GARBAGE_MAX: Final = 10_000
"""Objects left behind, from which on it is worth collecting them: whole disks are among them."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect nothing before the end, and then what was left."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > GARBAGE_MAX:
            gc.collect()
        if enabled:
            gc.enable()
