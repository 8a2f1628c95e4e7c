"""``python -m revolume.sim.campaigns.report``: the parts of the proof, joined. The last line is the verdict.

    --begin        forget what earlier runs have left in ``.proof/``
    --failed WHAT  note that this command failed, in a part of its own
    --file FILE    write it there
    --found FILE   what has been found so far, which the report has as a section of its own

The head adds up what several parts count under one name. A part that is required and was not written fails, as a
count below its bound does: the bounds are those of a campaign of ``MINUTES`` minutes, and shorter ones are asked
for less.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from revolume.sim.campaigns.report_section import FOLDER, ReportSection, read

REQUIRED: Final = ("campaign", "planted", "every-byte", "nth")
HEAD: Final = (
    "seeds", "simulated hours", "client operations", "faults", "distinct crash states", "kills",
    "power cuts ext4", "power cuts xfs", "byte flips", "nth failures", "planted bugs", "planted bugs caught",
)  # fmt: skip
FULL_MINUTES = 20.0
BOUNDS: Final = {
    "seeds": 2000, "client operations": 2_000_000, "faults": 20_000, "distinct crash states": 20_000,
}  # fmt: skip
RATIO_MIN = 10


def main() -> int:
    """Join the parts that were written. The exit status: 0 if all required ones are there and none failed."""
    parser = argparse.ArgumentParser(prog="python -m revolume.sim.campaigns.report", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--begin", action="store_true")
    parser.add_argument("--failed")
    parser.add_argument("--file", default="docs/proof/report.md")
    parser.add_argument("--found", default="docs/proof/found.md")
    asked = parser.parse_args()
    if asked.begin:
        for name in os.listdir(FOLDER) if os.path.isdir(FOLDER) else []:
            os.remove(os.path.join(FOLDER, name))
        return 0
    if asked.failed:
        ReportSection("failed", "What did not come to its end", 99, failures=[asked.failed]).write()
        return 0
    with open(asked.found) as file:
        text, sound = joined(read(), file.read())
    with open(asked.file, "w") as file:
        file.write(text)
    print(text, end="")
    return not sound


def joined(parts: list[ReportSection], found: str = "") -> tuple[str, bool]:
    """The report, and whether everything is as it should be. ``found``: a section, as it stands."""
    wrong = _missed(parts)
    when = max((part.when for part in parts), default="") or "never"
    commits = sorted({part.commit for part in parts if part.commit})
    lines = [
        "# What was tried to make it lose data", "",
        f"Finished {when}, at commit {', '.join(commits) or 'unknown'}. What is tried, and how to read and to "
        "repeat it: [README](README.md).", "",
        "| all parts together | |", "|---|---:|",
        *_rows(_totals(parts)),
        f"| failures | {sum(len(part.failures) for part in parts)} |",
    ]  # fmt: skip
    for part in parts:
        lines += _section(part)
    lines += ["", found.strip()] if found else []
    lines += ["", "## Verdict", "", *(f"- {sentence}" for sentence in wrong), *([""] if wrong else [])]
    lines.append("VERDICT: FAILED" if wrong else "VERDICT: PASSED")
    return "\n".join(lines) + "\n", not wrong


def _section(part: ReportSection) -> list[str]:
    lines = ["", f"## {part.title}", ""]
    if part.seconds:
        where = f", at {part.commit}" if part.commit else ""
        lines += [f"Took {part.seconds:,.0f} s{where}.", ""]
    if part.counts:
        lines += ["| | |", "|---|---:|", *_rows(part.counts)]
    if part.notes:
        lines += ["", *part.notes]
    if part.failures:
        lines += ["", "Failures:", "", *(f"- {failure}" for failure in part.failures)]
    return lines


def _rows(counts: dict[str, float]) -> list[str]:
    return [f"| {name} | {_figure(value)} |" for name, value in counts.items()]


def _totals(parts: list[ReportSection]) -> dict[str, float]:
    found = {name: [part.counts[name] for part in parts if name in part.counts] for name in HEAD}
    return {name: sum(values) for name, values in found.items() if values}


def _missed(parts: list[ReportSection]) -> list[str]:
    """What is not as it should be, in sentences."""
    there = {part.part: part for part in parts}
    wrong = [f"The part {name} was not run." for name in REQUIRED if name not in there]
    wrong += [f"{part.title}: {len(part.failures)} failures." for part in parts if part.failures]
    campaign = there.get("campaign")
    if campaign is not None:
        share = min(1.0, campaign.counts.get("minutes", FULL_MINUTES) / FULL_MINUTES)
        for name, bound in BOUNDS.items():
            count = campaign.counts.get(name, 0)
            if count < bound * share:
                wrong.append(f"{name}: {_figure(count)}, {_figure(bound * share)} are asked for.")
        if campaign.counts.get("simulated seconds a real one", 0) < RATIO_MIN:
            wrong.append("Simulated time is too slow.")
    return wrong


def _figure(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() or value >= 1000 else f"{value:,.2f}"


if __name__ == "__main__":
    sys.exit(main())
