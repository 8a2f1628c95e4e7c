"""A moment within a branch, as the manifest has it."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import WriteNumber


@dataclass(frozen=True, slots=True)
class BranchMoment:
    """A moment within a branch that had a name there: after ``write``, point ``point``, at ``time_ns``; ``size``:
    the volume's then, in bytes. ``table``: its number in ``branches/``, which names ``blocks``."""

    name: str
    write: WriteNumber
    point: int
    time_ns: int
    size: int
    table: int
    blocks: int
