"""A verb's client of a volume: over its control socket while it runs, else in its directory.

Both ways answer the same questions with the same JSON (``api/schemas.py``), so a verb does not know which it
got. A stopped volume is only looked at for questions, and opened as its primary for what changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from revolume.cli.target import existing


class ReadClient(Protocol):
    """A volume that answers, running or not."""

    def status(self) -> dict[str, Any]: ...
    def points(self, at: str | None = None) -> dict[str, Any]: ...
    def snapshots(self) -> list[dict[str, Any]]: ...
    def proofs(self) -> list[dict[str, Any]]: ...
    def kept(self) -> dict[str, Any]: ...


class AdminClient(ReadClient, Protocol):
    """A volume that can be changed."""

    def keep(self, **order: str | int | bool | None) -> dict[str, Any]: ...
    def snapshot(self, name: str, expires_s: float = 0.0) -> dict[str, Any]: ...
    def hold_snapshot(self, name: str, held: bool) -> None: ...
    def drop_snapshot(self, name: str) -> None: ...
    def make_clone(self, name: str, moment: str, at: str = "", suspect: bool = False) -> dict[str, Any]: ...
    def drop_clone(self, name: str) -> None: ...
    def grow(self, size: int) -> int: ...


@contextmanager
def read_client(directory: str) -> Iterator[ReadClient]:
    """The volume in ``directory``, to be asked. Raises NotFound, UsageError."""
    from revolume.api.client import connect

    client = connect(existing(directory))
    if client is not None:
        with client:
            yield client
    else:
        from revolume.cli.offline_client import offline_read_client

        yield offline_read_client(directory)


@contextmanager
def admin_client(directory: str) -> Iterator[AdminClient]:
    """The volume in ``directory``, to be changed. Raises NotFound, UsageError."""
    from revolume.api.client import connect

    client = connect(existing(directory))
    if client is not None:
        with client:
            yield client
    else:
        from revolume.cli.offline_client import offline_admin_client

        with offline_admin_client(directory) as volume:
            yield volume
