"""``python -m revolume.sim``: seeds of simulated worlds, one line for each that fails, 1 as exit status then.

--seeds A[:B]      which (B excluded)
--world NAME       primary, pair, away, trio, cluster, lease, rot, cuts; all of them without it
--minutes M        no new seed is begun after so long
--jobs N           processes
--trace N          one seed: the last N events, for reading
--planted [NAME]   plant bugs into the code, one at a time: each must be caught within its number of seeds
--part             write what it came to into ``.proof/``, for ``revolume.sim.campaigns.report``
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

import structlog

from revolume.sim.campaigns.campaign import CUTS, campaign, one, part
from revolume.sim.campaigns.planting import planted_part
from revolume.sim.worlds import WORLDS


def main() -> int:
    """Run the worlds that the command line asks for. The exit status: 0 if nothing failed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asked = _arguments().parse_args()
    worlds = [asked.world] if asked.world else [*WORLDS, CUTS]
    first, _, behind = asked.seeds.partition(":")
    seeds = range(int(first), int(behind or int(first) + 1))
    if asked.trace:
        return _traced(worlds[0], seeds[0], asked.trace)
    if asked.planted is not None:
        made = planted_part(asked.planted, asked.jobs, _say)
    else:
        began = time.monotonic()
        totals = campaign(worlds, seeds, asked.minutes, asked.jobs, _say)
        made = part(totals, asked.minutes, time.monotonic() - began)
        print(*(f"{name}: {count:,}" for name, count in made.counts.items()), *made.notes, sep="\n")
    if asked.part:
        made.write()
    return bool(made.failures)


def _say(line: str) -> None:
    print(line, flush=True)


def _traced(world: str, seed: int, keep: int) -> int:
    verdict, _ = one(world, seed, keep)
    print("\n".join([*verdict.trace[-keep:], *verdict.wrong, f"digest {verdict.digest:016x}"]))
    return bool(verdict.wrong)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m revolume.sim", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--seeds", default="0:10")
    parser.add_argument("--world", choices=[*WORLDS, CUTS])
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--trace", type=int, default=0)
    parser.add_argument("--planted", nargs="?", const="")
    parser.add_argument("--part", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
