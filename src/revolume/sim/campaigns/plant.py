"""A planted bug: one patch of a few names, and who should notice it, within how many seeds."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.sim.kernel.monkeypatch import Patch


@dataclass(frozen=True, slots=True)
class Plant:
    """``patches``: (owner, name, what it becomes). ``world``: who should notice, within ``seeds``; where most of
    what happens there can't show it, the operator does only what can (``focus``)."""

    name: str
    story: str
    world: str
    seeds: int
    patches: tuple[Patch, ...]
    focus: str = ""
    """What the operator does, if not everything."""
    first: int = 0
    """The seed to try first: one that showed it. If it does not any more, the others do, or none."""
    told: str = ""
    """What names the broken promise: a seed that is wrong without these words has not caught it."""
