"""What is kept for a mirror, as it changes: the log from a point on, or pinned points instead. Pure.

    log         everything since the point that the mirror holds durably: it goes on where it was
    difference  the mirror's point is pinned, the log behind it was given up: what changed since is known
    regions     the pins had to go too: which blocks have changed is known, by the mirror's dirty region log
    nothing     not even that: the mirror is compared as a whole

The cut, the point made when the link was lost, and the jump, the point to which a difference leads, are pinned
beside either."""

from __future__ import annotations

from dataclasses import dataclass, replace

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_state import MirrorState, State

LOG, DIFFERENCE, REGIONS, NOTHING = "log", "difference", "regions", "nothing"
LOST_PREFIX = "lost:"
_ESCAPED = {ord("%"): "%25", ord(","): "%2C"}


@dataclass(frozen=True, slots=True)
class KeptStatus:
    """What is kept for a mirror. ``kept``: one of LOG, DIFFERENCE, REGIONS, NOTHING. Bytes: of the log, and of
    what folds have rescued since its oldest pinned point; of REGIONS, of the blocks that have changed. Points:
    numbers, None where there is none. ``cut_hold_ns``: how long writes were held for the cut,
    ``cut_hold_p99_ns`` for 99 of 100 of the last cuts of this volume; 0: not since it was opened."""

    kept: str
    log_bytes: int = 0
    difference_bytes: int = 0
    pin_point: int | None = None
    cut_point: int | None = None
    cut_hold_ns: int = 0
    cut_hold_p99_ns: int = 0


def kept_word(state: MirrorState) -> str:
    """In a word."""
    if state.pin is not None or state.jump is not None:
        return DIFFERENCE
    return LOG if state.kept else NOTHING


def lost_name(mirror: str) -> str:
    """The name by which the moment is opened at which a mirror's link was lost. No snapshot can be called so."""
    return LOST_PREFIX + mirror.translate(_ESCAPED)


def kept_of(point: Point) -> Kept:
    """A point, to be pinned."""
    return Kept(point.number, point.write, point.time_ns)


def kept_from(state: MirrorState, point: Point | None) -> MirrorState:
    """The log is kept for the mirror from a point on. None: nothing is."""
    if point is None:
        return replace(state, point=0, write=WriteNumber(0), from_creation=False)
    return replace(state, point=point.number, write=point.write, from_creation=not point.number)


def log_given_up(state: MirrorState, time_ns: int) -> MirrorState:
    """The log has no room for what this mirror lacks. Where a copy has joined, the point where that stands is
    pinned instead; ``time_ns``: that point's. An older pin stays: it may not have come beyond that."""
    if not state.joined:
        return kept_from(state, None)
    pin = state.pin or Kept(state.point, state.write, time_ns)
    return replace(kept_from(state, None), pin=pin)


def jumping(state: MirrorState, to: Point, since: Kept | None) -> MirrorState:
    """It is being brought to a point, behind which the log is kept. Where it stands is pinned until it is
    there."""
    return replace(kept_from(state, to), pin=since or state.pin, jump=kept_of(to))


def passing(state: MirrorState, to: Point, since: Kept | None) -> MirrorState:
    """It is being brought to a snapshot's point on its way: where it stands, and that point, are pinned until it
    is there. Of the log is kept for it what was kept."""
    return replace(state, pin=since or state.pin, jump=kept_of(to))


def standing(state: State, kept: Kept | None) -> Kept | None:
    """None for a pin of which nothing is known any more: the horizon has left it, and nothing was rescued for
    it."""
    if kept is None or kept.write >= state.horizon.write:
        return kept
    return kept if any(rescue.moment.write == kept.write for rescue in state.rescues) else None


def arrived(state: MirrorState, point: int, newest: int = 0) -> MirrorState:
    """It stands, durably, at the point of this number or beyond it: what it needs no more is not pinned for it.
    Where no log is kept from there on, the newest pinned point that is not beyond it stays. The cut stays until
    the mirror stands at a later point: all that it lacked has come then; or until there is none, by the number of
    the ``newest``."""
    done = point if point >= newest else point - 1
    reached = [kept for kept in state.pinned if kept.point <= point]
    if state.kept and state.point <= point:
        return replace(state, pin=None, cut=_beyond(state.cut, done), jump=None)
    pin = max(reached, key=lambda kept: kept.point, default=state.pin)
    return replace(state, pin=pin, cut=_beyond(state.cut, done), jump=_beyond(state.jump, point))


def _beyond(kept: Kept | None, point: int) -> Kept | None:
    return kept if kept is not None and kept.point > point else None


def nothing_kept(state: MirrorState) -> MirrorState:
    """Not even its pins have room."""
    return replace(kept_from(state, None), pin=None, cut=None, jump=None)


def recorded_kept(state: State, mirror: MirrorState) -> KeptStatus:
    """Of one of which only the manifest tells: how much log that is, it does not say."""
    if kept_word(mirror) == NOTHING:
        noted = [each for each in state.dirty if each.mirror == mirror.name and each.write >= state.horizon.write]
        for dirty in noted:
            return KeptStatus(REGIONS, difference_bytes=dirty.blocks * BLOCK, pin_point=dirty.since.number)
    oldest = min((kept.write for kept in mirror.pinned), default=None)
    rescued = state.rescued_bytes().items()
    return KeptStatus(
        kept=kept_word(mirror),
        difference_bytes=0 if oldest is None else sum(size for write, size in rescued if write >= oldest),
        pin_point=None if mirror.pin is None else mirror.pin.point,
        cut_point=None if mirror.cut is None else mirror.cut.point,
    )
