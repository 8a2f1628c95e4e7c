"""What was rescued for pinned moments, branches, the live map's base and the rungs of the ladder: all of them lie
in map files.

Files stay while a slice is read (``in_use``). Between two slices a fold may add tables or merge some: a new one
has a higher number, so it is still to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from revolume.errors import RevolumeError
from revolume.host.disk import Directory
from revolume.volume.context import VolumeContext
from revolume.volume.livemap.base_map_renewal import BaseMapRenewal
from revolume.volume.livemap.ladder import Ladder
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.livemap.open_rungs import OpenRungs
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.scrub_record import ScrubPlace, ScrubStage
from revolume.volume.open_log import OpenLog
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.scrub.finding import Finding, Part
from revolume.volume.scrub.map_check import MapChecked, MapSlice, check_map
from revolume.volume.scrub.stage import SliceRead


class TablesStage:
    """Tables of blocks that lie apart, and those blocks: what was rescued, and branches. ``folder``: where they
    are; ``tables``: the numbers of those that are needed now; ``size``: bytes of the blocks; ``in_use``: a context
    in which none of them goes, but one that nobody needs any more. ``heals``: a healer knows such blocks.
    ``found_damaged`` is told of tables that are not what was written."""

    def __init__(
        self,
        stage: ScrubStage,
        folder: str,
        log: OpenLog,
        *,
        tables: Callable[[State], Iterable[int]],
        size: Callable[[State], int],
        in_use: Callable[[], AbstractContextManager[object]] = nullcontext,
        heals: bool = True,
        found_damaged: Callable[[int], None] = lambda number: None,
    ) -> None:
        self._stage = stage
        self._path = folder
        self._log = log
        self._numbers = tables
        self._size = size
        self._in_use = in_use
        self._heals = heals
        self._found_damaged = found_damaged

    def total(self) -> int:
        """What the blocks take."""
        return self._size(self._log.manifest.state)

    def _tables(self) -> Sequence[int]:
        return sorted(self._numbers(self._log.manifest.state))

    async def read(self, place: ScrubPlace, size: int) -> SliceRead:
        """The next entries of a table, and their blocks."""
        with self._in_use():
            number = next((each for each in self._tables() if each >= place.number), None)
            if number is None:
                return SliceRead()
            checked = await self._checked(number, place.block if number == place.number else 0, size)
        if any(each.part is Part.TABLE for each in checked.findings):
            self._found_damaged(number)
        findings = checked.findings if self._heals else tuple(replace(f, block=None) for f in checked.findings)
        if checked.next_block is None:
            return SliceRead(findings, ScrubPlace(self._stage, number + 1), checked.bytes_read)
        return SliceRead(findings, ScrubPlace(self._stage, number, checked.next_block), checked.bytes_read)

    async def _checked(self, number: int, first: int, size: int) -> MapChecked:
        name = layout.rescue_table_name(number)
        spec = MapSlice(self._path, self._log.volume_id, name, first, size, table=True)
        try:
            return await self._log.work.job(check_map, spec)
        except OSError:
            if number not in self._tables():  # nobody needs it any more
                return MapChecked((), None, 0)
            where = f"{self._path.rsplit('/', 1)[-1]}/{name}"
            return MapChecked((Finding(Part.TABLE, where),), None, 0)


def rescued_stage(directory: Directory, log: OpenLog, rescued: RescuedBlocks) -> TablesStage:
    """What was rescued for pinned moments. ``directory``: the volume's."""
    return TablesStage(
        ScrubStage.RESCUED, f"{directory.path}/{layout.RESCUE}", log,
        tables=lambda state: (table.number for rescue in state.rescues for table in rescue.tables),
        size=lambda state: sum(state.rescued_bytes().values()),
        in_use=rescued.in_use,
        found_damaged=rescued.found_damaged,
    )  # fmt: skip


def branches_stage(directory: Directory, log: OpenLog) -> TablesStage:
    """What this copy wrote alone and has taken back: nobody else has it. ``directory``: the volume's."""
    return TablesStage(
        ScrubStage.BRANCHES, f"{directory.path}/{layout.BRANCHES}", log,
        tables=lambda state: (number for branch in state.branches for number in branch.tables),
        size=lambda state: sum(branch.bytes for branch in state.branches),
        heals=False,
    )  # fmt: skip


class MapsStage:
    """The live map's base, and the rungs of the ladder: what is damaged is made anew from the log. The base has
    number 0, a rung its own."""

    def __init__(
        self,
        context: VolumeContext,
        *,
        log: OpenLog,
        live: LiveMap,
        maps: MapFiles,
        renewal: BaseMapRenewal,
        rungs: OpenRungs,
        ladder: Ladder,
    ) -> None:
        self._path = context.maps_directory.path
        self._log = log
        self._live = live
        self._maps = maps
        self._renewal = renewal
        self._rungs = rungs
        self._ladder = ladder
        self._name = ""

    def total(self) -> int:
        """Nothing worth counting."""
        return 0

    async def read(self, place: ScrubPlace, size: int) -> SliceRead:
        """The next entries. A base that has been exchanged meanwhile is read from its beginning."""
        if place.number:
            return await self._rung(place, size)
        with self._maps.in_use():
            name = self._maps.base_name
            if not name:
                return SliceRead((), self._rung_behind(0))
            first = place.block if name == self._name else 0
            self._name = name
            spec = MapSlice(self._path, self._log.volume_id, name, first, size)
            checked = await self._log.work.job(check_map, spec)
        findings = (await self._renewed(name, checked.findings[0]),) if checked.findings else ()
        if findings or checked.next_block is None:
            return SliceRead(findings, self._rung_behind(0), checked.bytes_read)
        return SliceRead((), ScrubPlace(ScrubStage.MAPS, 0, checked.next_block), checked.bytes_read)

    async def _rung(self, place: ScrubPlace, size: int) -> SliceRead:
        """The next entries of a rung. One that is damaged is no more, and that is all: the log has what it had."""
        number = place.number
        if number not in self._numbers():
            return SliceRead((), self._rung_behind(number))
        with self._maps.in_use():
            name = layout.rung_name(number)
            spec = MapSlice(self._path, self._log.volume_id, name, place.block, size)
            try:
                checked = await self._log.work.job(check_map, spec)
            except OSError:
                if number not in self._numbers():  # a fold has passed it
                    return SliceRead((), self._rung_behind(number))
                checked = MapChecked((Finding(Part.MAP, f"maps/{name}"),), None, 0)
        findings = tuple(replace(found, healed=True) for found in checked.findings)
        if findings:
            self._rungs.damaged.add(number)
            await self._ladder.step()
        if checked.next_block is None:
            return SliceRead(findings, self._rung_behind(number), checked.bytes_read)
        return SliceRead(findings, ScrubPlace(ScrubStage.MAPS, number, checked.next_block), checked.bytes_read)

    def _numbers(self) -> list[int]:
        return sorted(rung.number for rung in self._log.manifest.state.rungs)

    def _rung_behind(self, number: int) -> ScrubPlace | None:
        following = next((each for each in self._numbers() if each > number), None)
        return None if following is None else ScrubPlace(ScrubStage.MAPS, following)

    async def _renewed(self, name: str, found: Finding) -> Finding:
        """The finding; healed if another base stands in its place by now."""
        base = self._live.base
        if base is not None and self._maps.base_name == name:
            base.damaged = True
            try:
                await self._renewal.renew()
            except (RevolumeError, OSError):
                return found  # upkeep tries again
        return Finding(found.part, found.where, healed=self._maps.base_name != name)
