"""The command line: see the package's text."""

from __future__ import annotations

import sys
import time

import revolume.sim.campaigns.call_failures
from revolume.sim.campaigns.call_failures.case import Case
from revolume.sim.campaigns.call_failures.summary import MODULE, STAGES, judge, report, run
from revolume.sim.campaigns.case_runner import parser, quiet


def main() -> int:
    """Run the cases that the command line asks for. The exit status: 0 if nothing failed."""
    quiet()
    options = parser(MODULE, revolume.sim.campaigns.call_failures.__doc__)
    options.add_argument("--stages", default=",".join(STAGES), help="with commas between them")
    options.add_argument("--kind", help="calls, with commas between them")
    options.add_argument("--all", action="store_true", help="every call of the pair's history too")
    asked = options.parse_args()
    if asked.case:
        return _one(Case.parsed(asked.case))
    began = time.monotonic()
    kinds = asked.kind.split(",") if asked.kind else None
    totals = run(
        asked.stages.split(","), asked.every, asked.minutes, asked.jobs,
        lambda case: kinds is None or case.call in kinds, asked.all, _say,
    )  # fmt: skip
    part = report(totals, round(time.monotonic() - began, 1))
    print("\n".join([f"{name}: {count}" for name, count in part.counts.items()] + part.notes))
    part.write(asked.folder)
    return bool(part.failures)


def _say(line: str) -> None:
    print(line, flush=True)


def _one(case: Case) -> int:
    found = judge(case)
    print("\n".join([*found.said, f"sites: {sorted(found.sites)}", f"after: {found.after}", *found.wrong]))
    return bool(found.wrong)


if __name__ == "__main__":
    sys.exit(main())
