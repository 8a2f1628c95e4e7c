"""What may be preferred where a mirror can be brought up to date in more than one way, as words."""

from __future__ import annotations

from typing import Final

from revolume.errors import UsageError

PREFERENCES: Final = ("auto", "history", "bytes")
"""In the order of the link's numbers (``volume/metadata/resync_order.Prefer``)."""


def check_preference(word: str) -> str:
    """The word. UsageError: it is none."""
    if word not in PREFERENCES:
        raise UsageError("bad-preference", f"{word} is no preference.", "Give auto, history or bytes.")
    return word
