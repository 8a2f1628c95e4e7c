"""Bugs planted into the code at run time, one at a time: each must be caught by a world within so many seeds.

This tests the tests. A plant is a patch of a few names, a world that should notice, and how many seeds it may
take. Several of these were real once; of some their story says that the simulation itself found them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from revolume.chain import received
from revolume.chain.versions import newest
from revolume.cli import primary
from revolume.history import scratch, timeline, views
from revolume.log import commit, tail
from revolume.log.transfer import Kind
from revolume.mirror import decide, origin, reporter, target
from revolume.mirror.messages import Positions
from revolume.nbd import places, stalls, unanswered
from revolume.offline import rebuilt, salvage
from revolume.sim import disk
from revolume.sim.campaign import one
from revolume.sim.part import Part
from revolume.sim.patched import Patch, patched
from revolume.sim.worlds import WORLDS
from revolume.volume import (
    basefill,
    core,
    ending,
    folder,
    foldjob,
    lived,
    loading,
    mirrors,
    opening,
    partials,
    reader,
    replay,
    room,
    secondary,
    volume,
)
from revolume.volume.manifest import EditKind, pack_base, pack_number


@dataclass(frozen=True, slots=True)
class Plant:
    """``patches``: (owner, name, what it becomes). ``world``: who should notice, within ``seeds``; where most of
    what happens there can't show it, the operator does only what can (``focus``)."""

    name: str
    story: str
    world: str
    seeds: int
    patches: tuple[Patch, ...]
    focus: str = ""
    """What the operator does, if not everything."""


def _lived(plant: Plant, seed: int) -> list[str]:
    """What is wrong after a seed."""
    if not plant.focus:
        return one(plant.world, seed)[0].wrong
    chosen = dict.fromkeys(plant.focus.split(), 1)
    world = type("Focused", (WORLDS[plant.world],), {"operations": lambda self: chosen})
    return list(world(seed).live().wrong)


def caught(plant: Plant) -> tuple[int, str] | None:
    """After how many seeds, and what was said; None: not within its number."""
    with patched(plant.patches):
        for seed in range(plant.seeds):
            try:
                wrong = _lived(plant, seed)
            except Exception as error:  # it went so wrong that the world itself broke
                return seed + 1, repr(error)[:160]
            if wrong:
                return seed + 1, " ".join(wrong[0].split())[:160]
    return None


def _caught_by_name(name: str) -> tuple[int, str] | None:
    return caught(next(plant for plant in PLANTED if plant.name == name))


def planted_part(name: str, jobs: int, say: Callable[[str], None]) -> Part:
    """All of them, or the one of that name, each alone: how many seeds each has taken."""
    made = Part("planted", "Bugs planted on purpose", 20)
    chosen = [plant for plant in PLANTED if name in ("", plant.name)]
    rows = ["| planted | what it does | world | seeds allowed | caught by seed | how it showed |",
            "|---|---|---|---:|---:|---|"]  # fmt: skip
    with ProcessPoolExecutor(jobs, initializer=os.nice, initargs=(10,)) as work:
        all_found = work.map(_caught_by_name, [plant.name for plant in chosen])
        for plant, found in zip(chosen, all_found, strict=True):
            after, shown = found or (0, "NOT CAUGHT")
            say(f"{plant.name}: {f'seed {after} of {plant.seeds}, ' if found else ''}{shown}")
            where = f"{plant.world}: {plant.focus}" if plant.focus else plant.world
            cells = (plant.name, plant.story, where, plant.seeds, after or "—", shown.replace("|", "/"))
            rows.append(f"| {' | '.join(map(str, cells))} |")
            if found is None:
                command = f"python -m revolume.sim --planted {plant.name}"
                made.failures.append(f"{plant.name} was not caught: `{command}`.")
    made.counts = {"planted bugs": len(chosen), "planted bugs caught": len(chosen) - len(made.failures)}
    made.notes = ["\n".join(rows)]
    return made


# What becomes of the names


async def _at_once(*_: Any) -> None:
    return None


def _unsynced(*names: str) -> Callable[[disk.SimFile], Callable[[], None]]:
    """Files of these names are never synced."""
    sync = disk.SimFile.begin_sync

    def begin_sync(file: disk.SimFile) -> Callable[[], None]:
        return (lambda: None) if file.name.startswith(names) else sync(file)

    return begin_sync


async def _sync_then_look(self: commit.Commit) -> None:
    """The position is taken when the sync is over: what came meanwhile is called durable too."""
    files, self._dirty = list(self._dirty.values()), {}
    self.unsynced_bytes = 0
    for file in files:
        await self._work.call_sync(file.datasync)
    self.unsynced_bytes = 0
    self._advance(self._position())


async def _sync_again(self: commit.Commit) -> None:
    """A sync that failed is tried again, and the second one succeeds."""
    target, files, self._dirty = self._position(), list(self._dirty.values()), {}
    self.unsynced_bytes = 0
    for file in files:
        for _ in range(20):
            try:
                await self._work.call_sync(file.datasync)
                break
            except OSError:
                continue
    self._advance(target)


async def _copied_unsynced(self: ending.Ending, found: list[Any]) -> list[Any]:
    ground, copies = self._ground, list[Any]()
    stated = (ground.stated.durable, ground.stated.edit, ground.stated.horizon)
    for each in found:
        if not copies or not copies[-1].fits(each):
            copies.append(tail.TailCopy(await ground.pool.fresh(), ground.state.volume, stated))
        copies[-1].add(each)
    return copies


async def _folded_early(self: folder.Folder, target: Any) -> None:
    """Only what lies in front of the point's cut is durable, not the record that has its partial blocks."""
    self.retired_write = target.write
    await self._core.recorder.record((EditKind.FOLDING, pack_number(target.write)))
    await self._core.commit.wait_durable(target.position)
    await self._core.footers_written()
    spec = self._spec(target)
    await self._give_room(target)
    await self._core.host.work.job(foldjob.fold, spec)
    await self._flip(target, spec)


class _Equal:
    """Whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def _all_durable(self: reporter.Reporter) -> Positions:
    there = self._secondary
    agreed = there.agreed
    if agreed is None:
        return Positions(there.received, there.received, 0, 0)
    return Positions(there.received, there.received, agreed.number, agreed.position)


async def _replayed_without_its_end(live: Any, columns: Any, *more: Any) -> Any:
    return await _replay(live, columns[:-1], *more)


_replay = replay.replay


async def _base_without_image(self: basefill.BaseFill) -> None:
    core, reached, self._unsynced = self._core, self.next_block, 0
    async with self._digests:
        self._generation += 1
        await core.host.work.call_sync(self._commit_digests, self._generation)
    await core.recorder.record((EditKind.BASE, pack_base(reached)))
    self.durable_block = reached


def _resumed(then: Callable[[Any], None]) -> Callable[..., None]:
    """Opening, and something undone of it."""
    resume = loading.Loading._resume

    def resumed(self: loading.Loading, core: Any, tail: Any, state: Any) -> None:
        write = core.appender.write
        resume(self, core, tail, state)
        then((core, write))

    return resumed


def _unreserved(found: Any) -> None:
    found[0].appender.write = found[1]


def _as_the_last(found: Any) -> None:
    found[0].appender.epoch = max(1, found[0].appender.epoch - 1)


async def _uses_again(self: ending.Ending, found: Any) -> Any:
    """They go on behind what stands of the log: what stood ready counts for nothing."""
    self._ground.pool.next_use = 1 + max((piece.segment.use for piece in found.pieces), default=0)
    return await _rewritten(self, found)


_rewritten = ending.Ending._rewritten


def _without_last_record(volume: Any, pieces: Any, horizon: Any, upto: Any = None) -> Any:
    points, records = _read_points(volume, pieces, horizon, upto)
    return points[:-1], records[:-1]


_read_points = replay.read_points


async def _never(*_: Any) -> bool:
    return False


def _nearest(self: timeline.Timeline, number: int) -> Any:
    """What is not retained any more is answered with the oldest that is."""
    return _at_write(self, max(number, self.oldest.write))


_at_write = timeline.Timeline._at_write


def _not_the_newest(versions: Any, after: int, upto: int) -> Any:
    """Of what the last write of an interval wrote the version before is taken."""
    return newest(versions, after, max(after, upto - 1))


def _found_nowhere(*_: Any) -> memoryview:
    return memoryview(bytes(4096))


def _all_that_lies_there(found: Any, *_: Any) -> Any:
    chained = [one for one in found if one.transfer.kind != Kind.FIXUP]
    return sorted(chained, key=lambda one: (one.transfer.position, one.transfer.epoch))


def _without_points(log: Any) -> Any:
    return _columns([one for one in log if one.transfer.kind == Kind.WRITES])


_columns = salvage._columns


async def _begun_anew(self: mirrors.Mirrors, mirror: mirrors.Mirror, start: Any = None) -> Any:
    """Also a mirror that has joined begins anew, and is not required meanwhile."""
    await self._change(mirror, mirrors.forgotten)
    return await _pin_base(self, mirror, start)


_pin_base = mirrors.Mirrors.pin_base


def _ever_acknowledged(
    self: mirrors.Mirrors, mirror: mirrors.Mirror, received: int, durable: int, point: int, position: int
) -> None:
    """What a mirror has said once counts for good."""
    mirror.received, mirror.durable = max(mirror.received, received), max(mirror.durable, durable)
    mirror.agreed_point = max(mirror.agreed_point, point)
    mirror.agreed_position = max(mirror.agreed_position, position)
    mirror.settle()
    self._release()


def _lived_by_wall(self: Any, clock: Any, reached_ns: int) -> None:
    self._monotonic_ns = clock.wall_ns
    self._base_ns = max(reached_ns, lived.FIRST_NS) - clock.wall_ns()


def _clock_followed_silently(core: Any) -> None:
    due = core.labels.due()
    if due is not None:
        core.labels.set(due[1])
        core.appender.step_to(due[1])


PLANTED: Final = (
    Plant("names-not-synced", "no directory is ever synced", "cuts", 6,
          ((disk.SimDirectory, "begin_sync", lambda self: lambda: None),)),
    Plant("answered-before-synced", "FLUSH and FUA are answered at once", "primary", 10,
          ((volume.Volume, "durable", _at_once),), "power"),
    Plant("position-after-sync", "a sync covers what was appended while it ran", "primary", 40,
          ((commit.Commit, "_sync_once", _sync_then_look),), "power"),
    Plant("sync-tried-again", "a failed sync is repeated until it succeeds", "primary", 40,
          ((commit.Commit, "_sync_once", _sync_again),), "sync_error stop power"),
    Plant("image-not-synced", "a fold flips to an image that is not on the disk", "primary", 30,
          ((disk.SimFile, "begin_sync", _unsynced("image")),)),
    Plant("manifest-not-synced", "manifest edits are not synced", "cuts", 6,
          ((disk.SimFile, "begin_sync", _unsynced("manifest")),)),
    Plant("tail-copy-not-synced", "the rewritten tail is not synced before serving", "primary", 60,
          ((ending.Ending, "_copy_tail", _copied_unsynced),), "power"),
    Plant("footers-not-synced", "a clean stop leaves footers in memory (found here)", "primary", 20,
          ((core.Core, "footers_durable", core.Core.footers_written),)),
    Plant("torn-payload-taken", "recovery does not look at payloads", "cuts", 6,
          ((tail, "payload_holds", lambda found: True),)),
    Plant("half-writes-kept", "a write that is only partly there is kept", "primary", 60,
          ((tail, "complete_prefix", lambda found: found),)),
    Plant("digests-ignored", "what is read is not compared with its digest", "rot", 30,
          ((reader, "_checked", lambda *_: True), (reader, "block_digests", lambda *_: _Equal()))),
    Plant("last-segment-forgotten", "opening does not replay the newest segment", "primary", 10,
          ((loading, "replay", _replayed_without_its_end),)),
    Plant("overwritten-fragments-live", "fragments survive a whole overwrite", "primary", 20,
          ((partials.Partials, "overwritten", lambda *_: None),)),
    Plant("holders-ignored", "folding looks neither at pins nor at leases", "primary", 20,
          ((folder, "holders", lambda core: []),), "snapshot point moments"),
    Plant("nobody-gives-way", "a full log ends nobody's view, and refuses the write", "primary", 20,
          ((room, "make_way", lambda core, folder: None),), "readers"),
    Plant("ended-view-reads-on", "a view that has given way goes on reading what there is", "primary", 20,
          ((views.Tenure, "check", lambda self: None),), "readers"),
    Plant("overlay-without-quota", "a throw-away overlay takes what it likes", "primary", 20,
          ((scratch.Scratch, "_admit", lambda *_: None),), "readers"),
    Plant("released-without-mirror", "a write is answered before a required mirror has it", "pair", 20,
          ((mirrors.Mirrors, "released", lambda *_: True),), "promote"),
    Plant("flushed-without-mirror", "a flush is answered before a required mirror has synced", "pair", 30,
          ((mirrors.Mirrors, "wait_durable", _at_once),), "promote"),
    Plant("mirror-durable-early", "a mirror calls durable what it has received", "pair", 60,
          ((reporter.Reporter, "_positions", _all_durable),), "promote"),
    Plant("log-not-held-for-mirror", "segments that a mirror still needs are recycled", "pair", 60,
          ((mirrors.Mirrors, "_hold", lambda *_: None),)),
    Plant("numbers-go-back", "a promoted mirror numbers from its last write (found here)", "pair", 60,
          ((loading, "_newest_stated", lambda *_: 0),), "promote power"),
    Plant("old-footers-forgotten", "footers of a killed life are never synced (found here)", "primary", 20,
          ((loading.Loading, "_resume", _resumed(lambda found: found[0].sealed.clear())),)),
    Plant("last-delta-dropped", "opening leaves out the last point's delta", "primary", 20,
          ((replay, "read_points", _without_last_record),)),
    Plant("stale-reference", "a mirror's point takes an older version of a block", "pair", 10,
          ((received, "newest", _not_the_newest),)),
    Plant("pages-not-synced", "the digests' page table is renamed before it is synced", "cuts", 20,
          ((disk.SimFile, "begin_sync", _unsynced("image.pages")),)),
    Plant("digests-not-synced", "a fold flips to digests that are not on the disk", "primary", 40,
          ((disk.SimFile, "begin_sync", _unsynced("image.sums")),)),
    Plant("base-not-synced", "a base is called there before its image is on the disk", "pair", 10,
          ((basefill.BaseFill, "_commit_stretch", _base_without_image),), "half_base power_mirror"),
    Plant("longer-tail-not-fetched", "a source opens without what only its mirror has", "pair", 40,
          ((primary, "fetch_longer_tail", _at_once),), "power"),
    Plant("position-alone", "two logs are taken for one if they reach as far", "pair", 120,
          ((decide, "identity", lambda end: 0),), "cut_off_power"),
    Plant("numbers-again", "write numbers that a crash may have used are given out again", "primary", 10,
          ((loading.Loading, "_resume", _resumed(_unreserved)),)),
    Plant("transfers-again", "an opening, and so its transfers, is numbered as the one before", "primary", 10,
          ((loading.Loading, "_resume", _resumed(_as_the_last)),)),
    Plant("uses-again", "use numbers of segments that stood ready are given out again", "primary", 10,
          ((ending.Ending, "_rewritten", _uses_again),)),
    Plant("epoch-not-compared", "a mirror lets in a source of an opening that is over", "pair", 40,
          ((decide, "_outdated", lambda hello, target: None),), "promote"),
    Plant("fold-before-record", "a fold does not wait for its point's record (found here)", "primary", 40,
          ((folder.Folder, "_fold", _folded_early),), "fold_power"),
    Plant("copy-let-in", "a copy of a source's directory pushes out a source that is heard", "pair", 20,
          ((target.Target, "_still_speaks", _never),), "copy"),
    Plant("pruned-answered", "a pruned moment is answered with the oldest that is retained", "primary", 20,
          ((timeline.Timeline, "_at_write", _nearest),), "point moments"),
    Plant("no-deadline", "clients that hold up what others wait for are never ended", "primary", 6,
          ((stalls.Stalls, "_is_late", lambda *_: False),), "greedy"),
    Plant("unanswered-uncounted", "requests are taken however many wait for their answers", "pair", 10,
          ((unanswered.Tally, "full", property(lambda self: False)),), "endless"),
    Plant("strangers-stay", "connections without an export never give way", "primary", 10,
          ((places.Places, "_who_goes", lambda *_: None),), "greedy"),
    Plant("aged-by-the-wall-clock", "age is counted by the wall clock", "primary", 20,
          ((lived.LivedTime, "__init__", _lived_by_wall),), "clock moments"),
    Plant("step-not-stated", "labels follow the wall clock, and no fact says so", "primary", 20,
          tuple((owner, "follow_clock", _clock_followed_silently) for owner in (volume, opening)),
          "clock moments"),
    Plant("names-left-behind", "a new mirror is not told the names of before it", "pair", 40,
          ((origin, "held_by", lambda write, snapshots: ([], [])),), "snapshot wipe_mirror promote"),
    Plant("base-begins-now", "a new mirror's base begins at a point made for it, whatever is named before", "pair",
          40, ((volume, "base_start", lambda *_: None),), "snapshot point wipe_mirror promote"),
    Plant("budget-before-source", "a mirror whose budget is used up stops its source", "pair", 60,
          ((secondary.Secondary, "_exceed_budget", lambda self: False),), "snapshot readers point kill_mirror"),
    Plant("salvage-silent", "salvage does not say which blocks are lost", "rot", 40,
          ((rebuilt.Rebuilt, "_elsewhere", _found_nowhere),)),
    Plant("salvage-takes-all", "salvage takes transfers too behind which the log went on elsewhere", "primary", 40,
          ((salvage, "lineage", _all_that_lies_there),), "power"),
    Plant("salvage-without-points", "salvage leaves out what points carry", "primary", 40,
          ((salvage, "_columns", _without_points),), "fold_power power"),
    Plant("mirror-from-nothing", "an empty directory takes the place of a copy that has joined", "pair", 30,
          ((decide, "_replaced", lambda hello, what: None), (mirrors.Mirrors, "pin_base", _begun_anew)),
          "stranger"),
    Plant("copy-not-compared", "another copy of the volume takes the place of the one that has joined", "pair", 40,
          ((mirrors.Mirror, "node", property(lambda self: bytes(16))),), "stranger replace"),
    Plant("acknowledged-for-good", "what a mirror said counts although it comes back with less", "pair", 20,
          ((mirrors.Mirrors, "connected", _ever_acknowledged),
           (mirrors.Mirrors, "acknowledged", _ever_acknowledged)), "older"),
)  # fmt: skip
"""Each was seen to be caught, well within its seeds."""
