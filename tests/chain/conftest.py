"""A real directory for the files under test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.host.real.disk import RealDirectory, RealDisk


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RealDirectory]:
    opened = RealDisk().open(str(tmp_path))
    yield opened
    opened.close()
