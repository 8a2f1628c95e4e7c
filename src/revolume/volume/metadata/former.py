"""Who was the primary before."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Former:
    """The copy that was the primary and has handed over: its node id, and where it is found."""

    node: bytes
    address: str
