"""What a manifest holds of a volume's mirrors: bytes, and a store of before."""

from __future__ import annotations

import struct

import pytest

from revolume.errors import Damaged
from revolume.volume.manifest import (
    EditKind,
    MirrorMode,
    MirrorState,
    State,
    apply,
    pack_member,
    pack_source,
    state_edits,
)

MEMBER = MirrorState("m1", MirrorMode.SYNC, True, 7, 99, b"n" * 16, 1234, "mirror.example")


def test_a_member_there_and_back() -> None:
    found = apply(State(), EditKind.MEMBER, pack_member(MEMBER))
    assert found.mirrors == (MEMBER,)


def test_the_whole_state_is_written_with_members() -> None:
    state = State(mirrors=(MEMBER,), segment_blocks=16, source_name="a.example")
    again = State()
    for kind, body in state_edits(state):
        again = apply(again, kind, body)
    assert (again.mirrors, again.source_name) == ((MEMBER,), "a.example")


def test_a_mirror_of_before_is_one_whose_copy_is_not_known() -> None:
    body = struct.pack("<BB6xQQ", 1, 1, 7, 99) + b"m1"
    (found,) = apply(State(), EditKind.MIRROR, body).mirrors
    assert found == MirrorState("m1", MirrorMode.SYNC, True, 7, 99)
    assert found.node == bytes(16)
    assert found.required
    assert apply(State(mirrors=(found,)), EditKind.MEMBER, pack_member(MEMBER)).mirrors == (MEMBER,)


def test_what_a_later_version_says_of_a_member_is_not_misread() -> None:
    body = bytearray(pack_member(MEMBER))
    body[2] |= 8
    with pytest.raises(Damaged, match="flags 0x8"):
        apply(State(), EditKind.MEMBER, bytes(body))


def test_a_source_name_there_and_back() -> None:
    assert apply(State(), EditKind.SOURCE, pack_source("a.example")).source_name == "a.example"
    assert not apply(State(source_name="a"), EditKind.SOURCE, pack_source("")).source_name
