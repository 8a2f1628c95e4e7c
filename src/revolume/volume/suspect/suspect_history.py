"""The marks of an open copy: added by a comparison, closed by a repair, dropped when what they speak of is gone.

Each change is a new file, and then one edit of the manifest that names all files. They belong to this copy: what
another copy of the volume has for the same moments may be good. So they stay through promotion and demotion,
folds, jumps and restarts, as everything in the manifest does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.host.work import Work
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.metadata.suspect_edits import MarksFile, pack_finding, pack_suspect
from revolume.volume.state.events import EventKind, Events
from revolume.volume.suspect.marks import Marks, read_marks, sweep_marks, write_marks
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.suspect.suspect_rows import OPEN, ROW, joined, repaired_at
from revolume.volume.uncancelled_tasks import UncancelledTasks

FILES_MAX: Final = 32
"""Beyond it the two oldest become one."""
EVERY_BLOCK: Final = (1 << 63) - 2
ALL_BLOCKS: Final = BlockSet(np.array([0], np.uint64), np.array([EVERY_BLOCK], np.uint64))


def file_of(number: int, marks: Marks) -> MarksFile:
    """What the manifest says of a file of marks, which has rows."""
    since, until = int(marks.rows["since"].min()), int(marks.rows["until"].max())
    return MarksFile(number, WriteNumber(since), WriteNumber(until), len(marks.rows))


def load_marks(directory: Directory, state: State) -> list[Marks]:
    """All marks of the volume in ``directory``, in the order of the manifest. A file that is damaged counts as the
    whole volume being suspect throughout its period. Waits for the disk."""
    return [_load(directory, state.volume, file) for file in state.suspect.files]


def _load(directory: Directory, volume: bytes, file: MarksFile) -> Marks:
    try:
        return read_marks(directory, volume, file.number)
    except Damaged as error:
        rows = np.array([(0, EVERY_BLOCK, file.since, file.until)], ROW)
        return Marks(bytes(16), 0, 0, error.cause.rstrip("."), rows)


class SuspectHistory:
    """Of one open volume. ``periods`` is what is known now; it is exchanged in one step."""

    def __init__(
        self, directory: Directory, manifest: ManifestWriter, work: Work, events: Events, tasks: UncancelledTasks,
        marks: Sequence[Marks],
    ) -> None:  # fmt: skip
        """``directory``: the volume's own. ``marks``: as ``load_marks`` returned them for the manifest's state."""
        self._directory = directory
        self._manifest = manifest
        self._work = work
        self._events = events
        self._tasks = tasks
        self._turn = asyncio.Lock()
        self.periods = SuspectPeriods(marks)

    async def add(self, marks: Marks) -> None:
        """Marks of a comparison: durable when it returns. Rows that are known already add nothing."""
        await self._tasks.finish(self._add(marks))

    async def repaired(self, blocks: BlockSet, write: WriteNumber) -> None:
        """These blocks are what they should be from the moment at ``write`` on: durable when it returns."""
        await self._tasks.finish(self._repaired(blocks, write))

    async def proved_equal(self, point: int, write: WriteNumber) -> None:
        """The whole copy is what it should be as of ``point``, which ends with ``write``: durably, nothing is open
        any more, and what was found before is done with."""
        await self.repaired(ALL_BLOCKS, write)
        finding = self._manifest.state.suspect.finding
        if finding is not None and not finding.equal:
            edit = EditKind.FINDING, pack_finding(replace(finding, equal=point))
            await self._tasks.finish(self._manifest.record(edit))
            self._events.tell(f"this copy was compared with its source, and is equal at cp{point}")

    async def forget_finding(self, horizon: int) -> None:
        """The horizon stands at this point: of a finding that was settled before nothing is left in the log."""
        finding = self._manifest.state.suspect.finding
        if finding is not None and 0 < finding.equal <= horizon:
            await self._tasks.finish(self._manifest.record((EditKind.FINDING, b"")))

    async def prune(self, oldest: WriteNumber) -> None:
        """No moment before ``oldest`` can be opened any more: forget the files that speak of none that can be."""
        if len(self._spoken_of(oldest)) < len(self.periods.marks):
            await self._tasks.finish(self._prune(oldest))

    async def _add(self, marks: Marks) -> None:
        async with self._turn:
            known = joined(each.rows for each in self.periods.marks)
            news = marks.rows[~np.isin(marks.rows, known)]
            if not len(news):
                return
            await self._exchange([*self.periods.marks, replace(marks, rows=news)])
            self._events.tell(_sentence(replace(marks, rows=news)), EventKind.SUSPECT)

    async def _repaired(self, blocks: BlockSet, write: WriteNumber) -> None:
        async with self._turn:
            changed = [
                each if each.branch else replace(each, rows=repaired_at(each.rows, blocks, write))
                for each in self.periods.marks
            ]
            if any(
                not np.array_equal(now.rows, joined([before.rows]))
                for now, before in zip(changed, self.periods.marks, strict=True)
            ):
                await self._exchange([each for each in changed if len(each.rows)])

    async def _prune(self, oldest: WriteNumber) -> None:
        async with self._turn:
            await self._exchange(self._spoken_of(oldest))

    def _spoken_of(self, oldest: WriteNumber) -> list[Marks]:
        """Marks of moments that can be opened: not before ``oldest``, nor on a branch that has been dropped."""
        state = self._manifest.state
        branches = {"", *(branch.name for branch in state.branches)}
        pairs = zip(self.periods.marks, state.suspect.files, strict=True)
        return [marks for marks, file in pairs if file.until > oldest and marks.branch in branches]

    async def _exchange(self, marks: list[Marks]) -> None:
        """These marks in place of those there are. A file is written for each that has none as it is."""
        marks = _merged(marks)
        state = self._manifest.state
        stored = {id(each): file for each, file in zip(self.periods.marks, state.suspect.files, strict=True)}
        number, files = state.suspect.following, list[MarksFile]()
        for each in marks:
            file = stored.get(id(each))
            if file is None:
                file, number = file_of(number, each), number + 1
                await self._work.call_sync(write_marks, self._directory, state.volume, file.number, each)
            files.append(file)
        await self._manifest.record((EditKind.SUSPECT, pack_suspect(tuple(files), number)))
        self.periods = SuspectPeriods(marks)
        await self._work.call(sweep_marks, self._directory, {file.number for file in files})


def _merged(marks: list[Marks]) -> list[Marks]:
    """As few files as there may be: the two oldest of the volume become one, and again."""
    while len(marks) > FILES_MAX:
        one, other, *_ = [each for each in marks if not each.branch] or marks
        both = replace(other, rows=joined([one.rows, other.rows]))
        marks = [both if each is other else each for each in marks if each is not one]
    return marks


def _sentence(marks: Marks) -> str:
    since, until = int(marks.rows["since"].min()), int(marks.rows["until"].max())
    blocks = int(marks.rows["count"].sum())
    upto = "" if until == OPEN else f", before w{until}"
    return f"history is suspect from w{since} on{upto}, in {blocks} blocks: {marks.cause}"
