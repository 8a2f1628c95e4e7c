"""What a copy lacks while a mirror's base is under way, in words."""

from __future__ import annotations

from revolume.blocks.geometry import BLOCK
from revolume.volume.metadata.manifest_state import State


def lacking(state: State) -> str:
    """What the copy lacks, in one sentence, while its base is under way; else empty."""
    if state.base is None:
        return ""
    return base_words(state.name, state.base, -(-state.horizon.size // BLOCK))


def base_words(name: str, next_block: int, blocks: int) -> str:
    """How far the base of a mirror has come."""
    percent = 100 * next_block // max(1, blocks)
    return f"The base of {name} is not complete: {percent} % of it is here (block {next_block} of {blocks})."
