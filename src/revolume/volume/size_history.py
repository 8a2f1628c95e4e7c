"""The size of a volume at every retained write."""

from __future__ import annotations

from collections.abc import Iterable

from revolume.blocks.numbers import WriteNumber


class SizeHistory:
    """Sizes in bytes by the write from which on they hold, oldest first. The first holds from the horizon on."""

    def __init__(self, size: int, changes: Iterable[tuple[WriteNumber, int]] = ()) -> None:
        self._sizes = [(WriteNumber(0), size), *changes]

    @property
    def now(self) -> int:
        """The newest size."""
        return self._sizes[-1][1]

    @property
    def changed_at(self) -> WriteNumber:
        """The write that made the newest size; 0: none that is retained."""
        return self._sizes[-1][0]

    def at(self, write: WriteNumber) -> int:
        """The size as of a retained write."""
        return [size for at, size in self._sizes if at <= write][-1]

    def grow(self, write: WriteNumber, size: int) -> None:
        """From this write on, the newest, it is ``size``."""
        self._sizes.append((write, size))
