"""What a volume says of its scrubs: plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """``under_way``: a pass has begun and not ended, also while it rests; ``running``: it is being read now. Bytes
    of it, of about so many; places found damaged, and those of them that were healed; ``rate``: bytes a second at
    most, 0 for no limit of its own. Then the same of the last pass that came to its end; times in ns since 1970,
    0: there was none."""

    running: bool
    under_way: bool
    stage: str
    started_ns: int
    bytes_read: int
    bytes_total: int
    damaged: int
    healed: int
    rate: int
    last_started_ns: int
    last_ended_ns: int
    last_bytes_read: int
    last_damaged: int
    last_healed: int
