"""Constants and functions of the code, exchanged for as long as something runs: smaller pieces, planted bugs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Patch = tuple[Any, str, Any]
"""Owner, name, and what stands there instead."""


@contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """The code with these in it; afterwards it is what it was."""
    patches = list(patches)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
