"""How much of a volume's past a new mirror gets. Apart, because the command line is parsed without numpy."""

from __future__ import annotations

from enum import StrEnum


class History(StrEnum):
    """How much of the past a new mirror gets."""

    NAMED = "named"
    """From the oldest snapshot on; without one, from now on."""
    ALL = "all"
    """Everything that is retained, as far as the log has room left for what is written meanwhile."""
    NONE = "none"
    """From now on."""
