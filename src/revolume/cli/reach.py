"""Reaching a volume: over its control socket while it runs, else by opening its directory.

Both ways answer the same questions with the same JSON (``api.shapes``), so a verb does not know which it
got. A stopped volume is opened only to read for questions, and as its primary for what changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from revolume.cli.target import existing


class Reach(Protocol):
    """A volume that answers, running or not."""

    def status(self) -> dict[str, Any]: ...
    def points(self, at: str | None = None) -> dict[str, Any]: ...
    def snapshots(self) -> list[dict[str, Any]]: ...
    def snapshot(self, name: str) -> dict[str, Any]: ...
    def drop_snapshot(self, name: str) -> None: ...
    def grow(self, size: int) -> int: ...


@contextmanager
def reach(directory: str, *, write: bool = False) -> Iterator[Reach]:
    """The volume in ``directory``; ``write`` if what is asked changes it. Raises NotFound, UsageError."""
    from revolume.api.client import connect

    client = connect(existing(directory))
    if client is not None:
        with client:
            yield client
        return
    from revolume.cli.stopped import opened

    with opened(directory, write=write) as stopped:
        yield stopped
