"""What happened, as one number: every event of disk, network and loop, in order, goes into a checksum.

Two runs of a seed are the same run if their checksums are; with ``kept`` lines the first difference can be read.
"""

from __future__ import annotations

import xxhash


class Trace:
    """The checksum so far. ``keep``: how many of the last lines are held for reading."""

    def __init__(self, keep: int = 0) -> None:
        self._sum = xxhash.xxh3_64()
        self._keep = keep
        self.now_ns = 0
        self.events = 0
        self.kept: list[str] = []

    def note(self, kind: str, *facts: object) -> None:
        """Add an event of this kind at the present virtual time to the checksum."""
        line = f"{self.now_ns} {kind} {facts}"
        self._sum.update(line.encode())
        self.events += 1
        if self._keep:
            self.kept.append(line)
            if len(self.kept) > 2 * self._keep:
                del self.kept[: -self._keep]

    @property
    def digest(self) -> int:
        """The checksum over everything so far."""
        return self._sum.intdigest()
