"""Planted bugs, one at a time: after how many seeds each is caught, and the part of the report that says so."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from revolume.sim.campaigns.campaign import one
from revolume.sim.campaigns.mutations import PLANTED
from revolume.sim.campaigns.plant import Plant
from revolume.sim.campaigns.report_section import ReportSection
from revolume.sim.kernel.monkeypatch import patched
from revolume.sim.worlds import WORLDS


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
        for tried, seed in enumerate(sorted(range(plant.seeds), key=lambda seed: seed != plant.first), 1):
            try:
                wrong = _lived(plant, seed)
            except Exception as error:  # it went so wrong that the world itself broke
                wrong = [repr(error)]
            for what in wrong:
                if plant.told in what:
                    return tried, " ".join(what.split())[:160]
    return None


def _caught_by_name(name: str) -> tuple[int, str] | None:
    return caught(next(plant for plant in PLANTED if plant.name == name))


def planted_part(name: str, jobs: int, say: Callable[[str], None]) -> ReportSection:
    """All of them, or the one of that name, each alone: how many seeds each has taken."""
    made = ReportSection("planted", "Bugs planted on purpose", 20)
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
