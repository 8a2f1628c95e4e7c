"""Bugs planted into what is kept for a mirror that is away, and into the jump that brings it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from revolume.blocks.delta_map import DeltaMap
from revolume.mirror import catch_up_plan
from revolume.mirror.source.changed_reader import ChangedBlocks
from revolume.sim.campaigns.plant import Plant
from revolume.sim.kernel import disk
from revolume.volume.dirty import region_jobs
from revolume.volume.jump import jump_proof, landing
from revolume.volume.jump.jump_proof import JumpProof
from revolume.volume.jump.jumping import Jumping
from revolume.volume.members import kept_for_mirrors, mirror_records
from revolume.volume.members.kept_for_mirrors import KeptForMirrors
from revolume.volume.members.kept_points import kept_from
from revolume.volume.members.resync_points import StatedResyncPoints
from revolume.volume.metadata import layout
from revolume.volume.metadata.jump_edits import pack_jump
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Jump, State
from revolume.volume.open import land

# What becomes of the names


def _cut_unpinned(self: mirror_records.MirrorRecords, mirror: Any) -> None:
    """What it is told of the cut it forgets while it takes its holds."""
    state, unrecorded = mirror.state, mirror.unrecorded_cut
    mirror.state, mirror.unrecorded_cut = replace(state, cut=None), None
    try:
        _hold(self, mirror)
    finally:
        mirror.state, mirror.unrecorded_cut = state, unrecorded


_hold = mirror_records.MirrorRecords.hold


def _but_for_cuts(self: State) -> set[Any]:
    uncut = tuple(replace(mirror, cut=None) for mirror in self.mirrors)
    return _pinned_writes(replace(self, mirrors=uncut))


_pinned_writes = State.pinned_writes


def _none_due(self: StatedResyncPoints, state: State) -> Iterator[Any]:
    return iter(())


def _but_for_members(self: State) -> set[Any]:
    return _pinned_writes(replace(self, resync_points=()))


def _nothing_found(*_: Any) -> Any:
    return np.zeros(0, np.uint64)


async def _without_zeroes(self: ChangedBlocks, first: int) -> Any:
    behind, blocks, digests = await _look(self, first)
    return behind, blocks[digests != 0], digests[digests != 0]


_look = ChangedBlocks._look


async def _all_that_there_is(self: ChangedBlocks, first: int) -> Any:
    """As a base would be sent."""
    behind, blocks = await _candidates(self, first)
    return behind, np.union1d(blocks, np.arange(first, behind, dtype=np.uint64))


_candidates = ChangedBlocks._candidates


async def _as_it_should_be(self: JumpProof, root: Any, jump: Jump) -> Any:
    return jump.target.point.root_low, jump.target.point.root_high


async def _whatever_is_staged(self: Jumping, target: Any) -> None:
    """What has arrived for another point is not discarded."""
    now = self.now
    if now is not None and now.target.point != target.point:
        await self._opened().retarget(target)
        self._opened().next_block = 0
        return
    await self._drop()
    await self._manifest.record((EditKind.JUMP, pack_jump(Jump(target))))
    self._opened()


async def _cleared_too_early(self: KeptForMirrors, mirror: Any, *more: Any) -> Any:
    point = await _pin_jump(self, mirror, *more)
    await self._dirty.drop(mirror.name)
    return point


_pin_jump = KeptForMirrors.pin_jump


def _landing_without(kind: EditKind) -> Callable[..., Any]:
    made = landing.landing_edits

    def edits(state: Any, jump: Jump) -> Any:
        return [edit for edit in made(state, jump) if edit[0] != kind]

    return edits


def _where_the_log_is(state: Any, jump: Jump) -> Any:
    """The point's address is that of the copy's own."""
    return replace(_new_horizon(state, jump), address=state.horizon.address)


_new_horizon = landing.new_horizon


def _blocks_unsynced(then: Callable[[disk.SimFile], Any]) -> Callable[[disk.SimFile], Any]:
    def begin_sync(file: disk.SimFile) -> Any:
        return (lambda: None) if file.name == layout.JUMP_BLOCKS else then(file)

    return begin_sync


PLANTED_JUMPS: Final = (
    Plant("pin-not-kept", "when the log is given up for a mirror, its point is not pinned instead", "away", 20,
          ((kept_for_mirrors, "log_given_up", lambda state, time_ns: kept_from(state, None)),), "away", first=16),
    Plant("pin-forgotten", "a primary that opens again forgets what it had pinned for a mirror", "away", 20,
          ((kept_for_mirrors, "standing", lambda state, kept: None),), "away kill"),
    Plant("cut-not-pinned", "the moment at which a link was lost is not pinned", "away", 20,
          ((mirror_records.MirrorRecords, "hold", _cut_unpinned),
           (State, "pinned_writes", _but_for_cuts)), "away"),
    Plant("rescued-left-out", "a difference leaves out what folds have overwritten", "away", 10,
          ((ChangedBlocks, "_folded", _nothing_found),), "away"),
    Plant("logged-left-out", "a difference leaves out what is in the log alone", "away", 20,
          ((ChangedBlocks, "_in_map", _nothing_found),), "away resync", first=12),
    Plant("zeroes-left-out", "a difference leaves out what has become zeroes", "away", 10,
          ((ChangedBlocks, "_look", _without_zeroes),), "away"),
    Plant("root-not-compared", "a jump is not summed up, and lacks what has become zeroes", "away", 10,
          ((JumpProof, "root", _as_it_should_be), (ChangedBlocks, "_look", _without_zeroes)), "away"),
    Plant("everything-sent", "a difference is all of the volume", "away", 10,
          ((ChangedBlocks, "_candidates", _all_that_there_is),), "away", told="bytes were sent"),
    Plant("staged-for-another-point", "what has arrived for another point is part of this one", "away", 40,
          ((Jumping, "_take_up", _whatever_is_staged), (JumpProof, "root", _as_it_should_be)), "away",
          first=8),
    Plant("jump-not-synced", "a jump flips to blocks that are in memory alone", "away", 60,
          ((disk.SimFile, "begin_sync", _blocks_unsynced(disk.SimFile.begin_sync)),), "jump_power"),
    Plant("jump-rescues-nothing", "what snapshots need of what a jump overwrites is not rescued", "away", 20,
          ((land, "owner", lambda state, jump: None), (jump_proof, "owner", lambda state, jump: None)),
          "away snapshot", first=6),
    Plant("jump-keeps-the-log", "the old log is taken up again behind a jump", "away", 20,
          ((land, "landing_edits", _landing_without(EditKind.USES)), (landing, "new_horizon", _where_the_log_is)),
          "away jump_power"),
    Plant("jump-keeps-openings", "a jump does not bring the openings up to its point", "away", 40,
          ((land, "landing_edits", _landing_without(EditKind.LINEAGE)),), "jump_restart"),
    Plant("noted-without-the-log", "a newer dirty region log leaves out what the fold takes away", "away",
          40, ((region_jobs, "changed", lambda *_: SimpleNamespace(delta=DeltaMap())),
               (JumpProof, "root", _as_it_should_be)), "noted", first=1),
    Plant("noted-cleared-too-early", "a dirty region log goes before its mirror has what it lists", "away", 40,
          ((KeptForMirrors, "pin_jump", _cleared_too_early),), "noted", first=1, told="what was noted"),
    Plant("resync-point-not-stated", "a primary keeps to itself where its mirrors stand", "trio", 40,
          ((StatedResyncPoints, "due", _none_due),), first=1, told="has to be made anew"),
    Plant("resync-point-not-pinned", "a mirror folds beyond where another stands, and rescues nothing", "trio", 40,
          ((State, "pinned_writes", _but_for_members),), first=1, told="has to be made anew"),
    Plant("difference-over-anything", "a difference goes to a copy that wrote alone, too", "trio", 40,
          ((catch_up_plan, "contains", lambda source, end: True),), "apart promote", first=9),
)  # fmt: skip
