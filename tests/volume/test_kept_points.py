"""What is kept for a mirror, as plain values: its record, and what follows from what."""

from __future__ import annotations

from dataclasses import replace

import pytest

from revolume.blocks.numbers import Position
from revolume.chain.point import Point
from revolume.volume.members.kept_points import arrived, jumping, kept_word, log_given_up, nothing_kept
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_edits import EditKind, apply
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState, State
from revolume.volume.metadata.node_edits import pack_member


def member(**changes: object) -> MirrorState:
    state = MirrorState("m", MirrorMode.ASYNC, True, 7, 70, b"n" * 16, Position(75))
    return replace(state, **changes)  # type: ignore[arg-type]


A, S, P = Kept(7, 70, 700), Kept(9, 90, 900), Kept(12, 120, 1200)


@pytest.mark.parametrize("pinned", [{}, {"pin": A}, {"cut": S}, {"jump": P}, {"pin": A, "cut": S, "jump": P}])
def test_a_member_with_its_pins_there_and_back(pinned: dict[str, Kept]) -> None:
    state = member(**pinned, address="here:1", advertised="there")
    (found,) = apply(State(), EditKind.MEMBER, pack_member(state)).mirrors
    assert found == state
    assert State(mirrors=(state,)).pinned_writes() == {kept.write for kept in pinned.values()}


def test_an_older_pin_stays_when_a_newer_log_is_given_up() -> None:
    given_up = log_given_up(member(), 700)
    assert given_up.pin == A and not given_up.kept
    later = log_given_up(replace(given_up, point=11, write=110), 1100)
    assert later.pin == A


def test_what_was_never_a_copy_has_no_pin() -> None:
    assert log_given_up(member(joined=False), 700).pin is None


def point(kept: Kept) -> Point:
    return Point(kept.point, 0, 0, kept.write, kept.time_ns, 1, 0, (0, 0), bytes(16), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reached", "pin", "cut", "jump"),
    [(6, A, S, P), (7, A, S, P), (8, A, S, P), (9, S, None, P), (11, S, None, P), (12, None, None, None)],
)
def test_on_the_way_to_a_point(reached: int, pin: Kept | None, cut: Kept | None, jump: Kept | None) -> None:
    """The log is kept from there on only: whatever the copy stands at, a pinned point at or before it stays."""
    state = arrived(jumping(member(point=0, write=0, pin=A, cut=S), point(P), None), reached)
    assert (state.pin, state.cut, state.jump) == (pin, cut, jump)
    assert state.point == P.point


def test_who_stands_where_no_log_is_kept_is_pinned_there() -> None:
    state = arrived(member(point=0, write=0, pin=A, jump=P), 12)
    assert (state.pin, state.jump, state.kept) == (P, None, False)
    assert nothing_kept(state).pinned == () and kept_word(nothing_kept(state)) == "nothing"
