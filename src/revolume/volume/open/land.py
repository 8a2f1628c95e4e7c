"""The end of a jump, at an opening and before anything else: what was flipped becomes the image.

    rescue for pinned moments what will be overwritten → staged blocks into the image, synced → its digests → one
    record of the manifest: the horizon is the new point, the log begins anew behind it, the jump is gone

Done again from the beginning after a crash at any instant. Of the log that was there nothing is needed any more:
where the disk is short it goes first.
"""

from __future__ import annotations

from contextlib import suppress

from revolume.errors import Damaged, NoSpace, RevolumeError
from revolume.host.disk import out_of_room
from revolume.log.format.segment import segment_name
from revolume.log.read.recovery import stated_edit
from revolume.volume.jump.apply_job import Applied, apply_growth, apply_jump
from revolume.volume.jump.jump_tables import JumpTables
from revolume.volume.jump.landing import apply_spec, landed, landing_edits, owner
from revolume.volume.jump.staged_jump import sweep
from revolume.volume.metadata.manifest import judge_end
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Jump, Rescue
from revolume.volume.metadata.rescue_edits import pack_rescue
from revolume.volume.open.open_context import Ground
from revolume.volume.rescue.rescue_job import Rescued, RescueSpec, rescue, rescue_growth
from revolume.volume.rescue.rescue_owner import rescue_spec, with_rescued
from revolume.volume.space.disk_room import SMALL_FILES
from revolume.volume.state.events import EventKind


class Landing:
    """Of one opening."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    async def finish(self) -> None:
        """Put a flipped jump into the image; nothing, if there is none. NoSpace: there is no room for it yet, and
        nothing is lost."""
        ground, jump = self._ground, self._ground.state.jumped
        if jump is None:
            return
        state = ground.state
        edit = await ground.host.work.call(stated_edit, ground.log, state.segment_blocks, state.volume)
        judge_end(ground.manifest.number, edit)
        await ground.accept()
        try:
            await self._land(jump)
        except OSError as error:
            raise self._not_landed(jump, error) from error
        except Damaged as error:
            raise self._damaged(jump, error) from error
        await ground.host.work.call(sweep, ground.directory, None)

    async def _land(self, jump: Jump) -> None:
        ground = self._ground
        if not landed(ground.state, jump):
            moment = owner(ground.state, jump)
            await self._make_room(jump, moment)
            if moment is not None:
                await self._rescue(jump, moment)
            self._tell(jump, await self._applied(jump))
        await ground.manifest.record(*landing_edits(ground.state, jump))
        ground.header.horizon = ground.state.horizon.write

    async def _make_room(self, jump: Jump, moment: Rescue | None) -> None:
        """The reserve and then the old log go, as far as the disk lacks room."""
        ground = self._ground
        path, work = ground.directory.path, ground.host.work
        need = await work.job(apply_growth, apply_spec(ground.state, jump, path))
        if moment is not None:
            need += await work.job(rescue_growth, self._rescue_spec(jump, moment))
        need += need // 64 + SMALL_FILES
        if ground.directory.free_bytes() < need:
            await work.call(ground.reserve.take)
        if ground.directory.free_bytes() < need:
            await work.call(self._remove_log)

    def _remove_log(self) -> None:
        for index in self._ground.state.uses:
            with suppress(OSError):
                self._ground.log.remove(segment_name(index))

    def _rescue_spec(self, jump: Jump, moment: Rescue, lossy: bool = False) -> RescueSpec:
        ground = self._ground
        return rescue_spec(ground.state, moment, ground.directory.path, JumpTables.of(jump), lossy)

    async def _rescue(self, jump: Jump, moment: Rescue) -> None:
        """Durable, and known to the manifest, before the image changes."""
        ground = self._ground
        done = await self._rescued(jump, moment)
        if done.lost:
            told = f"{done.lost} blocks that the disk does not give any more are lost at w{moment.moment.write}"
            ground.events.tell(told, EventKind.DAMAGE)
        if done.entries or moment not in ground.state.rescues:
            number = ground.state.next_rescue
            made = with_rescued(moment, done, number)
            await ground.manifest.record((EditKind.RESCUE, pack_rescue(made, number + 1)))

    async def _rescued(self, jump: Jump, moment: Rescue) -> Rescued:
        """Once more where the disk does not give a block: then it is lost."""
        work = self._ground.host.work
        try:
            return await work.job(rescue, self._rescue_spec(jump, moment))
        except OSError as error:
            if out_of_room(error):
                raise
            return await work.job(rescue, self._rescue_spec(jump, moment, lossy=True))

    async def _applied(self, jump: Jump) -> Applied:
        ground = self._ground
        work, path = ground.host.work, ground.directory.path
        try:
            return await work.job(apply_jump, apply_spec(ground.state, jump, path))
        except OSError as error:
            if out_of_room(error):
                raise
            return await work.job(apply_jump, apply_spec(ground.state, jump, path, lossy=True))

    def _tell(self, jump: Jump, done: Applied) -> None:
        point, events = jump.target.point.point, self._ground.events
        events.tell(f"jumped to cp{point}: {done.blocks} blocks written, {done.zeroed} read as zeroes now")
        if done.damaged:
            told = f"{done.damaged} blocks of cp{point} are not what arrived: reads of them are errors"
            events.tell(told, EventKind.DAMAGE)

    def _not_landed(self, jump: Jump, error: OSError) -> RevolumeError:
        path, point = self._ground.directory.path, jump.target.point.point
        if out_of_room(error):
            return NoSpace(
                "jump-no-space",
                f"{path} has jumped to cp{point}, and its disk has no room to put what arrived into the image.",
                "Free some room on the disk and open it again; nothing is lost.",
            )
        why = f"putting what arrived into the image failed: {error.strerror}"
        cause = f"{path} has jumped to cp{point}, and {why}."
        return RevolumeError("not-opened", cause, "Look at the disk, then open it again; nothing is lost.")

    def _damaged(self, jump: Jump, error: Damaged) -> Damaged:
        return Damaged(
            "jump-damaged",
            f"{self._ground.directory.path} has jumped to cp{jump.target.point.point}, and part of what arrived "
            f"can't be read any more: {error.cause}",
            "Make the mirror anew, or read what is left with 'revolume salvage'.",
        )


def sweep_jump(ground: Ground) -> None:
    """Remove what a jump that is gone has left."""
    with suppress(OSError):
        sweep(ground.directory, ground.state.jump)
