"""Waiting for a state, in place of a sleep that is long enough on an idle machine.

The time allowed is not what a test asserts: it is so long that only a state which never comes exceeds it, however
busy the machine is. What has to come within a time says so itself, and measures it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

SECONDS = 60
Found = TypeVar("Found")


def until(
    what: str, happened: Callable[[], Found], seconds: float = SECONDS, said: Callable[[], str] = str
) -> Found:
    """What ``happened`` returns once it is true; it is asked again and again. After so many seconds the test
    fails, with ``what``, and with what ``said`` returns then."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not (found := happened()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:.0f} s\n{said()}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    return found
