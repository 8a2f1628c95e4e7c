"""Many seeds: worlds and power cuts one after the other, until they are through or the time is up.

Each seed is alone: what one does has no effect on another, so they may be spread over processes, and each is run
again by its number. A failing seed is told at once, in one line, with the command that runs it again.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field

from revolume.sim.campaigns.power_cuts import Cuts
from revolume.sim.campaigns.report_section import ReportSection
from revolume.sim.worlds import WORLDS
from revolume.sim.worlds.world import Verdict

CUTS = "cuts"
"""Not a world: power cuts of a short history, by the dozen."""
SHARES = {
    "primary": 1, "pair": 1, "away": 1, "trio": 1, "cluster": 1, "lease": 1, "rot": 10, "heal": 2, "comparison": 1,
    "restore": 1, "fetch": 1, CUTS: 3,
}  # fmt: skip
"""How many seeds of each in a round."""
assert SHARES.keys() == {*WORLDS, CUTS}
STATES = 60
Say = Callable[[str], None]


@dataclass(slots=True)
class Total:
    """What all seeds of one world came to."""

    seeds: int = 0
    virtual_s: float = 0.0
    real_s: float = 0.0
    answered: int = 0
    faults: int = 0
    failed: list[str] = field(default_factory=list)
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
            self.failed.append(replay(verdict))
        for name, count in verdict.happened.items():
            self.happened[name] = self.happened.get(name, 0) + count


def replay(verdict: Verdict) -> str:
    """A failure in one line, with the command that shows it again."""
    command = f"python -m revolume.sim --world {verdict.world} --seeds {verdict.seed}"
    return f"`{command}`: {' | '.join(verdict.wrong[:2])[:600]}".replace("\n", " ")


def one(world: str, seed: int, keep: int = 0) -> tuple[Verdict, float]:
    """One seed, and the real seconds that it took."""
    began = time.monotonic()
    if world == CUTS:
        tally = Cuts(seed, every=5, again=1, most=STATES).run()
        verdict = Verdict(CUTS, seed, tally.wrong, 0, 0.0, 0, 0, tally.opened, tally.states)
    else:
        verdict = WORLDS[world](seed, keep=keep).live()
    return verdict, time.monotonic() - began


def campaign(worlds: list[str], seeds: range, minutes: float | None, jobs: int, say: Say) -> dict[str, Total]:
    """Round by round, each world's share of seeds, as far as numbers and time reach."""
    totals = {world: Total() for world in worlds}
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    for verdict, real_s in _run(_tasks(worlds, seeds), jobs, deadline):
        totals[verdict.world].add(verdict, real_s)
        if verdict.wrong:
            say(f"FAILED {replay(verdict)}")
    return totals


def _tasks(worlds: list[str], seeds: range) -> Iterator[tuple[str, int]]:
    """No world has more seeds than ``seeds``."""
    for number in itertools.count():
        found = False
        for world in worlds:
            share = SHARES[world] if len(worlds) > 1 else 1
            for seed in seeds[number * share : (number + 1) * share]:
                found = True
                yield world, seed
        if not found:
            return


def _run(tasks: Iterator[tuple[str, int]], jobs: int, deadline: float | None) -> Iterable[tuple[Verdict, float]]:
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


def part(totals: dict[str, Total], minutes: float | None, seconds: float) -> ReportSection:
    """For the report."""
    found = list(totals.values())
    states = set[int]().union(*(total.states for total in found))
    real_s = max(0.001, sum(total.real_s for total in found))
    virtual_s = sum(total.virtual_s for total in found)
    made = ReportSection("campaign", "Seeds of simulated worlds", 10, seconds=round(seconds, 1))
    made.counts = {
        "seeds": sum(total.seeds for total in found), "simulated hours": round(virtual_s / 3600, 2),
        "simulated seconds a real one": round(virtual_s / real_s, 1),
        "client operations": sum(total.answered for total in found),
        "faults": sum(total.faults for total in found), "distinct crash states": len(states),
    }  # fmt: skip
    if minutes is not None:
        made.counts["minutes"] = minutes
    made.failures = [failure for total in found for failure in total.failed]
    made.notes = [_table(totals), *(_operators(world, total) for world, total in totals.items() if total.happened)]
    return made


def _table(totals: dict[str, Total]) -> str:
    lines = [
        "| world | seeds | simulated hours | processor seconds | client operations | faults | "
        "distinct crash states | failing seeds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for world, total in totals.items():
        lines.append(
            f"| {world} | {total.seeds:,} | {total.virtual_s / 3600:.2f} | {total.real_s:,.0f} | "
            f"{total.answered:,} | {total.faults:,} | {len(total.states):,} | {len(total.failed)} |"
        )
    return "\n".join(lines)


def _operators(world: str, total: Total) -> str:
    told = ", ".join(f"{name} {count}" for name, count in sorted(total.happened.items()))
    return f"\nOperators in {world}: {told}."


__all__ = ["CUTS", "STATES", "Total", "campaign", "one", "part"]
