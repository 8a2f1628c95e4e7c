"""Bugs planted into the code at run time, one at a time: each must be caught by a world within so many seeds.

This tests the tests. A plant is a patch of a few names, a world that should notice, and how many seeds it may
take. Several of these were real once; of some their story says that the simulation itself found them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.chain import reference_resolver
from revolume.chain.versions import newest
from revolume.history import resolver, views, writable_overlay
from revolume.log.format.transfer import Kind
from revolume.log.read import recovery as tail
from revolume.log.write import group_commit
from revolume.mirror import catch_up_plan
from revolume.mirror.source import base_planner as origin
from revolume.mirror.target import reporter, target
from revolume.nbd.bounds import places, stalls, unanswered
from revolume.node import primary_role as primary
from revolume.offline.salvage import output_image, salvage
from revolume.sim.campaigns.heal_plants import HEAL_PLANTS
from revolume.sim.campaigns.ladder_plants import LADDER_PLANTS
from revolume.sim.campaigns.lease_plants import LEASE_PLANTS
from revolume.sim.campaigns.plant import Plant
from revolume.sim.campaigns.planted_comparisons import PLANTED_COMPARISONS
from revolume.sim.campaigns.planted_fetches import PLANTED_FETCHES
from revolume.sim.campaigns.planted_jumps import PLANTED_JUMPS
from revolume.sim.campaigns.planted_marks import PLANTED_MARKS
from revolume.sim.campaigns.planted_restores import PLANTED_RESTORES
from revolume.sim.campaigns.policy_plants import POLICY_PLANTS
from revolume.sim.campaigns.scrub_plants import SCRUB_PLANTS
from revolume.sim.kernel import disk
from revolume.volume import footer_writer, primary_upkeep
from revolume.volume import primary as volume
from revolume.volume.clocks import lived_time as lived
from revolume.volume.image import base_receiver as basefill
from revolume.volume.image import fold_job as foldjob
from revolume.volume.livemap import partial_blocks, point_records, reader, replay
from revolume.volume.members import mirror as mirror_record
from revolume.volume.members import mirror_records, mirrors
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.manifest_edits import EditKind, pack_base, pack_number
from revolume.volume.open import assemble as loading
from revolume.volume.open import log_recovery as ending
from revolume.volume.open import open as opening
from revolume.volume.rescue import rescue_job as rescuejob
from revolume.volume.rescue import rescued_blocks as rescued
from revolume.volume.space import fold_planner as planner
from revolume.volume.space import folder, holders, rescuer, retention
from revolume.volume.space import make_room as room

# What becomes of the names


async def _at_once(*_: Any) -> None:
    return None


def _unsynced(*names: str) -> Callable[[disk.SimFile], Callable[[], None]]:
    """Files of these names are never synced."""
    sync = disk.SimFile.begin_sync

    def begin_sync(file: disk.SimFile) -> Callable[[], None]:
        return (lambda: None) if file.name.startswith(names) else sync(file)

    return begin_sync


def _rescue_unsynced() -> Callable[[disk.SimFile], Callable[[], None]]:
    sync = disk.SimFile.begin_sync

    def begin_sync(file: disk.SimFile) -> Callable[[], None]:
        return (lambda: None) if file.name.endswith(".blocks") else sync(file)

    return begin_sync


def _own_tables(self: rescued.RescuedBlocks, since: WriteNumber, until: WriteNumber | None) -> Any:
    return (table for each in self._moments if each.moment.write == since for table in each.tables.values())


async def _gone(self: rescuer.Rescuer, write: WriteNumber) -> None:
    await self._record(gone=(write,))


async def _sync_then_look(self: group_commit.GroupCommit) -> None:
    """The position is taken when the sync is over: what came meanwhile is called durable too."""
    files, self._dirty = list(self._dirty.values()), {}
    self.unsynced_bytes = 0
    for file in files:
        await self._work.call_sync(file.datasync)
    self.unsynced_bytes = 0
    self._advance(self._position())


async def _sync_again(self: group_commit.GroupCommit) -> None:
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
    stated = (ground.header.durable, ground.header.edit, ground.header.horizon)
    for each in found:
        if not copies or not copies[-1].fits(each):
            copies.append(tail.TailCopy(await ground.pool.fresh(), ground.state.volume, stated))
        copies[-1].add(each)
    return copies


async def _folded_early(self: folder.Folder, target: Any) -> None:
    """Only what lies in front of the point's cut is durable, not the record that has its partial blocks."""
    log = self._log
    self.retired_write = target.write
    await log.manifest.record((EditKind.FOLDING, pack_number(target.write)))
    await log.commit.wait_durable(target.position)
    await log.footers.written()
    job = self._planner.job(target)
    await self._room.make(self._planner.log_bytes(target))
    await log.work.job(foldjob.fold, job)
    await self._flip.to(target, job)


class _Equal:
    """Whatever it is compared with."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def _all_durable(self: reporter.Reporter) -> Positions:
    there = self._secondary
    return Positions(there.received, there.received, there.agreed.number, there.agreed.position)


async def _replayed_without_its_end(live: Any, columns: Any, *more: Any) -> Any:
    return await _replay(live, columns[:-1], *more)


_replay = replay.replay


async def _base_without_image(self: basefill.BaseFill) -> None:
    reached, self._unsynced = self.next_block, 0
    async with self._digests:
        self._generation += 1
        await self._work.call_sync(self._commit_digests, self._generation)
    await self._manifest.record((EditKind.BASE, pack_base(reached)))
    self.durable_block = reached


def _resumed(then: Callable[[Any], None]) -> Callable[..., None]:
    """Opening, and something undone of it."""
    resume = loading.Loading._resume

    def resumed(self: loading.Loading, log: Any, tail: Any, points: Any) -> None:
        write = log.appender.write
        resume(self, log, tail, points)
        then((log, write))

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


def _without_last_record(volume: Any, pieces: Any, horizon: Any, *rest: Any) -> Any:
    points, records = _read_points(volume, pieces, horizon, *rest)
    return points[:-1], records[:-1]


_read_points = point_records.read_points


async def _never(*_: Any) -> bool:
    return False


def _nearest(self: resolver.MomentResolver, number: WriteNumber) -> Any:
    """What is not retained any more is answered with the oldest that is."""
    return _at_write(self, max(number, self.oldest.write))


_at_write = resolver.MomentResolver._at_write


def _not_the_newest(versions: Any, after: WriteNumber, upto: WriteNumber) -> Any:
    """Of what the last write of an interval wrote the version before is taken."""
    return newest(versions, after, max(after, WriteNumber(upto - 1)))


def _found_nowhere(*_: Any) -> memoryview:
    return memoryview(bytes(BLOCK))


def _all_that_lies_there(found: Any, *_: Any) -> Any:
    chained = [one for one in found if one.transfer.kind != Kind.LOCAL_BLOCKS]
    return sorted(chained, key=lambda one: (one.transfer.position, one.transfer.epoch))


def _without_points(log: Any) -> Any:
    return _columns([one for one in log if one.transfer.kind == Kind.WRITES])


_columns = salvage._columns


async def _begun_anew(self: mirrors.Mirrors, mirror: mirror_record.Mirror, start: Any = None) -> Any:
    """Also a mirror that has joined begins anew, and is not required meanwhile."""
    await self._records.change(mirror, mirrors.forgotten)
    return await _pin_base(self, mirror, start)


_pin_base = mirrors.Mirrors.pin_base


def _ever_acknowledged(self: mirrors.Mirrors, mirror: mirror_record.Mirror, now: Positions) -> None:
    """What a mirror has said once counts for good."""
    mirror.received, mirror.durable = max(mirror.received, now.received), max(mirror.durable, now.durable)
    mirror.agreed_point = max(mirror.agreed_point, now.agreed_point)
    mirror.agreed_position = max(mirror.agreed_position, now.agreed_position)
    mirror.settle()
    self._release()


def _lived_by_wall(self: Any, clock: Any, reached_ns: int) -> None:
    """Ages what is set forward; what is set back makes nothing younger, which would end in other errors."""
    newest_ns = 0

    def wall_ns() -> int:
        nonlocal newest_ns
        newest_ns = max(newest_ns, int(clock.wall_ns()))
        return newest_ns

    self._monotonic_ns = wall_ns
    self._base_ns = max(reached_ns, lived.FIRST_NS) - wall_ns()


def _clock_followed_silently(clocks: Any, log: Any, events: Any) -> None:
    due = clocks.labels.due()
    if due is not None:
        clocks.labels.set(due[1])
        log.appender.step_to(due[1])


PLANTED: Final = (
    Plant("names-not-synced", "no directory is ever synced", "cuts", 6,
          ((disk.SimDirectory, "begin_sync", lambda self: lambda: None),)),
    Plant("answered-before-synced", "FLUSH and FUA are answered at once", "primary", 10,
          ((volume.Volume, "durable", _at_once),), "power"),
    Plant("position-after-sync", "a sync covers what was appended while it ran", "primary", 40,
          ((group_commit.GroupCommit, "_sync_once", _sync_then_look),), "power"),
    Plant("sync-tried-again", "a failed sync is repeated until it succeeds", "primary", 40,
          ((group_commit.GroupCommit, "_sync_once", _sync_again),), "sync_error stop power"),
    Plant("image-not-synced", "a fold flips to an image that is not on the disk", "primary", 30,
          ((disk.SimFile, "begin_sync", _unsynced("image")),)),
    Plant("manifest-not-synced", "manifest edits are not synced", "cuts", 6,
          ((disk.SimFile, "begin_sync", _unsynced("manifest")),)),
    Plant("tail-copy-not-synced", "the rewritten tail is not synced before serving", "primary", 60,
          ((ending.Ending, "_copy_tail", _copied_unsynced),), "power"),
    Plant("footers-not-synced", "a clean stop leaves footers in memory (found here)", "primary", 20,
          ((footer_writer.FooterWriter, "durable", footer_writer.FooterWriter.written),)),
    Plant("torn-payload-taken", "recovery does not look at payloads", "cuts", 6,
          ((tail, "payload_holds", lambda found: True),)),
    Plant("half-writes-kept", "a write that is only partly there is kept", "cuts", 20,
          ((tail, "complete_prefix", lambda found: found),)),
    Plant("digests-ignored", "what is read is not compared with its digest", "rot", 30,
          ((reader, "_checked", lambda *_: True), (reader, "block_digests", lambda *_: _Equal()))),
    Plant("last-segment-forgotten", "opening does not replay the newest segment", "primary", 10,
          ((loading, "replay", _replayed_without_its_end),)),
    Plant("overwritten-fragments-live", "fragments survive a whole overwrite", "primary", 20,
          ((partial_blocks.PartialBlocks, "overwritten", lambda *_: None),)),
    Plant("holders-ignored", "folding looks neither at pins nor at leases", "primary", 20,
          ((holders.Holders, "oldest_write", lambda self: None),
           (holders.Holders, "firmly_pinned", lambda self: set()),
           (holders.Holders, "pinned_writes", lambda self: [])), "snapshot point moments"),
    Plant("rescue-left-out", "a fold rescues nothing of what a snapshot needs", "primary", 20,
          ((rescuejob, "rescue", lambda disk, spec: rescuejob.Rescued(0, 0)),
           (rescuer, "rescue", lambda disk, spec: rescuejob.Rescued(0, 0))), "snapshot point moments"),
    Plant("rescue-not-synced", "what was rescued is in memory alone when the image is overwritten", "primary", 40,
          ((disk.SimFile, "begin_sync", _rescue_unsynced()),), "snapshot point power fold_power"),
    Plant("newer-rescues-not-asked", "a snapshot is read from its own tables and the image", "primary", 40,
          ((rescued.RescuedBlocks, "_tables_between", _own_tables),), "snapshot point moments"),
    Plant("rescue-goes-with-its-snapshot", "a dropped snapshot takes with it what older ones need", "primary", 40,
          ((rescuer.Rescuer, "_let_go", _gone),), "snapshot drop point moments"),
    Plant("fold-crosses-a-snapshot", "a fold does not stop at a pinned moment", "primary", 20,
          ((planner, "plan_fold", retention._unpinned_plan),
           (planner.FoldPlanner, "allows", lambda self, target: True)), "snapshot point moments"),
    Plant("nobody-gives-way", "a full log ends nobody's view, and refuses the write", "primary", 20,
          ((room.Evictions, "evict", lambda self: None),), "readers"),
    Plant("ended-view-reads-on", "a view that has given way goes on reading what there is", "primary", 60,
          ((views.ViewLease, "check", lambda self: None),), "readers", first=40),
    Plant("overlay-without-quota", "a throw-away overlay takes what it likes", "primary", 20,
          ((writable_overlay.WritableOverlay, "_admit", lambda *_: None),), "readers"),
    Plant("released-without-mirror", "a write is answered before a required mirror has it", "pair", 20,
          ((mirrors.Mirrors, "released", lambda *_: True),), "promote"),
    Plant("flushed-without-mirror", "a flush is answered before a required mirror has synced", "pair", 30,
          ((mirrors.Mirrors, "wait_durable", _at_once),), "promote"),
    Plant("mirror-durable-early", "a mirror calls durable what it has received", "pair", 60,
          ((reporter.Reporter, "_positions", _all_durable),), "promote"),
    Plant("log-not-held-for-mirror", "segments that a mirror still needs are recycled", "pair", 60,
          ((mirror_records.MirrorRecords, "hold", lambda *_: None),)),
    Plant("numbers-go-back", "a promoted mirror numbers from its last write (found here)", "pair", 60,
          ((loading, "_newest_stated", lambda *_: 0),), "promote power"),
    Plant("old-footers-forgotten", "footers of a killed life are never synced (found here)", "primary", 20,
          ((loading.Loading, "_resume", _resumed(lambda found: found[0].footers.adopt({}))),),
          "kill stop", first=5),
    Plant("last-delta-dropped", "opening leaves out the last point's delta", "primary", 20,
          ((replay, "read_points", _without_last_record),)),
    Plant("stale-reference", "a mirror's point takes an older version of a block", "pair", 10,
          ((reference_resolver, "newest", _not_the_newest),)),
    Plant("pages-not-synced", "the digests' page table is renamed before it is synced", "cuts", 20,
          ((disk.SimFile, "begin_sync", _unsynced("image.pages")),)),
    Plant("digests-not-synced", "a fold flips to digests that are not on the disk", "primary", 40,
          ((disk.SimFile, "begin_sync", _unsynced("image.sums")),)),
    Plant("base-not-synced", "a base is called there before its image is on the disk", "pair", 10,
          ((basefill.BaseFill, "_commit_stretch", _base_without_image),), "half_base power_mirror"),
    Plant("longer-tail-not-fetched", "a source opens without what only its mirror has", "pair", 40,
          ((primary, "fetch_longer_tail", _at_once),), "power"),
    Plant("position-alone", "two logs are taken for one if they reach as far", "pair", 120,
          ((catch_up_plan, "identity", lambda end: 0),), "cut_off_power"),
    Plant("numbers-again", "write numbers that a crash may have used are given out again", "primary", 10,
          ((loading.Loading, "_resume", _resumed(_unreserved)),)),
    Plant("transfers-again", "an opening, and so its transfers, is numbered as the one before", "primary", 10,
          ((loading.Loading, "_resume", _resumed(_as_the_last)),)),
    Plant("uses-again", "use numbers of segments that stood ready are given out again", "primary", 10,
          ((ending.Ending, "_rewritten", _uses_again),)),
    Plant("fold-before-record", "a fold does not wait for its point's record (found here)", "primary", 40,
          ((folder.Folder, "_fold", _folded_early),), "fold_power"),
    Plant("copy-let-in", "a copy of a source's directory pushes out a source that is heard", "pair", 20,
          ((target.Target, "_still_speaks", _never),), "copy"),
    Plant("pruned-answered", "a pruned moment is answered with the oldest that is retained", "primary", 20,
          ((resolver.MomentResolver, "_at_write", _nearest),), "point moments"),
    Plant("no-deadline", "clients that hold up what others wait for are never ended", "primary", 6,
          ((stalls.Stalls, "_is_late", lambda *_: False),), "greedy"),
    Plant("unanswered-uncounted", "requests are taken however many wait for their answers", "pair", 10,
          ((unanswered.Tally, "full", property(lambda self: False)),), "endless"),
    Plant("strangers-stay", "connections without an export never give way", "primary", 10,
          ((places.Places, "_who_goes", lambda *_: None),), "greedy"),
    Plant("aged-by-the-wall-clock", "age is counted by the wall clock", "primary", 20,
          ((lived.LivedTime, "__init__", _lived_by_wall),), "clock moments",
          told="s old, went as older than", first=4),
    Plant("step-not-stated", "labels follow the wall clock, and no fact says so", "primary", 20,
          tuple((owner, "follow_clock", _clock_followed_silently) for owner in (primary_upkeep, opening)),
          "clock moments"),
    Plant("names-left-behind", "a new mirror is not told the names of before it", "pair", 40,
          ((origin, "held_by", lambda write, snapshots: ([], [])),), "snapshot wipe_mirror promote"),
    Plant("base-begins-now", "a new mirror's base begins at a point made for it, whatever is named before", "pair",
          40, ((volume, "base_start", lambda **_: None),), "snapshot point wipe_mirror promote",
          told="was answered, and is not there", first=9),
    Plant("salvage-silent", "salvage does not say which blocks are lost", "rot", 40,
          ((output_image.OutputImage, "_elsewhere", _found_nowhere),)),
    Plant("salvage-takes-all", "salvage takes transfers too behind which the log went on elsewhere", "primary", 40,
          ((salvage, "lineage", _all_that_lies_there),), "power"),
    Plant("salvage-without-points", "salvage leaves out what points carry", "primary", 40,
          ((salvage, "_columns", _without_points),), "fold_power power"),
    Plant("mirror-from-nothing", "an empty directory takes the place of a copy that has joined", "pair", 30,
          ((catch_up_plan, "_replaced", lambda hello, what: None), (mirrors.Mirrors, "pin_base", _begun_anew)),
          "stranger"),
    Plant("copy-not-compared", "another copy of the volume takes the place of the one that has joined", "pair", 40,
          ((mirror_record.Mirror, "node", property(lambda self: bytes(16))),), "stranger replace"),
    Plant("acknowledged-for-good", "what a mirror said counts although it comes back with less", "pair", 20,
          ((mirrors.Mirrors, "connected", _ever_acknowledged),
           (mirrors.Mirrors, "acknowledged", _ever_acknowledged)), "older"),
    *PLANTED_JUMPS, *PLANTED_COMPARISONS, *PLANTED_MARKS, *PLANTED_RESTORES, *PLANTED_FETCHES,
    *LEASE_PLANTS,
    *SCRUB_PLANTS, *POLICY_PLANTS, *LADDER_PLANTS,
    *HEAL_PLANTS,
)  # fmt: skip
"""Each was seen to be caught, well within its seeds."""
