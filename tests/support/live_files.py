"""The files of a volume that is being served: a fold may remove any of them between the look and the read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def names(directory: Path, pattern: str = "**/*") -> list[Path]:
    """Files that match, sorted."""
    return sorted(path for path in directory.glob(pattern) if path.is_file())


def contents(directory: Path, pattern: str = "**/*") -> Iterator[tuple[Path, bytes]]:
    """Each file that is still there, in the order of their names."""
    for path in names(directory, pattern):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        yield path, content


def taken(directory: Path) -> tuple[int, int]:
    """Bytes on the disk, and files."""
    found = list[os.stat_result]()
    for path in names(directory):
        try:
            found.append(path.stat())
        except FileNotFoundError:
            continue
    return sum(each.st_blocks * 512 for each in found), len(found)
