"""What a mirror durably knows of the source that it is bound to: the name on that source's certificate, and the
position up to which it has acknowledged the log although it does not hold it (any more).

A mirror's directory can be put back to an older state of itself, and its disk can lose what it had synced. Only
its source knows then what it had acknowledged, and says so when it connects. Until the mirror holds that much
again it proves nothing: what was answered on its word may be missing from it.
"""

from __future__ import annotations

from revolume.volume.core import Core
from revolume.volume.manifest import EditKind, pack_number, pack_source


class Bound:
    """See the module's text."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def source_name(self) -> str:
        """The name that the source's certificate must have; "" for any."""
        return self._core.manifest.state.source_name

    async def name_source(self, name: str) -> None:
        """From now on the source's certificate must have this name."""
        if name != self.source_name:
            await self._core.recorder.record((EditKind.SOURCE, pack_source(name)))

    @property
    def owes(self) -> int:
        """Not 0: it had acknowledged the log up to this position as durable, and holds less."""
        owed = self._core.manifest.state.owes
        return owed if self._core.commit.durable < owed else 0

    async def told(self, acknowledged: int) -> None:
        """The source says up to where this copy had acknowledged the log as durable."""
        if acknowledged > max(self._core.commit.durable, self._core.manifest.state.owes):
            await self._core.recorder.record((EditKind.OWES, pack_number(acknowledged)))

    @property
    def why_no_proof(self) -> str:
        """A sentence, or "" if it holds all that it had acknowledged."""
        if not self.owes:
            return ""
        return (
            f"This mirror holds the log durably up to position {self._core.commit.durable}, and had acknowledged "
            f"{self.owes}: its directory is an older state of itself, or its disk lost what it had synced."
        )
