"""What is shown of a mirror at its source: plain values, now. It imports nothing heavy.

``source/progress_status.py`` derives it for a mirror that is served, ``recorded_status.py`` for one of which only
the manifest tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from revolume.blocks.numbers import Position


class MirrorState(StrEnum):
    """Where a mirror is in its life, in a word."""

    CONNECTING = "connecting"
    REFUSED = "refused"
    BASE = "base"
    DIFFERENCE = "difference"
    CATCHING_UP = "catching up"
    IN_SYNC = "in sync"
    LOST = "lost"
    NOT_SERVED = "not served"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    """A mirror as its source sees it; the JSON of the faces has the same names. ``state`` is a ``MirrorState``,
    ``reason`` the sentence that says why it is in it, ``waits`` says why clients' answers wait, or is empty;
    ``held_from_point``: the log behind this point is kept for the mirror.

    Bytes count since the source was opened: ``client_bytes`` were written, ``log_bytes`` sent for them and for
    points, ``point_bytes`` of those for points, whose references saved ``saved_bytes``; ``base_bytes``,
    ``difference_bytes`` and ``whole_bytes`` (blocks that the mirror asked for) come on top.

    ``node``: which copy has joined as this mirror, in hexadecimal, "" for none; ``level_at``: not 0 while it holds
    less than the position that it had acknowledged; ``refusals``: connections to it that ended in one, since this
    source was opened."""

    name: str
    address: str
    mode: str
    state: str
    reason: str
    waits: str
    required: bool
    joined: bool
    lost_seconds: float
    lag_seconds: float
    lag_bytes: int
    received: Position
    durable: Position
    agreed_point: int
    agreed_position: Position
    held_from_point: int
    base_fraction: float
    client_bytes: int
    log_bytes: int
    point_bytes: int
    base_bytes: int
    whole_bytes: int
    saved_bytes: int
    difference_bytes: int = 0
    order: str = ""
    """What was ordered of how it is brought up to date, and is not done yet, in words."""
    node: str = ""
    on_lost: str = "block"
    deadline_seconds: float = 0.0
    detached_ns: int = 0
    """Since when it is detached by deadline, by the wall clock; 0: it is not."""
    lease_seconds: float = 0.0
    """For how long it may take itself for in sync if it hears nothing more, margin included."""
    differs_since: int = 0
    """Not 0: at this point its copy was found to differ, and nothing has proved it equal since."""
    level_at: Position = Position(0)
    refusals: int = 0
    lacks: tuple[str, ...] = ()
    """Snapshots of the volume that are older than this mirror's history, and not on it."""
    older: str = ""
    """That the source retains moments that are older than this mirror's history, in a sentence; else empty."""
    left_bytes: int = 0
    """Until it has joined: what has to be sent, of its base and of the log, as far as it is known."""
    left_seconds: float | None = None
    """How long that takes at the present rate; None: nothing flows yet."""
    kept: str = ""
    """What is kept of the past for it: "log", what it lacks of it; "difference", what has changed since
    ``pin_point``; "regions", which blocks have, by its dirty region log; or "nothing"."""
    kept_log_bytes: int = 0
    kept_difference_bytes: int = 0
    pin_point: int | None = None
    cut_point: int | None = None
    """The point that was made when its link was lost, until it stands there."""
    cut_hold_ns: int = 0
    """How long writes were held for that; ``cut_hold_p99_ns``: for 99 of 100 of the last cuts of this volume."""
    cut_hold_p99_ns: int = 0
    verified_ns: int = 0
    """When its copy was last compared with this primary, by the wall clock; 0: never."""
    verified: str = ""
    """How, and how that ended, in words."""
