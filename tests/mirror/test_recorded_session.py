"""What two nodes once said to each other is read, and written again byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from revolume.mirror.wire import block_messages as blocks
from revolume.mirror.wire.begin_messages import pack_begin, unpack_begin
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.examine_messages import pack_examined, unpack_examined
from revolume.mirror.wire.frames import FRAME, Type, body_of, control
from revolume.mirror.wire.greeting_messages import pack_hello, pack_welcome, unpack_hello, unpack_welcome
from revolume.mirror.wire.log_frame import LogUnpacker, pack_log
from revolume.mirror.wire.session_messages import (
    BASE_END,
    EPOCH,
    NUMBER,
    pack_positions,
    pack_refusal,
    unpack_base_end,
    unpack_epoch,
    unpack_number,
    unpack_positions,
    unpack_refusal,
)
from revolume.mirror.wire.tail_messages import (
    TAIL_END,
    pack_fetch,
    pack_tail,
    unpack_fetch,
    unpack_tail,
    unpack_tail_end,
)
from revolume.volume.open.log_identity import End
from tests.support.link_recording import Frame, load

DATA = Path(__file__).parent.parent / "data"
RECORDING = DATA / "link-2" / "session.xz"
MOMENTS = {Type.MOMENT, Type.MOMENT_AT}
LATER = MOMENTS | {Type.HANDOVER, Type.HANDED_OVER, Type.LEASE, Type.LEASE_ASK}
LATER |= {Type.HEAL_ASK, Type.HEALED, Type.SUSPECT, Type.SUSPECT_AT, Type.DIVERGED}
LATER |= {kind for kind in Type if Type.COMPARE_OPEN <= kind <= Type.COMPARE_END}
LATER |= {kind for kind in Type if Type.MOMENTS_ASK <= kind <= Type.RECALLED_BLOCKS}
DOES_NOT_OCCUR = {2: {Type.LOG_WIDE, Type.PING, Type.EXAMINED} | LATER, 4: {Type.LOG_WIDE, Type.PING} | LATER}
"""By the version of the protocol."""


class Conversation:
    """One connection of the recording, as far as its frames need what went before."""

    def __init__(self) -> None:
        self.volume = bytes(16)
        self.end = NOWHERE
        self.log: LogUnpacker | None = None
        self.version = 0

    def again(self, frame: Frame) -> bytes:
        """The frame, made from what was read in it."""
        _, kind, flags, _, session = FRAME.unpack_from(frame.data)
        view = memoryview(frame.data)
        match Type(kind):
            case Type.LOG:
                return self._log(view, session)
            case Type.BASE:
                rows, behind = blocks.unpack_base(view)
                head = blocks.pack_base(rows.blocks, rows.digests, behind)
                return control(kind, session, head, payload=len(rows.payload)) + bytes(rows.payload)
            case Type.BLOCKS:
                point, rows = blocks.unpack_blocks(view)
                head = blocks.pack_blocks(point, rows.blocks, rows.digests)
                return control(kind, session, head, payload=len(rows.payload), flags=flags) + bytes(rows.payload)
            case plain:
                return control(kind, session, self._body(plain, body_of(view)), flags=flags)

    def _body(self, kind: Type, body: memoryview) -> bytes:
        match kind:
            case Type.HELLO:
                hello = unpack_hello(body)
                self.volume = hello.volume
                return pack_hello(hello)
            case Type.WELCOME:
                welcome = unpack_welcome(body)
                self.end, self.version = welcome.end, welcome.version
                return pack_welcome(welcome)
            case Type.BEGIN:
                begin = unpack_begin(body, self.version)
                self._begin(begin.start.end if begin.start is not None else self.end)
                return pack_begin(begin, self.version)
            case Type.REFUSED:
                return pack_refusal(unpack_refusal(body))
            case Type.EPOCH:
                epoch, reign = unpack_epoch(body)
                assert self.log is not None
                self.log.begin_epoch(epoch, reign)
                return EPOCH.pack(epoch, reign)
            case Type.POSITIONS:
                return pack_positions(unpack_positions(body))
            case Type.SYNC | Type.BASE_AT | Type.BASE_DONE:
                return NUMBER.pack(unpack_number(body))
            case Type.BASE_END:
                return BASE_END.pack(*unpack_base_end(body))
            case Type.REQUEST_BLOCKS:
                return blocks.pack_block_request(*blocks.unpack_block_request(body))
            case Type.FETCH | Type.EXAMINE:
                fetch = unpack_fetch(body)
                self.volume = fetch.volume
                self._begin(fetch.end)
                return pack_fetch(fetch)
            case Type.EXAMINED:
                return pack_examined(unpack_examined(body))
            case Type.TAIL:
                return pack_tail(unpack_tail(body))
            case Type.TAIL_END:
                return TAIL_END.pack(*unpack_tail_end(body))
            case other:
                raise AssertionError(other)

    def _begin(self, end: End) -> None:
        self.log = LogUnpacker(self.volume, end)

    def _log(self, view: memoryview, session: int) -> bytes:
        assert self.log is not None
        carried = self.log.unpack(view, False)
        return pack_log(session, carried.shared_header, len(carried.payload)) + bytes(carried.payload)


def _conversations(version: int) -> Iterator[tuple[Conversation, Frame]]:
    found: dict[int, Conversation] = {}
    for frame in load(DATA / f"link-{version}" / "session.xz"):
        yield found.setdefault(frame.connection, Conversation()), frame


@pytest.mark.parametrize("version", [2, 4])
def test_a_recorded_session_is_read_and_written_again_byte_for_byte(version: int) -> None:
    seen = set()
    for conversation, frame in _conversations(version):
        assert conversation.again(frame) == frame.data
        seen.add(Type(frame.data[4]))
    assert seen == set(Type) - DOES_NOT_OCCUR[version]
