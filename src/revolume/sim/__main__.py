"""``python -m revolume.sim``: seeds of simulated worlds, one line for each that fails, 1 as exit status then.

    --seeds A:B        which (B excluded)
    --world NAME       primary, pair, rot, cuts; all of them without it
    --minutes M        no new seed is begun after so long
    --jobs N           processes
    --report FILE      write the report there
    --trace N          one seed: the last N events, for reading
    --planted [NAME]   plant bugs into the code, one at a time: each must be caught within its number of seeds
"""

from __future__ import annotations

import argparse
import datetime
import logging
import subprocess
import sys

import structlog

from revolume.sim.campaign import CUTS, campaign, one, report
from revolume.sim.planted import PLANTED, caught
from revolume.sim.worlds import WORLDS


def main() -> int:
    """See the module's text."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asked = _arguments().parse_args()
    worlds = [asked.world] if asked.world else [*WORLDS, CUTS]
    first, _, behind = asked.seeds.partition(":")
    seeds = range(int(first), int(behind or int(first) + 1))
    if asked.planted is not None:
        return _planted(asked.planted)
    if asked.trace:
        verdict, _ = one(worlds[0], seeds[0], asked.trace)
        print("\n".join([*verdict.trace[-asked.trace :], *verdict.wrong, f"digest {verdict.digest:016x}"]))
        return bool(verdict.wrong)
    totals = campaign(worlds, seeds, asked.minutes, asked.jobs, lambda line: print(line, flush=True))
    text = report(totals, _commit(), datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"))
    if asked.report:
        with open(asked.report, "w") as file:
            file.write(text)
    print(text, end="")
    return any(total.failed for total in totals.values())


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m revolume.sim", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seeds", default="0:10")
    parser.add_argument("--world", choices=[*WORLDS, CUTS])
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--report")
    parser.add_argument("--trace", type=int, default=0)
    parser.add_argument("--planted", nargs="?", const="")
    return parser


def _planted(name: str) -> int:
    missed = 0
    for plant in PLANTED:
        if name in ("", plant.name):
            found = caught(plant)
            missed += found is None
            print(f"{plant.name}: {'NOT CAUGHT' if found is None else found}", flush=True)
    return bool(missed)


def _commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
