"""A disk of its own, and small, for one directory of a test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import kernel_lacks


@contextmanager
def small_disk_at(place: Path, size: int) -> Iterator[None]:
    """A tmpfs of so many bytes at ``place``, which is made; skipped where the kernel does not mount one."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if mounted.returncode:
        kernel_lacks(f"it does not mount a tmpfs: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
