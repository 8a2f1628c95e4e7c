"""O5: every retained moment is what the volume was at its number, and a moment that is not retained is refused."""

from __future__ import annotations

from revolume.errors import NotFound
from revolume.history.timeline import Spot
from revolume.history.views import open_view
from revolume.sim.chance import Chance
from revolume.sim.model import Model
from revolume.volume.remembered import Remembered


async def check_moments(
    volume: Remembered, model: Model, chance: Chance, who: str, count: int = 3, newest: int | None = None
) -> list[str]:
    """Some of them, always the oldest that the volume says it has and the newest."""
    upto = model.newest if newest is None else newest
    retained = [n for n in model.numbers if volume.folder.retired_write <= n <= upto]
    if not retained:
        return []
    chosen = {retained[0], retained[-1], *(chance.choice(retained) for _ in range(count))}
    wrong: list[str] = []
    for number in sorted(chosen):
        try:
            wrong += await _check(volume, model, number, who)
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
