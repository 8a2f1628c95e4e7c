"""A copy's jump, from its beginning to the flip.

    begin → put … put → the whole is proved to be the source's point → the copy's own log, up to the common point,
    is folded into its image → one edit of the manifest: from then on the copy's state is that point

Until the flip the copy is what it was: views go on, and it can be promoted where it stands. It stands still:
records that are in its log wait, since the jump begins at the point that it has agreed to. After the flip nothing
but the next opening may touch it (``open/land.py``); it puts what has arrived into the image."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.errors import NoSpace, Refused, RevolumeError
from revolume.host.disk import Buffer
from revolume.volume.context import VolumeContext
from revolume.volume.jump.agreed_image import AgreedImage
from revolume.volume.jump.jump_proof import JumpProof
from revolume.volume.jump.jump_tables import U64
from revolume.volume.jump.landing import names_here
from revolume.volume.jump.staged_jump import StagedJump, not_kept, refused, sweep
from revolume.volume.members.resync_points import PinnedResyncPoints
from revolume.volume.metadata.jump_edits import pack_jump
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import Jump, JumpTarget
from revolume.volume.open_log import OpenLog
from revolume.volume.points.record_processor import RecordProcessor
from revolume.volume.state.events import Events
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_history import SuspectHistory
from revolume.volume.suspect.suspect_rows import rows_of
from revolume.volume.uncancelled_tasks import UncancelledTasks

CAUSE: Final = "it differed from its primary when it was brought up to date"


class Jumping:
    """Of one copy. Whatever is asked of it is done to its end, one after the other."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        proof: JumpProof,
        records: RecordProcessor,
        agreed_image: AgreedImage,
        resync_points: PinnedResyncPoints,
        suspect: SuspectHistory,
        events: Events,
        tasks: UncancelledTasks,
    ) -> None:
        self._context = context
        self._log = log
        self._manifest = log.manifest
        self._work = context.host.work
        self._proof = proof
        self._records = records
        self._agreed_image = agreed_image
        self._resync_points = resync_points
        self._suspect = suspect
        self._events = events
        self._tasks = tasks
        self._turn = asyncio.Lock()
        self._staged: StagedJump | None = None
        self._records.pause(self.now is not None)

    @property
    def now(self) -> Jump | None:
        """What has arrived, durably."""
        return self._manifest.state.jump

    def _opened(self) -> StagedJump:
        """Its files, which are taken up when something comes."""
        if self._staged is None:
            kept_free = self._log.pool.limits.reserve_bytes
            self._staged = StagedJump(self._context, self._manifest, kept_free)
        return self._staged

    async def begin(self, target: JumpTarget) -> None:
        """What changed up to this point will be sent, from where ``now`` says. What has arrived for another point
        is discarded. Refused: the copy does not stand at the common point."""
        await self._tasks.finish(self._begin(target))

    async def _begin(self, target: JumpTarget) -> None:
        async with self._turn:
            self._records.pause(True)
            try:
                async with self._records.turn:
                    self._judge(target)
                    await self._take_up(target)
            except OSError as error:
                raise not_kept(self._context.directory.path, error) from error
            finally:
                self._records.pause(self.now is not None)

    def _judge(self, target: JumpTarget) -> None:
        """Refused, having changed nothing."""
        agreed = self._records.agreed
        if self._is_flipped:
            raise self._flipped()
        if agreed.number != target.since:
            raise refused(f"it begins at cp{target.since}, and this copy stands at cp{agreed.number}")
        if target.point.point <= agreed.number or target.point.write < agreed.write:
            raise refused(f"cp{target.point.point} is not behind cp{agreed.number}")
        if target.point.position < agreed.position:
            raise refused(f"cp{target.point.point} lies before cp{agreed.number} in the log")

    async def _take_up(self, target: JumpTarget) -> None:
        now = self.now
        if now is not None and now.target.point == target.point and now.target.since == target.since:
            if now.target != target:  # more is known of names by now
                await self._opened().retarget(target)
            return
        await self._drop()
        await self._manifest.record((EditKind.JUMP, pack_jump(Jump(target))))
        self._opened()

    async def put(self, blocks: U64, digests: U64, payload: Buffer, next_block: int) -> None:
        """Blocks that changed, ascending, with the content of those whose digest is not 0; everything below
        ``next_block`` has then been sent. Refused: they are not what they should be. NoSpace: no room for them."""
        async with self._turn:
            try:
                staged = self._receiving()
            except OSError as error:
                raise not_kept(self._context.directory.path, error) from error
            await staged.put(blocks, digests, payload, next_block)

    async def settle(self) -> None:
        """The link is lost: what has come need not be sent again."""
        async with self._turn:
            if self._staged is not None and not self._is_flipped:
                await self._tasks.finish(self._staged.settle())

    async def discard(self) -> None:
        """What has arrived is of no use any more; the copy goes on where it stands."""
        await self._tasks.finish(self._discard())

    async def _discard(self) -> None:
        async with self._turn:
            if not self._is_flipped:
                await self._drop()
                self._records.pause(False)

    async def _drop(self) -> None:
        """In the manifest first: its files are looked for by nobody from then on."""
        staged, self._staged = self._staged, None
        if staged is not None:
            await staged.close()
        if self.now is not None:
            await self._manifest.record((EditKind.DROP_JUMP, b""))
        await self._work.call(sweep, self._context.directory, None)

    async def finish(self) -> None:
        """All of it has been sent. Returns once the copy's state is the new point, durably. Refused: what is here
        is not the source's point; what has arrived is discarded. NoSpace: it is kept, and may be tried again;
        then less is kept for other members."""
        try:
            await self._tasks.finish(self._finish())
        except NoSpace:
            await self._tasks.finish(self._resync_points.give_up())
            raise

    async def _finish(self) -> None:
        try:
            async with self._turn, self._records.turn:
                await self._proved_and_flipped(self._receiving())
        except OSError as error:
            raise not_kept(self._context.directory.path, error) from error

    async def _proved_and_flipped(self, staged: StagedJump) -> None:
        await staged.complete()
        jump = staged.durable
        await self._prove(jump)
        await self._agreed_image.fold()
        await self._proof.check_room(jump)
        await self._manifest.record(*names_here(self._manifest.state, jump, self._records.agreed))
        await staged.flip()
        self._events.tell(f"jumped from cp{jump.target.since} to cp{jump.target.point.point}")
        self._agreed_image.end_readers()  # it is closed now, and opened as another moment

    async def _prove(self, jump: Jump) -> None:
        """Refused, and what has arrived is discarded: with it this copy is not the source's point."""
        agreed, point = self._records.agreed, jump.target.point
        expected = (point.root_low, point.root_high)
        if await self._proof.root(agreed.root, jump) != expected and not await self._level(agreed, jump):
            await self._drop()
            self._records.pause(False)
            raise refused(f"summed up, it is not the source's cp{point.point}")
        if self._manifest.state.suspect.differs_since:
            marks = await _marks(self._proof, jump, self._context.host.clock.wall_ns())
            if len(marks.rows):
                await self._suspect.add(marks)

    async def _level(self, agreed: Point, jump: Jump) -> bool:
        """Whether a copy that is not what it has agreed to, which is remembered, becomes the source's point all
        the same: it does where everything that it has otherwise is among what arrived."""
        point = jump.target.point
        own = await self._proof.own_root(point.size)
        if own == agreed.root:
            return False  # what was sent is wrong
        await self._records.found_to_differ()
        return await self._proof.root(own, jump) == (point.root_low, point.root_high)

    def log_goes_on(self) -> None:
        """The source sends log: what has arrived of a jump is not needed. RevolumeError: the copy has jumped, and
        its log is over."""
        if self._is_flipped:
            raise self._flipped()
        if self.now is not None:
            self._tasks.begin(self._needless())

    async def _needless(self) -> None:
        with suppress(RevolumeError, OSError):
            await self._discard()

    @property
    def _is_flipped(self) -> bool:
        return self._manifest.state.jumped is not None

    def _receiving(self) -> StagedJump:
        if self._is_flipped:
            raise self._flipped()
        if self.now is None:
            raise Refused(
                "no-jump", "Changed blocks were sent to a copy that expects none.", "Look at its source."
            )
        return self._opened()

    def _flipped(self) -> RevolumeError:
        return RevolumeError(
            "jump-flipped",
            f"{self._context.name} has jumped, and is to be opened again before anything is done with it.",
            "Try again in a moment.",
        )

    async def commit(self) -> None:
        """Before a clean stop: what has been put survives it, if the disk takes it."""
        if self._staged is not None and not self._is_flipped:
            await self._staged.settle()

    async def close(self) -> None:
        """Let go of the files."""
        if self._staged is not None:
            await self._staged.close()


async def _marks(proof: JumpProof, jump: Jump, now_ns: int) -> Marks:
    """Nobody knows which of the blocks that arrived differed before: earlier moments are suspect in all."""
    blocks, opening = await proof.blocks(jump), jump.target.epochs[-1]
    rows = rows_of(blocks, WriteNumber(0), jump.target.point.write)
    return Marks(opening.reign, jump.target.since, now_ns, CAUSE, rows)
