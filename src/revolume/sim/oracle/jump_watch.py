"""Jumps as they happen, in any process of a world: whoever waits for a step is told in the middle of it, and
what is promised of every session that brings a mirror up to date is judged beside the code that does it.

No whole copy is given a base, and none that wrote alone a difference. None is refused for want of log while its
source retains the point at which it stands, or an earlier one of the same log. A difference sends the blocks
that were written since, once: at most 1.05 times their bytes, and a few of each frame. One that begins anew jumps
over no snapshot that its source holds. What is pinned for a mirror goes for want of room on the disk, or not at
all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Point
from revolume.mirror.catch_up_plan import Rule
from revolume.mirror.source.changed_reader import ChangedBlocks
from revolume.mirror.source.source_session import SourceSession
from revolume.mirror.wire.greeting_messages import TargetState, Welcome
from revolume.sim.kernel.monkeypatch import Patch
from revolume.sim.kernel.process import PROCESS, Process
from revolume.sim.oracle.model import Model
from revolume.volume.dirty.dirty_regions import DirtyRegions
from revolume.volume.jump.jumping import Jumping
from revolume.volume.jump.staged_jump import StagedJump
from revolume.volume.members.kept_for_mirrors import KeptForMirrors
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.manifest_state import PinnedSnapshot
from revolume.volume.open.land import Landing
from revolume.volume.open.log_identity import End
from revolume.volume.primary import Volume

STEPS: Final = (
    ("begun", Jumping, "_begin", False), ("read", ChangedBlocks, "next_rows", True),
    ("put", StagedJump, "put", True), ("kept", StagedJump, "_commit_stretch", False),
    ("whole", Jumping, "_proved_and_flipped", True), ("flip", StagedJump, "flip", True),
    ("flipped", StagedJump, "flip", False), ("land", Landing, "_land", True), ("rescue", Landing, "_rescue", True),
    ("apply", Landing, "_applied", True), ("applied", Landing, "_applied", False),
    ("landed", Landing, "_land", False), ("dropped", Jumping, "_drop", True),
)  # fmt: skip
"""Name, the method that does it, and whether it is told of before or after that is done. In their usual order."""
FRAME_BYTES = 256
ROW_BYTES = 24
Told = Callable[[str], None]


class JumpWatch:
    """Of one world. ``say`` takes what is wrong; ``foreign``: this process serves something that
    the model does not know."""

    def __init__(self, model: Model, say: Callable[[str], None], foreign: Callable[[Process], bool]) -> None:
        self._model = model
        self._say = say
        self._foreign = foreign
        self._waiting: list[tuple[str, int, Told]] = []
        self.counts: Counter[str] = Counter()
        self.rules: Counter[str] = Counter()
        """How often each step, and each rule."""
        self.pins_dropped = 0
        self.holes: dict[bytes, list[tuple[int, int]]] = {}
        """By node, the writes from which on its copy has jumped and up to which: it has nothing between them."""
        self._sent: dict[int, tuple[Point, int, int]] = {}
        """By session: the common point, bytes and frames."""
        self._kept: dict[int, KeptForMirrors] = {}

    def when(self, step: str, count: int, told: Told) -> None:
        """Call back in the middle of this step, the ``count``-th from now, in whose process it is: with the name
        of its machine."""
        self._waiting.append((step, self.counts[step] + count, told))

    def nobody_waits(self) -> None:
        """Whatever was asked for is not, any more."""
        self._waiting.clear()

    def _happens(self, step: str) -> None:
        process = PROCESS.get()
        if process is None or self._foreign(process):
            return
        self.counts[step] += 1
        due = [each for each in self._waiting if each[0] == step and each[1] <= self.counts[step]]
        self._waiting = [each for each in self._waiting if each not in due]
        for _, _, told in due:
            told(process.machine)

    # What is watched

    def patches(self) -> list[Patch]:
        """In the place of the code as it is now, planted bugs included."""
        found: dict[tuple[Any, str], Any] = {}
        for step, owner, name, before in STEPS:
            original = found.get((owner, name)) or getattr(owner, name)
            found[owner, name] = self._noted(step, original, before)
        found[Landing, "_land"] = self._landing(found[Landing, "_land"])
        found[SourceSession, "_plan"] = self._planned(SourceSession._plan)
        found[SourceSession, "_begin_difference"] = self._counted(SourceSession._begin_difference)
        found[SourceSession, "_difference_done"] = self._judged(SourceSession._difference_done)
        found[KeptForMirrors, "drop_pin"] = self._dropped(KeptForMirrors.drop_pin)
        found[KeptForMirrors, "start"] = self._opened(KeptForMirrors.start)
        found[DirtyRegions, "drop"] = self._cleared(DirtyRegions.drop)
        return [(owner, name, value) for (owner, name), value in found.items()]

    def _noted(self, step: str, original: Any, before: bool) -> Any:
        async def noted(*args: Any, **more: Any) -> Any:
            if before:
                self._happens(step)
            result = await original(*args, **more)
            if not before:
                self._happens(step)
            return result

        return noted

    def _landing(self, original: Any) -> Any:
        async def landing(owner: Any, jump: Any) -> None:
            state = owner._ground.state
            self.holes.setdefault(state.node, []).append((state.agreed.write, jump.target.point.write))
            await original(owner, jump)

        return landing

    def lacks(self, node: bytes, write: int) -> bool:
        """A copy has jumped over this write."""
        return any(since < write < upto for since, upto in self.holes.get(node, []))

    def _planned(self, original: Any) -> Any:
        async def planned(session: Any, welcome: Welcome) -> None:
            try:
                await original(session, welcome)
            finally:
                self._judge_plan(session, welcome)

        return planned

    def _judge_plan(self, session: Any, welcome: Welcome) -> None:
        process, plan, volume = PROCESS.get(), session.progress.plan, session._volume._volume
        if process is None or self._foreign(process) or not process.alive or plan is None:
            return
        self.rules[plan.rule.label] += 1
        if welcome.state != TargetState.WHOLE:
            return
        if plan.rule in (Rule.BASE, Rule.RESUME_BASE):
            self._say(f"a whole copy is given a base: {plan.reason}")
        ours = is_of(volume, welcome.end)
        if (plan.rule.jumps or plan.rule == Rule.LOG_TO_CUT) and not ours:
            self._say(f"what a copy wrote alone, up to w{welcome.end.write}, would be dropped: {plan.reason}")
        by_nothing = plan.rule in (Rule.LOG_GONE, Rule.COMPARISON)
        if by_nothing and ours and (known := _known(volume, welcome)) is not None:
            self._say(f"a copy that has come to cp{known.number}, which is there, is lost: {plan.reason}")

    def _counted(self, original: Any) -> Any:
        async def counted(session: Any, rule: Rule, facts: Any, welcome: Welcome) -> None:
            before = session._volume._volume.manifest.state.snapshots
            await original(session, rule, facts, welcome)
            base, since = session.progress.base, None
            if facts.common is not None and not facts.common.regions:
                since = session._volume.differences.since(facts.common.point)
            if welcome.base is None:
                self._judge_names(session._volume._volume, before, welcome.agreed_point, base._point)
            if since is None:
                return
            self._sent[id(session)] = since, 0, 0
            sent = base._sent

            def told(size: int) -> None:
                point, total, frames = self._sent[id(session)]
                self._sent[id(session)] = point, total + size, frames + 1
                sent(size)

            base._sent = told

        return counted

    def _judge_names(self, volume: Volume, before: Sequence[PinnedSnapshot], stands: int, point: Point) -> None:
        """``before``: the snapshots when it was decided to which point the difference leads."""
        still = {pin.name: pin for pin in volume.manifest.state.snapshots}
        held = {each.number for each in (*volume.points(), *volume.isolated_points())}
        for pin in before:
            if still.get(pin.name) == pin and pin.point in held and stands < pin.point < point.number:
                self._say(f"a difference from cp{stands} to cp{point.number} jumps over {pin.name}, cp{pin.point}")

    def _judged(self, original: Any) -> Any:
        def judged(session: Any, point: Point) -> None:
            process = PROCESS.get()
            since, total, frames = self._sent.pop(id(session), (None, 0, 0))
            if since is not None and process is not None and not self._foreign(process):
                self._judge_bytes(since, point, total, frames)
            original(session, point)

        return judged

    def _judge_bytes(self, since: Point, point: Point, total: int, frames: int) -> None:
        blocks = self._model.changed(since.write, point.write)
        allowed = 1.05 * BLOCK * blocks + FRAME_BYTES * (frames + 1) + ROW_BYTES * blocks
        if total > allowed:
            between = f"between w{since.write} and w{point.write}"
            self._say(f"{total} bytes were sent for the {blocks} blocks written {between}")

    def _dropped(self, original: Any) -> Any:
        async def dropped(kept: KeptForMirrors) -> Any:
            gone = await original(kept)
            self.pins_dropped += bool(gone)
            return gone

        return dropped

    def _opened(self, original: Any) -> Any:
        def opened(kept: KeptForMirrors) -> None:
            self._kept[id(kept._dirty)] = kept
            original(kept)

        return opened

    def _cleared(self, original: Any) -> Any:
        """What is noted for a mirror may go once that has on its disk what more is kept from."""

        async def cleared(regions: DirtyRegions, name: str) -> None:
            kept = self._kept.get(id(regions))
            if kept is not None and regions.of(name) is not None:
                self._judge_cleared(kept, next((m for m in kept._records if m.name == name), None))
            await original(regions, name)

        return cleared

    def _judge_cleared(self, kept: KeptForMirrors, mirror: Mirror | None) -> None:
        if mirror is None or not mirror.state.kept:
            return
        durable = min(mirror.durable, kept._commit.durable)
        for point in kept._retained:
            if point.number == mirror.state.point and point.position > durable:
                self._say(f"what was noted for {mirror.name} goes, which does not have cp{point.number}")


def is_of(volume: Volume, end: End) -> bool:
    """Whether a log that ends so is a beginning of this one, by the openings: two that went on from one moment
    give out the same numbers of writes."""
    epochs = volume.manifest.state.epochs
    ends = [*(epoch.position for epoch in epochs[1:]), volume.position]
    return not end.position or any(
        (epoch.number, epoch.reign) == (end.epoch, end.reign) and end.position <= upto
        for epoch, upto in zip(epochs, ends, strict=True)
    )


def _known(volume: Volume, welcome: Welcome) -> Point | None:
    """The newest point of its source that is not behind the one at which a copy stands."""
    number, position = welcome.agreed_point, welcome.agreed_position
    found = [
        point
        for point in (*volume.points(), *volume.isolated_points())
        if point.number <= number and point.position <= position
    ]
    return max(found, key=lambda point: point.number, default=None)
