"""A copy that has diverged takes back what it wrote alone, without losing it: that is a branch from then on.

    the log's end is made ready, as by any opening → the blocks changed behind the common point, as they are at
    that end and were at each moment that had a name, into files (``volume/branches/``), durable → one edit of the
    manifest: the branch, and the log ends right behind the record of the common point; or, where the image has
    left that, a jump back to it, which the next opening finishes

A crash before that edit changes nothing; what was written is swept. After it the copy stands at the common point,
and goes on from there as a mirror does. Of the log that was cut off the segment files may keep bytes that are
valid in themselves, also behind the cut in the same file: that the manifest knows where that segment ends (ENDS),
and what was stated before the cut (CUT), keeps them from being taken up again.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from revolume.blocks.numbers import WriteNumber
from revolume.chain.map_file import MapFile, MapMeta
from revolume.chain.versions import EVERY_WRITE, newest_in
from revolume.errors import Damaged, NoSpace, Refused, RevolumeError
from revolume.host import Host
from revolume.host.disk import out_of_room
from revolume.volume.branches.branch_files import sweep_branches
from revolume.volume.branches.common_point import CommonPoint, CutPlace, cut_place, writes_behind
from revolume.volume.branches.moment_source import MomentSource
from revolume.volume.branches.names import check_branch_name, room_for_branch
from revolume.volume.branches.rewound import Found, Names, jumped_edits, names_at, rewound_edits
from revolume.volume.branches.steps import Step, fitting, readable_moments, room_for_steps
from revolume.volume.branches.taken_back import Stage, TakingBack, Written, changed_between
from revolume.volume.branches.way_back import Staged, back_spec, blocks_since, stage_back
from revolume.volume.livemap.point_records import newest_seal
from revolume.volume.livemap.reader import Reader
from revolume.volume.metadata.branch_edits import pack_together
from revolume.volume.metadata.branch_moment import BranchMoment
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Branch, PinnedSnapshot, Role, State
from revolume.volume.open.assemble import Loading
from revolume.volume.open.land import Landing
from revolume.volume.open.log_recovery import Ending, Tail
from revolume.volume.open.open import locked
from revolume.volume.open.open_context import Ground
from revolume.volume.open.options import OpenOptions
from revolume.volume.suspect.taken_back import marks_taken_back
from revolume.volume.volume_base import Parts


async def rewind(host: Host, path: str, options: OpenOptions, common: CommonPoint, name: str) -> Branch | None:
    """Take the copy in ``path``, which nobody has open, back to ``common``; what it wrote behind that is a branch
    of this name then. None: it wrote nothing, and there is no branch. Refused: it is a primary; the point is not
    in its log, or its image has gone beyond it; the name is taken; there are too many branches. NoSpace: the disk
    has no room for the branch. Whatever is raised, nothing has changed."""
    bare = check_branch_name(name)
    directory = locked(host, path, options)
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(Manifest.opened, directory)
        held.callback(manifest.close)
        _may_rewind(manifest.state, bare, directory.path)
        at_end = replace(options, size=None, name=None, promote=True)
        ground = Ground(host, directory, manifest, at_end, held)
        return await _Rewinding(ground, common, bare).run()


def _may_rewind(state: State, name: str, path: str) -> None:
    if state.role != Role.SECONDARY:
        raise Refused(
            "is-primary", f"{path} holds a primary: what it has written is the volume.",
            "Make it a mirror first: 'revolume demote'.",
        )  # fmt: skip
    if state.base is not None:
        raise Refused(
            "not-whole", f"{path} is not a whole copy yet: its base is still being received.",
            "Let its source finish; it has written nothing alone.",
        )  # fmt: skip
    room_for_branch(state, name, path)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What the files of the branch hold: of each stage what was named there; None: the end, the last."""

    pins: tuple[PinnedSnapshot | None, ...]
    stages: tuple[Stage, ...]
    written: Written

    @property
    def moments(self) -> tuple[BranchMoment, ...]:
        """All but the end, oldest first."""
        return tuple(
            BranchMoment(pin.name, pin.write, pin.point, pin.time_ns, stage.size, stage.table, blocks)
            for pin, stage, blocks in zip(self.pins, self.stages, self.written.blocks, strict=True)
            if pin is not None
        )


class _Rewinding:
    def __init__(self, ground: Ground, common: CommonPoint, name: str) -> None:
        self._ground = ground
        self._common = common
        self._name = name

    async def run(self) -> Branch | None:
        ground, work = self._ground, self._ground.host.work
        await Landing(ground).finish()
        tail = await Ending(ground).ready()
        place = await work.call(cut_place, ground.state, tail.columns, self._common)
        if place.position >= tail.end.position:
            return None
        await work.call(sweep_branches, ground.directory, ground.state.branches)
        writes = writes_behind([columns for _, columns in tail.columns], place.position)
        if place.rescues:  # what the log does not tell any more: at most so many
            writes = tail.end.write - place.point.write
        names = await work.call(names_at, ground.state, tail.columns, place)
        kept = await self._kept(tail, place, names) if writes else None
        try:
            branch = None if kept is None else self._branch(tail, place, kept, writes, names)
            await self._record(place, Found(branch, names, await self._way_back(place)))
        except BaseException:
            if ground.manifest.manifest.failure is None:  # else nobody knows whether the edit is on the disk
                await work.call(sweep_branches, ground.directory, ground.state.branches)
            raise
        return branch

    async def _kept(self, tail: Tail, place: CutPlace, names: Names) -> _Kept:
        """The branch's files. They are durable when it returns."""
        ground = self._ground
        parts = await self._parts(tail)
        try:
            steps = self._fitting(await self._steps(tail, place, names))
            number = ground.state.next_rescue
            tables = [*range(number + 1, number + len(steps)), number]  # the end's is the last
            stages = [
                await self._stage(tail, place, parts, step, table)
                for step, table in zip(steps, tables, strict=True)
            ]
            taking = TakingBack(ground.directory, number, ground.host.work)
            written = await taking.write(ground.state.volume, stages)
            return _Kept(tuple(step.pin for step in steps), tuple(stages), written)
        except OSError as error:
            raise self._not_kept(error) from error
        finally:
            parts.rescued.close()

    async def _steps(self, tail: Tail, place: CutPlace, names: Names) -> list[Step]:
        ground, work = self._ground, self._ground.host.work
        pieces, steps = [columns for _, columns in tail.columns], []
        after = place.point.write
        for pin in (*readable_moments(ground.state, place, names, tail.end.write), None):
            upto = EVERY_WRITE if pin is None else pin.write
            changed = await work.call(changed_between, pieces, after, upto)
            rescues = tuple(each for each in place.rescues if after <= each.moment.write < upto)
            if rescues:  # what the log does not tell any more
                spec = back_spec(ground.state, ground.directory.path, rescues)
                changed = changed.with_blocks(await work.job(blocks_since, spec))
            steps.append(Step(after, pin, changed))
            after = upto
        return steps

    async def _stage(self, tail: Tail, place: CutPlace, parts: Parts, step: Step, table: int) -> Stage:
        write = tail.end.write if step.pin is None else step.pin.write
        meta = MapMeta(write, place.point.address, place.point.point)
        if step.pin is None:
            return Stage(table, meta, step.changed, parts.reader, parts.sizes.now)
        left = parts.rescued.moment(write)
        size = parts.sizes.at(write) if left is None else left.size
        return Stage(table, meta, step.changed, await self._reader_at(tail, parts, step.after, write), size)

    async def _reader_at(self, tail: Tail, parts: Parts, after: WriteNumber, write: WriteNumber) -> Reader:
        """Of the volume as of ``write``, for what was changed behind ``after``."""
        work, pieces = self._ground.host.work, [columns for _, columns in tail.columns]
        behind = max(after, self._ground.state.horizon.write)
        found = await work.call(newest_in, pieces, behind, write)
        return Reader(parts.store, MomentSource(write, found, parts.image, parts.rescued), work)

    async def _parts(self, tail: Tail) -> Parts:
        """The parts of the volume as of its log's end. A base map may be made for them only where it is one that
        the copy, as it stands, can use too: a crash must leave nothing that lies beyond."""
        seal = newest_seal([columns for _, columns in tail.columns])
        loading = Loading(self._ground, may_make_base=self._ground.state.agreed.position >= seal)
        return await loading.parts(tail)

    def _fitting(self, steps: list[Step]) -> list[Step]:
        """As many of them as there is room for. NoSpace: there is none for the branch's end."""
        free = self._ground.directory.free_bytes()
        kept = fitting(steps, free)
        need = room_for_steps(kept)
        if free < need:
            raise NoSpace(
                "branch-no-space",
                f"What {self._ground.state.name} wrote alone takes {need} bytes, and its disk has {free}.",
                "Free some room on the disk and try again; nothing has changed.",
            )
        return kept

    def _not_kept(self, error: OSError) -> RevolumeError:
        cause = f"What {self._ground.state.name} wrote alone could not be kept as a branch: {error.strerror}."
        kind = NoSpace if out_of_room(error) else RevolumeError
        return kind("branch-not-kept", cause, "Look at the disk, then try again; nothing has changed.")

    def _branch(self, tail: Tail, place: CutPlace, kept: _Kept, writes: int, names: Names) -> Branch:
        ground = self._ground
        number = ground.state.next_rescue
        return Branch(
            name=self._name,
            common=place.point,
            write=tail.end.write,
            time_ns=tail.end.time_ns,
            size=kept.stages[-1].size,
            made_ns=ground.host.clock.wall_ns(),
            table=number,
            file=number,
            blocks=kept.written.blocks[-1],
            data=kept.written.data,
            writes=writes,
            openings=tuple(e for e in ground.state.epochs if e.position >= place.point.position),
            snapshots=names.left,
            moments=kept.moments,
        )

    async def _record(self, place: CutPlace, found: Found) -> None:
        """From this edit on the copy stands at the common point."""
        ground = self._ground
        if found.staged is not None and found.branch is not None:
            edits = jumped_edits(ground.state, ground.manifest.number, place, found.branch, found)
        else:
            base = await ground.host.work.call(self._base_point)
            edits = rewound_edits(ground.state, ground.manifest.number, place, found, base)
        name = "" if found.branch is None else found.branch.name
        work, common = ground.host.work, place.point.write
        edits += await work.call_sync(marks_taken_back, ground.directory, ground.state, common, name)
        await ground.manifest.record((EditKind.TOGETHER, pack_together(edits)))

    async def _way_back(self, place: CutPlace) -> Staged | None:
        """Where the image has left the point: what leads back to it, durable."""
        ground = self._ground
        if not place.rescues:
            return None
        if ground.state.jump is not None:  # what had arrived for another one is sent again
            await ground.manifest.record((EditKind.DROP_JUMP, b""))
        try:
            spec = back_spec(ground.state, ground.directory.path, place.rescues)
            return await ground.host.work.job(stage_back, spec)
        except OSError as error:
            raise self._not_kept(error) from error

    def _base_point(self) -> int | None:
        """The number of the point of the live map's base; None: there is none that can be used."""
        ground = self._ground
        name = ground.state.base_map
        if not name or not ground.maps.exists(name):
            return None
        try:
            with closing(MapFile.open(ground.maps.open(name, write=False), ground.state.volume)) as base:
                return base.meta.point
        except Damaged:
            return None


__all__ = ["CommonPoint", "rewind"]
