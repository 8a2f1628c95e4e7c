"""Reaching a volume: over its control socket while it runs, else in its directory.

Both ways answer the same questions with the same JSON (``api.shapes``), so a verb does not know which it
got. A stopped volume is only looked at for questions, and opened as its primary for what changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from revolume.cli.target import existing


class Reached(Protocol):
    """A volume that answers, running or not."""

    def status(self) -> dict[str, Any]: ...
    def points(self, at: str | None = None) -> dict[str, Any]: ...
    def snapshots(self) -> list[dict[str, Any]]: ...


class Opened(Reached, Protocol):
    """A volume that can be changed."""

    def snapshot(self, name: str) -> dict[str, Any]: ...
    def drop_snapshot(self, name: str) -> None: ...
    def grow(self, size: int) -> int: ...


@contextmanager
def reach(directory: str) -> Iterator[Reached]:
    """The volume in ``directory``, to be asked. Raises NotFound, UsageError."""
    from revolume.api.client import connect

    client = connect(existing(directory))
    if client is not None:
        with client:
            yield client
    else:
        from revolume.cli.stopped import looked_at

        yield looked_at(directory)


@contextmanager
def change(directory: str) -> Iterator[Opened]:
    """The volume in ``directory``, to be changed. Raises NotFound, UsageError."""
    from revolume.api.client import connect

    client = connect(existing(directory))
    if client is not None:
        with client:
            yield client
    else:
        from revolume.cli.stopped import opened

        with opened(directory) as volume:
            yield volume
