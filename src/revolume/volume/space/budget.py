"""The smallest budget for history that makes sense."""

from __future__ import annotations

from typing import Final

from revolume.errors import UsageError

BUDGET_SEGMENTS: Final = 4


def refuse_small_budget(budget_bytes: int, segment_bytes: int) -> None:
    """UsageError for a budget in which the log could not even turn round."""
    least = BUDGET_SEGMENTS * segment_bytes
    if budget_bytes < least:
        raise UsageError(
            "budget-too-small",
            f"A budget of {budget_bytes} bytes is too small for segments of {segment_bytes} bytes.",
            f"Give {least} bytes or more; a new volume may have smaller segments (--segment-size).",
        )


def refuse_less_than_an_interval(budget_bytes: int, interval_bytes: int) -> None:
    """UsageError for one in which what is written between two points has no room."""
    if budget_bytes < interval_bytes:
        raise UsageError(
            "budget-too-small",
            f"A budget of {budget_bytes} bytes is less than what is written between two points now, "
            f"{interval_bytes} bytes.",
            "Give more, or serve it with a shorter --cp-interval.",
        )
