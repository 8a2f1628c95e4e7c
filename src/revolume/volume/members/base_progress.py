"""What lacks to a whole copy while a mirror's base is under way, in words for any face."""

from __future__ import annotations

from revolume.log.transfer import BLOCK
from revolume.volume.manifest import State


def lacking(state: State) -> str:
    """What lacks to a whole copy, in one sentence: a mirror's base is under way. Else empty."""
    if state.base is None:
        return ""
    return base_words(state.name, state.base, -(-state.horizon.size // BLOCK))


def base_words(name: str, next_block: int, blocks: int) -> str:
    """How far the base of a mirror has come."""
    percent = 100 * next_block // max(1, blocks)
    return f"The base of {name} is not complete: {percent} % of it is here (block {next_block} of {blocks})."
