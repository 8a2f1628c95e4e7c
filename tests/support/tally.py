"""What a test has counted, told round by round and kept for the report of a long run.

`REVOLUME_SOAK=1` makes every test marked `soak` take its long run. Each then writes one file `.proof/<part>.json`
(counts, failures with the command that runs it again, notes), after every round, so that a run that is cut short
has its counts too. `REVOLUME_ROUNDS` gives another number of rounds, `REVOLUME_SEED` the choices.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from revolume.sim.campaigns.report_section import commit

SOAK = bool(os.environ.get("REVOLUME_SOAK"))
SEED = int(os.environ.get("REVOLUME_SEED", "0")) or random.randrange(1, 1 << 20)
FOLDER = Path(__file__).parents[2] / ".proof"


def rounds(long: int, short: int) -> int:
    """How many a test takes: under `make soak`, and else."""
    return int(os.environ.get("REVOLUME_ROUNDS", "0")) or (long if SOAK else short)


@dataclass
class Tally:
    """The counts of one test."""

    part: str
    title: str
    order: int
    command: str  # runs the test again
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    commit: str = field(default_factory=commit)

    def add(self, **counts: int) -> None:
        """`power_cuts_ext4=1` is told as "power cuts ext4"."""
        for name, count in counts.items():
            name = name.replace("_", " ")
            self.counts[name] = self.counts.get(name, 0) + count

    def round(self, number: int, of: int, what: str = "") -> None:
        """One is through: told at once, and kept."""
        told = ", ".join(f"{name} {count}" for name, count in self.counts.items())
        print(f"{self.part} {number}/{of} {time.monotonic() - self.began:.0f} s {what}: {told}", flush=True)
        self.write()

    def write(self) -> None:
        if not SOAK:
            return
        FOLDER.mkdir(exist_ok=True)
        kept = {
            "part": self.part, "title": self.title, "order": self.order, "counts": self.counts,
            "failures": self.failures, "notes": self.notes, "commit": self.commit,
            "seconds": round(time.monotonic() - self.began, 1),
        }  # fmt: skip
        fresh = FOLDER / f".{self.part}.fresh"
        fresh.write_text(json.dumps(kept, indent=1) + "\n")
        fresh.rename(FOLDER / f"{self.part}.json")
