"""Helper processes as they are: what is tested here is, among other things, how they start."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def helpers_are_forked() -> None:
    """They are not."""
