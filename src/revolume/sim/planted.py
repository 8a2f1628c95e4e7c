"""Bugs planted into the code at run time, one at a time: each must be caught by a world within so many seeds.

This tests the tests. A plant is a patch of a few names, a world that should notice, and how many seeds it may
take. Several of these were real once; of some their story says that the simulation itself found them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from revolume.log import commit, pool, tail
from revolume.mirror import reporter
from revolume.mirror.messages import Positions
from revolume.sim import disk
from revolume.sim.campaign import one
from revolume.volume import core, ending, folder, loading, mirrors, partials, reader, replay, volume

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Plant:
    """``patches``: (owner, name, what it becomes). ``world``: who should notice, within ``seeds``."""

    name: str
    story: str
    world: str
    seeds: int
    patches: tuple[Patch, ...]


@contextmanager
def planted(plant: Plant) -> Iterator[None]:
    """The code with this bug in it."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in plant.patches]
    try:
        for owner, name, value in plant.patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def caught(plant: Plant) -> str | None:
    """By which seed, and what was said; None: by none."""
    with planted(plant):
        for seed in range(plant.seeds):
            try:
                verdict, _ = one(plant.world, seed)
            except Exception as error:  # it went so wrong that the world itself broke
                return f"{plant.world} seed {seed}: {error!r}"[:200]
            if verdict.wrong:
                return f"{plant.world} seed {seed}: {verdict.wrong[0]}"[:200].replace("\n", " ")
    return None


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


def _uses_again(adopt: Any) -> Any:
    def adopted(self: pool.SegmentPool, uses: dict[int, int], next_use: int) -> None:
        adopt(self, uses, 1 + max([0, *uses.values()]))

    return adopted


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


PLANTED: Final = (
    Plant("names-not-synced", "no directory is ever synced", "cuts", 6,
          ((disk.SimDirectory, "begin_sync", lambda self: lambda: None),)),
    Plant("answered-before-synced", "FLUSH and FUA are answered at once", "primary", 10,
          ((volume.Volume, "durable", _at_once),)),
    Plant("position-after-sync", "a sync covers what was appended while it ran", "primary", 40,
          ((commit.Commit, "_sync_once", _sync_then_look),)),
    Plant("sync-tried-again", "a failed sync is repeated until it succeeds", "primary", 60,
          ((commit.Commit, "_sync_once", _sync_again),)),
    Plant("image-not-synced", "a fold flips to an image that is not on the disk", "primary", 30,
          ((disk.SimFile, "begin_sync", _unsynced("image")),)),
    Plant("manifest-not-synced", "manifest edits are not synced", "cuts", 6,
          ((disk.SimFile, "begin_sync", _unsynced("manifest")),)),
    Plant("tail-copy-not-synced", "the rewritten tail is not synced before serving", "primary", 60,
          ((ending.Ending, "_copy_tail", _copied_unsynced),)),
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
    Plant("holders-ignored", "folding looks neither at pins nor at leases", "pair", 40,
          ((folder, "holders", lambda core: []),)),
    Plant("use-number-again", "use numbers go on from the highest that is in use", "primary", 100,
          ((pool.SegmentPool, "adopt", _uses_again(pool.SegmentPool.adopt)),)),
    Plant("released-without-mirror", "a write is answered before a required mirror has it", "pair", 20,
          ((mirrors.Mirrors, "released", lambda *_: True),)),
    Plant("flushed-without-mirror", "a flush is answered before a required mirror has synced", "pair", 80,
          ((mirrors.Mirrors, "wait_durable", _at_once),)),
    Plant("mirror-durable-early", "a mirror calls durable what it has received", "pair", 80,
          ((reporter.Reporter, "_positions", _all_durable),)),
    Plant("log-not-held-for-mirror", "segments that a mirror still needs are recycled", "pair", 60,
          ((mirrors.Mirrors, "_hold", lambda *_: None),)),
    Plant("numbers-go-back", "a promoted mirror numbers from its last write (found here)", "pair", 60,
          ((loading, "_newest_stated", lambda *_: 0),)),
)  # fmt: skip
