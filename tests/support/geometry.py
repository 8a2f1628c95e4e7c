"""Options of a volume under proof: each of them moves the places where a kill or a cut may fall."""

from __future__ import annotations

import random

SMALL = "48MiB"
"""A budget with which folding goes on all the time. What is remembered would hold the log: nothing is."""


def geometry(chance: random.Random, *, small: bool | None = None) -> tuple[str, ...]:
    """Small volumes' options, at random."""
    if small is None:
        small = chance.random() < 0.5
    return (
        "--segment-size", chance.choice(["1MiB", "2MiB", "8MiB"]),
        "--cp-interval", chance.choice(["100ms", "300ms", "1s", "3s"]),
        "--budget", SMALL if small else "3GiB",  # a named moment holds all that is written after it
        "--spare", chance.choice(["4MiB", "16MiB"]),
    )  # fmt: skip
