"""O5: every retained moment is what the volume was at its number, and a moment that is not retained is refused."""

from __future__ import annotations

import contextlib

from revolume.blocks.numbers import WriteNumber
from revolume.errors import GaveWay, NotFound, Refused
from revolume.history.moments import AtPoint, AtTime, AtWrite, ExportName, Moment
from revolume.history.open_history import OpenHistory
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolver import MomentResolver
from revolume.history.views import open_view
from revolume.sim.checks.lived import check_ages
from revolume.sim.kernel.chance import Chance
from revolume.sim.oracle.model import Model
from revolume.volume.volume_base import OpenVolume


async def check_moments(
    volume: OpenVolume, model: Model, chance: Chance, who: str, count: int = 3, newest: int | None = None
) -> list[str]:
    """Some of them, always the oldest that the volume says it has and the newest."""
    upto = model.newest if newest is None else newest
    wrong = await _check_pruned(volume, model, chance, who) + await _check_named(volume, model, who)
    wrong += check_ages(volume, model, who)
    retained = [n for n in model.numbers if volume.folder.retired_write <= n <= upto]
    if not retained:
        return wrong
    chosen = {retained[0], retained[-1], *(chance.choice(retained) for _ in range(count))}
    for number in sorted(chosen):
        try:
            wrong += await check_moment(volume, model, number, who)
        except GaveWay:  # the volume needed the room that this look kept
            continue
        except NotFound:
            if number >= volume.folder.retired_write:
                wrong.append(f"{who}: @w{number} is retained and is not found")
    return wrong


async def check_moment(volume: OpenVolume, model: Model, number: int, who: str) -> list[str]:
    """The volume as of this write, all of it. NotFound: it is not retained; GaveWay: it is not any more."""
    view = await open_view(volume, ResolvedMoment(WriteNumber(number), 0), "simulation")
    try:
        buffer = bytearray(view.size)
        await view.reader.read(0, memoryview(buffer))
    finally:
        view.close()
    suspect = volume.suspect_periods.blocks_at(WriteNumber(number))
    # Beside the blocks that a comparison found, others may be wrong that clients wrote before it looked.
    found = "" if len(suspect) else model.differs(number, buffer)
    wrong = [f"{who}: @w{number}: {found}"] if found else []
    if len(suspect) and _opens(volume, number):
        wrong.append(f"{who}: @w{number} is suspect, and is opened without a word")
    return wrong


def _opens(volume: OpenVolume, number: int) -> bool:
    """Whether a moment is opened for who does not say that it may be suspect."""
    with contextlib.suppress(Refused, NotFound):
        MomentResolver(OpenHistory(volume)).opened(ExportName(volume.name, AtWrite(number)))
        return True
    return False


async def _check_named(volume: OpenVolume, model: Model, who: str) -> list[str]:
    """What has a name is retained as long as it has it."""
    wrong: list[str] = []
    for named in volume.snapshots():
        try:
            wrong += await check_moment(volume, model, named.write, f"{who}: {named.name}")
        except GaveWay:
            if not named.holder or named in volume.snapshots():
                wrong.append(f"{who}: {named.name} at w{named.write} has a name, and gave way")
        except NotFound:
            if named in volume.snapshots():
                wrong.append(f"{who}: {named.name} at w{named.write} has a name, and is gone")
    return wrong


async def _check_pruned(volume: OpenVolume, model: Model, chance: Chance, who: str) -> list[str]:
    """What lies behind the horizon, asked for in each way: it is never answered with something else."""
    resolver = MomentResolver(OpenHistory(volume))
    isolated = {point.write: point.number for point in volume.isolated_points()}
    behind = [n for n in model.numbers if 0 < n < volume.folder.retired_write and n not in isolated]
    first_ns = min(stretch.begin_ns for stretch in OpenHistory(volume).stretches())
    asked: list[Moment] = [AtTime(first_ns - 1)] if first_ns else []
    if behind:
        asked += map(AtWrite, {behind[0], behind[-1], chance.choice(behind)})
    if points := [point.number for point in volume.points() if point.write >= volume.folder.retired_write]:
        asked += [AtPoint(number) for number in (points[0] - 1,) if number not in isolated.values()]
    answered = [moment for moment in asked if not _refused(resolver, moment)]
    wrong = [f"{who}: {moment} is behind the horizon, and means something" for moment in answered]
    for number in behind[-1:]:
        try:
            (await open_view(volume, ResolvedMoment(WriteNumber(number), 0), "simulation")).close()
            wrong.append(f"{who}: @w{number} is behind the horizon, and is opened")
        except NotFound:
            pass
    return wrong


def _refused(resolver: MomentResolver, moment: Moment) -> bool:
    try:
        resolver.resolve(moment)
    except NotFound as error:
        return bool(error.cause and error.hint)
    return False
