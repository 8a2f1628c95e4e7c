"""What a mirror durably knows of the source that it is bound to: the name on that source's certificate, the
largest transfer that the volume's log may have, and the position up to which it has acknowledged the log although
it does not hold it (any more).

A mirror's directory can be put back to an older state of itself, and its disk can lose what it had synced. Only
its source knows then what it had acknowledged, and says so when it connects. Until the mirror holds that much
again it proves nothing: what was answered on its word may be missing from it.
"""

from __future__ import annotations

from revolume.blocks.numbers import Position
from revolume.log.write.group_commit import GroupCommit
from revolume.volume.metadata.manifest_edits import EditKind, pack_number
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.node_edits import pack_source


class Bound:
    """What is known of the source of one mirror. ``commit``: of the mirror's own log."""

    def __init__(self, manifest: ManifestWriter, commit: GroupCommit) -> None:
        self._manifest = manifest
        self._commit = commit

    @property
    def source_name(self) -> str:
        """The name that the source's certificate must have; "" for any."""
        return self._manifest.state.source_name

    async def name_source(self, name: str) -> None:
        """From now on the source's certificate must have this name."""
        if name != self.source_name:
            await self._manifest.record((EditKind.SOURCE, pack_source(name)))

    @property
    def owes(self) -> Position:
        """Not 0: it had acknowledged the log up to this position as durable, and holds less."""
        owed = self._manifest.state.owes
        return owed if self._commit.durable < owed else Position(0)

    @property
    def yields(self) -> bool:
        """It was made a mirror by order, and no source has fed it since: it takes back what it wrote alone."""
        return self._manifest.state.yields

    async def follows(self) -> None:
        """A source feeds it from now on."""
        if self.yields:
            await self._manifest.record((EditKind.YIELDS, b""))

    async def told(self, acknowledged: Position) -> None:
        """The source says up to where this copy had acknowledged the log as durable."""
        if acknowledged > max(self._commit.durable, self._manifest.state.owes):
            await self._manifest.record((EditKind.OWES, pack_number(acknowledged)))

    async def bounded(self, largest_blocks: int) -> None:
        """The source says how many blocks the volume's largest transfer may take: this copy, once promoted, writes
        none that is larger. Its own log has none either, since what it has is of the source's. The number differs
        from the one known here only where a release that did not record it has made the copy, or was primary."""
        if largest_blocks != self._manifest.state.largest_blocks:
            await self._manifest.record((EditKind.LARGEST, pack_number(largest_blocks)))

    @property
    def may_be_detached(self) -> bool:
        """This copy has recorded that it may be detached by deadline: it proves nothing without a lease."""
        state = self._manifest.state
        return any(member.deadline_ms for member in state.members if member.node == state.node)

    @property
    def why_no_proof(self) -> str:
        """A sentence, or "" if it holds all that it had acknowledged, and is a mirror still."""
        if self._manifest.state.detached:
            return detached_words(self._manifest.state)
        return why_no_proof(self._manifest.state, self._commit.durable) if self.owes else ""


def detached_words(state: State) -> str:
    """Of a mirror that its source has given up; "" of another."""
    if not state.detached:
        return ""
    return (
        f"This mirror was given up by its source (position {state.detached} of the log): answers have not waited "
        "for it since, and what was answered then is not here."
    )


def why_no_proof(state: State, held: Position) -> str:
    """Of a copy that holds the log durably up to ``held``, and owes more."""
    if required := [mirror.name for mirror in state.mirrors if mirror.required]:
        return (
            f"This copy was a primary that was not stopped cleanly, and its required mirrors "
            f"({', '.join(required)}) were not asked for the end of the log: what was answered may be there alone."
        )
    return (
        f"This mirror holds the log durably up to position {held}, and had acknowledged {state.owes}: its "
        "directory is an older state of itself, or its disk lost what it had synced."
    )
