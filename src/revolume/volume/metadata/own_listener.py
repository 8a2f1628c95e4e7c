"""Where this node listens for the nodes of the other copies, kept so that it listens there again."""

from __future__ import annotations

from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Listener
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.node_edits import pack_listener


async def record_listener(manifest: ManifestWriter, listener: Listener) -> None:
    """From now on this node listens there."""
    if listener != manifest.state.listener:
        await manifest.record((EditKind.LISTENER, pack_listener(listener)))
