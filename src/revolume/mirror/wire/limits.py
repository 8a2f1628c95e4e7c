"""How long the body of each type of frame may be: before that is known of a frame, nothing is allocated for it.

A session's table says which types may come in which of its states; ``expecting`` makes of that what
``Link.expected`` takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.mirror.wire.block_messages import BASE_BODY_MAX, BLOCK_REQUEST_BODY_MAX, BLOCKS_BODY_MAX
from revolume.mirror.wire.comparison_messages import (
    ASK_BODY_MAX,
    COMPARED_BODY_MAX,
    END_BODY_MAX,
    FIXED_BODY_MAX,
    FIXUP_AT_BODY_MAX,
    FIXUP_BODY_MAX,
    OPEN_BODY_MAX,
    OPENED_BODY_MAX,
)
from revolume.mirror.wire.examine_messages import EXAMINED_BYTES_MAX
from revolume.mirror.wire.frames import CHECK_SIZE, Type
from revolume.mirror.wire.greeting_messages import HELLO_BYTES_MAX, WELCOME_BYTES_MAX
from revolume.mirror.wire.handover_messages import ADDRESS_BYTES_MAX, HANDOVER
from revolume.mirror.wire.heal_messages import HEAL_ASK_BODY_MAX, HEALED_BODY_MAX
from revolume.mirror.wire.moment_messages import MOMENT_BODY_MAX
from revolume.mirror.wire.recall_messages import (
    MOMENTS_ASK_BODY_MAX,
    MOMENTS_BODY_MAX,
    RECALL_BODY_MAX,
    RECALLED_BODY_MAX,
)
from revolume.mirror.wire.session_messages import BASE_END, EPOCH, LEASE, LEASE_ASK, NUMBER, POSITIONS
from revolume.mirror.wire.suspect_messages import SUSPECT_BODY_MAX
from revolume.mirror.wire.tail_messages import FETCH, TAIL, TAIL_END

BODY_BYTES_MAX: Final[dict[Type, int]] = {
    Type.HELLO: HELLO_BYTES_MAX,
    Type.WELCOME: WELCOME_BYTES_MAX + CHECK_SIZE,
    Type.REFUSED: 4096,
    Type.BEGIN: 4 << 20,  # an opening of the volume takes 40 bytes of it
    Type.PING: CHECK_SIZE,
    Type.EPOCH: EPOCH.size + CHECK_SIZE,
    Type.SYNC: NUMBER.size + CHECK_SIZE,
    Type.POSITIONS: POSITIONS.size + CHECK_SIZE,
    Type.LEASE: LEASE.size + CHECK_SIZE,
    Type.LEASE_ASK: LEASE_ASK.size + CHECK_SIZE,
    Type.REQUEST_BLOCKS: BLOCK_REQUEST_BODY_MAX,
    Type.BLOCKS: BLOCKS_BODY_MAX,
    Type.BASE: BASE_BODY_MAX,
    Type.BASE_AT: NUMBER.size + CHECK_SIZE,
    Type.BASE_END: BASE_END.size + CHECK_SIZE,
    Type.BASE_DONE: NUMBER.size + CHECK_SIZE,
    Type.MOMENT: MOMENT_BODY_MAX,
    Type.MOMENT_AT: NUMBER.size + CHECK_SIZE,
    Type.HANDOVER: HANDOVER.size + ADDRESS_BYTES_MAX + CHECK_SIZE,
    Type.HANDED_OVER: CHECK_SIZE,
    Type.SUSPECT: SUSPECT_BODY_MAX,
    Type.SUSPECT_AT: NUMBER.size + CHECK_SIZE,
    Type.DIVERGED: NUMBER.size + CHECK_SIZE,
    Type.FETCH: FETCH.size + CHECK_SIZE,
    Type.TAIL: TAIL.size + CHECK_SIZE,
    Type.TAIL_END: TAIL_END.size + CHECK_SIZE,
    Type.EXAMINE: FETCH.size + CHECK_SIZE,
    Type.EXAMINED: EXAMINED_BYTES_MAX,
    Type.HEAL_ASK: HEAL_ASK_BODY_MAX,
    Type.HEALED: HEALED_BODY_MAX,
    Type.COMPARE_OPEN: OPEN_BODY_MAX,
    Type.COMPARE_OPENED: OPENED_BODY_MAX,
    Type.COMPARE_ASK: ASK_BODY_MAX,
    Type.COMPARED: COMPARED_BODY_MAX,
    Type.FIXUP: FIXUP_BODY_MAX,
    Type.FIXUP_AT: FIXUP_AT_BODY_MAX,
    Type.FIXED: FIXED_BODY_MAX,
    Type.COMPARE_END: END_BODY_MAX,
    Type.MOMENTS_ASK: MOMENTS_ASK_BODY_MAX,
    Type.MOMENTS: MOMENTS_BODY_MAX,
    Type.RECALL: RECALL_BODY_MAX,
    Type.RECALLED: RECALLED_BODY_MAX,
    Type.RECALL_BLOCKS: BLOCK_REQUEST_BODY_MAX,
    Type.RECALLED_BLOCKS: BLOCKS_BODY_MAX,
}
"""Bytes, the checksum included; of LOG and LOG_WIDE a segment of the source's is the limit."""


LOG_TYPES: Final = frozenset({Type.LOG, Type.LOG_WIDE, Type.EPOCH})
"""What a shipped log consists of."""


def expecting(types: Iterable[Type], largest_blocks: int = 0) -> dict[int, int]:
    """Type -> most bytes of its body. ``largest_blocks``: of a transfer and its description, where a log is
    expected."""
    return {int(kind): BODY_BYTES_MAX.get(kind, largest_blocks * BLOCK) for kind in types}
