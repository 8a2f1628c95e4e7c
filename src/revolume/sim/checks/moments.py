"""O5: every retained moment is what the volume was at its number, and a moment that is not retained is refused."""

from __future__ import annotations

from revolume.errors import GaveWay, NotFound
from revolume.history.moments import AtPoint, AtTime, AtWrite, Moment
from revolume.history.timeline import Spot, Timeline
from revolume.history.views import open_view
from revolume.sim.chance import Chance
from revolume.sim.checks.lived import check_ages
from revolume.sim.model import Model
from revolume.volume.remembered import Remembered


async def check_moments(
    volume: Remembered, model: Model, chance: Chance, who: str, count: int = 3, newest: int | None = None
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
            wrong += await _check(volume, model, number, who)
        except GaveWay:  # the volume needed the room that this look kept
            continue
        except NotFound:
            if number >= volume.folder.retired_write:
                wrong.append(f"{who}: @w{number} is retained and is not found")
    return wrong


async def _check(volume: Remembered, model: Model, number: int, who: str) -> list[str]:
    view = await open_view(volume, Spot(number, 0), "simulation")
    try:
        buffer = bytearray(view.size)
        await view.reader.read(0, memoryview(buffer))
    finally:
        view.close()
    found = model.differs(number, buffer)
    return [f"{who}: @w{number}: {found}"] if found else []


async def _check_named(volume: Remembered, model: Model, who: str) -> list[str]:
    """What has a name is retained as long as it has it."""
    wrong: list[str] = []
    for named in volume.snapshots():
        try:
            wrong += await _check(volume, model, named.write, f"{who}: {named.name}")
        except GaveWay:
            wrong.append(f"{who}: {named.name} at w{named.write} has a name, and gave way")
        except NotFound:
            if named in volume.snapshots():
                wrong.append(f"{who}: {named.name} at w{named.write} has a name, and is gone")
    return wrong


async def _check_pruned(volume: Remembered, model: Model, chance: Chance, who: str) -> list[str]:
    """What lies behind the horizon, asked for in each way: it is never answered with something else."""
    timeline = Timeline(volume)
    behind = [n for n in model.numbers if 0 < n < volume.folder.retired_write]
    first_ns = min(stretch.begin_ns for stretch in timeline.stretches())
    asked: list[Moment] = [AtTime(first_ns - 1)] if first_ns else []
    if behind:
        asked += map(AtWrite, {behind[0], behind[-1], chance.choice(behind)})
    if points := [point.number for point in volume.points() if point.write >= volume.folder.retired_write]:
        asked.append(AtPoint(points[0] - 1))
    answered = [moment for moment in asked if not _refused(timeline, moment)]
    wrong = [f"{who}: {moment} is behind the horizon, and means something" for moment in answered]
    for number in behind[-1:]:
        try:
            (await open_view(volume, Spot(number, 0), "simulation")).close()
            wrong.append(f"{who}: @w{number} is behind the horizon, and is opened")
        except NotFound:
            pass
    return wrong


def _refused(timeline: Timeline, moment: Moment) -> bool:
    try:
        timeline.resolve(moment)
    except NotFound as error:
        return bool(error.cause and error.hint)
    return False
