"""Many seeds: worlds and power cuts one after the other, until they are through or the time is up; and the report.

Each seed is alone: what one does has no effect on another, so they may be spread over processes, and each is run
again by its number. A failing seed is told at once, in one line, with the command that runs it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from revolume.sim.cuts import Cuts
from revolume.sim.worlds import WORLDS
from revolume.sim.worlds.world import Verdict

CUTS = "cuts"
"""Not a world: every power cut of a short history."""
Say = Callable[[str], None]


@dataclass(slots=True)
class Total:
    """What all seeds of one world came to."""

    seeds: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0
    answered: int = 0
    faults: int = 0
    failed: list[int] = field(default_factory=list)
    states: set[int] = field(default_factory=set)
    happened: dict[str, int] = field(default_factory=dict)

    def add(self, verdict: Verdict, real_s: float) -> None:
        """One more."""
        self.seeds += 1
        self.virtual_s += verdict.virtual_s
        self.real_s += real_s
        self.answered += verdict.answered
        self.faults += verdict.faults
        self.states |= verdict.cuts
        if verdict.wrong:
            self.failed.append(verdict.seed)
        for name, count in verdict.happened.items():
            self.happened[name] = self.happened.get(name, 0) + count


def one(world: str, seed: int, keep: int = 0) -> tuple[Verdict, float]:
    """One seed, and the real seconds that it took."""
    began = time.monotonic()
    if world == CUTS:
        tally = Cuts(seed, every=5, again=2).run()
        verdict = Verdict(CUTS, seed, tally.wrong, 0, 0.0, 0, tally.opened, tally.opened, tally.states)
    else:
        verdict = WORLDS[world](seed, keep=keep).live()
    return verdict, time.monotonic() - began


def campaign(worlds: list[str], seeds: range, minutes: float | None, jobs: int, say: Say) -> dict[str, Total]:
    """Every seed in every world, seed by seed, as far as the time reaches."""
    totals = {world: Total() for world in worlds}
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    tasks = ((world, seed) for seed in seeds for world in worlds)
    for verdict, real_s in _run(tasks, jobs, deadline):
        totals[verdict.world].add(verdict, real_s)
        if verdict.wrong:
            command = f"python -m revolume.sim --world {verdict.world} --seeds {verdict.seed}:{verdict.seed + 1}"
            say(f"FAILED {command}  # {' | '.join(verdict.wrong[:2])[:600]}".replace("\n", " "))
    return totals


def _run(
    tasks: Iterator[tuple[str, int]], jobs: int, deadline: float | None
) -> Iterable[tuple[Verdict, float]]:
    if jobs <= 1:
        for task in tasks:
            if deadline is not None and time.monotonic() > deadline:
                return
            yield one(*task)
        return
    with ProcessPoolExecutor(jobs, initializer=os.nice, initargs=(10,)) as pool:
        waiting: set[Future[tuple[Verdict, float]]] = set()
        for task in tasks:
            if deadline is not None and time.monotonic() > deadline:
                break
            waiting.add(pool.submit(one, *task))
            if len(waiting) >= 2 * jobs:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in waiting)


def report(totals: dict[str, Total], commit: str, when: str) -> str:
    """As ``docs/proof/report.md`` has it; the verdict is its last line."""
    lines = [
        "# Report of a campaign of simulations", "",
        f"{when}, commit {commit}. Figures as they came out; how to read them: [README](README.md).", "",
        "| world | seeds | simulated hours | hours per hour | seeds/s | answered operations | faults | "
        "distinct crash states | failing seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for world, total in totals.items():
        real = max(total.real_s, 0.001)
        lines.append(
            f"| {world} | {total.seeds} | {total.virtual_s / 3600:.2f} | {total.virtual_s / real:.0f} | "
            f"{total.seeds / real:.2f} | {total.answered} | {total.faults} | {len(total.states)} | "
            f"{len(total.failed)} |"
        )
    for world, total in totals.items():
        if total.happened:
            told = ", ".join(f"{name} {count}" for name, count in sorted(total.happened.items()))
            lines += ["", f"Operators in {world}: {told}."]
    failed = {world: total.failed for world, total in totals.items() if total.failed}
    lines += ["", f"Failing seeds: {failed}." if failed else "No seed failed.", ""]
    return "\n".join([*lines, f"VERDICT: {'FAILED' if failed else 'PASSED'}"]) + "\n"


__all__ = ["CUTS", "Total", "campaign", "one", "report"]
