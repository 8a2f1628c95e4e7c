"""Where a target's side of a connection stands, which frames may come then, and what follows on what."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from revolume.mirror.healing import HEALING_FRAMES
from revolume.mirror.wire.frames import Type
from revolume.mirror.wire.limits import LOG_TYPES


class State(Enum):
    """Where the target's side stands; each says what comes next."""

    GREETING = "HELLO, FETCH, EXAMINE, MOMENTS_ASK or RECALL, and not for long"
    ADMITTING = "the server's word whether this peer may go on; nothing is received meanwhile"
    DECIDING = "BEGIN: WELCOME is out, and both ends must find the same rule by the same facts"
    PREPARING = "the copy to be there; nothing is received meanwhile"
    RECEIVING_BASE = "the rest of the base"
    RECEIVING_DIFFERENCE = "the rest of what has changed since a common point; then the session ends"
    MIRRORING = "the log"
    HANDING_OVER = "nothing more: the source is no primary any more, and this node is to be one"
    SENDING_TAIL = "the peer to take the end of our log"
    RECALLING = "questions about the moment that is held open"


_ALWAYS: Final = frozenset({Type.PING, Type.REFUSED})
_MIRRORING: Final = _ALWAYS | HEALING_FRAMES | LOG_TYPES | {Type.SYNC, Type.BLOCKS, Type.LEASE, Type.SUSPECT}
_QUESTIONS: Final = frozenset({Type.COMPARE_OPEN, Type.COMPARE_ASK, Type.COMPARE_END})
_COMPARISON: Final = _QUESTIONS | {Type.FIXUP, Type.FIXUP_AT}
FRAMES: Final[Mapping[State, frozenset[Type]]] = {
    State.GREETING: frozenset({Type.PING, Type.HELLO, Type.FETCH, Type.EXAMINE, Type.MOMENTS_ASK, Type.RECALL}),
    State.ADMITTING: frozenset(),
    State.DECIDING: _ALWAYS | {Type.BEGIN},
    State.PREPARING: frozenset(),
    State.RECEIVING_BASE: _MIRRORING | _QUESTIONS | {Type.MOMENT, Type.BASE, Type.BASE_END},
    State.RECEIVING_DIFFERENCE: _ALWAYS | HEALING_FRAMES | _QUESTIONS | {Type.BASE, Type.BASE_END},
    State.MIRRORING: _MIRRORING | _COMPARISON | {Type.HANDOVER},
    State.HANDING_OVER: _ALWAYS,
    State.SENDING_TAIL: _ALWAYS,
    State.RECALLING: _ALWAYS | {Type.COMPARE_ASK, Type.RECALL_BLOCKS},
}
TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.GREETING: frozenset({State.ADMITTING}),
    State.ADMITTING: frozenset({State.DECIDING, State.SENDING_TAIL, State.RECALLING}),
    State.DECIDING: frozenset({State.PREPARING}),
    State.PREPARING: frozenset({State.RECEIVING_BASE, State.RECEIVING_DIFFERENCE, State.MIRRORING}),
    State.RECEIVING_DIFFERENCE: frozenset(),
    State.RECEIVING_BASE: frozenset({State.MIRRORING}),
    State.MIRRORING: frozenset({State.HANDING_OVER}),
    State.HANDING_OVER: frozenset(),
    State.SENDING_TAIL: frozenset(),
    State.RECALLING: frozenset(),
}
