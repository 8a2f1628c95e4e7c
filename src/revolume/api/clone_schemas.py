"""The JSON of clones; what is common to all JSON says ``schemas.py``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CloneOrder:
    """A clone that is asked for: of ``moment`` (a text), in the directory ``at``, "" for the one of its name in
    the volume's ``clones/``. ``suspect``: also of a moment that is known to be suspect."""

    name: str
    moment: str = "now"
    at: str = ""
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class CloneSchema:
    """A clone. ``moment``: as it was asked for; ``write`` and ``point``: the point at or before it that is pinned
    in the parent. ``reason``: why it is not open. ``size``: 0 unless it is open. ``rescued_bytes``: what folds
    have copied so that the point stays. ``detaching``: it is being made independent."""

    name: str
    directory: str
    moment: str
    write: int
    point: int
    time_ns: int
    time: str
    made_ns: int
    made: str
    open: bool
    reason: str
    size: int
    rescued_bytes: int
    detaching: bool
