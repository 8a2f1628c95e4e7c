"""What a manifest holds of a volume's mirrors: bytes, and a store of before."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.errors import Damaged
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_edits import EditKind, apply, state_edits
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState, State
from revolume.volume.metadata.node_edits import pack_member, pack_source, unpack_member
from revolume.volume.metadata.on_lost import OnLost
from revolume.volume.metadata.resync_order import NO_ORDER, Prefer, ResyncOrder

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
    body[3] |= 2
    with pytest.raises(Damaged, match="flags 0x200"):
        apply(State(), EditKind.MEMBER, bytes(body))


def test_a_source_name_there_and_back() -> None:
    assert apply(State(), EditKind.SOURCE, pack_source("a.example")).source_name == "a.example"
    assert not apply(State(source_name="a"), EditKind.SOURCE, pack_source("")).source_name


def test_what_was_ordered_of_a_mirror_there_and_back_and_unknown_orders_are_not_misread() -> None:
    lost = OnLost(True, 5000)
    for order in (
        ResyncOrder(Prefer.HISTORY),
        ResyncOrder(Prefer.BYTES, take_back=True, let_back=b"c" * 16),
        ResyncOrder(cancelled=True),
    ):
        ordered = replace(MEMBER, order=order, on_lost=lost, pin=Kept(1, WriteNumber(2), 3))
        assert unpack_member(pack_member(ordered)) == ordered
        assert unpack_member(pack_member(replace(ordered, on_lost=OnLost()))).order == order
    body = bytearray(pack_member(replace(MEMBER, order=ResyncOrder(cancelled=True))))
    body[-23] = 4
    with pytest.raises(Damaged, match="which this version does not know"):
        unpack_member(bytes(body))
    assert unpack_member(pack_member(MEMBER)).order == NO_ORDER


def test_a_copy_has_taken_back_once_its_log_ends_otherwise_than_when_it_was_told_to() -> None:
    told = ResyncOrder(take_back=True, let_back=b"c" * 16)
    assert told.taken_back(b"d" * 16) and not told.taken_back(b"c" * 16)
    assert not ResyncOrder(take_back=True).taken_back(b"d" * 16)
    assert not ResyncOrder(let_back=b"c" * 16).taken_back(b"d" * 16)
