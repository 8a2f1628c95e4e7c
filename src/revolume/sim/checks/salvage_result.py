"""``revolume salvage`` brings back from a disk whose owner does not run what an opening would find there, also
where every manifest is lost."""

from __future__ import annotations

from contextlib import closing

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound
from revolume.offline.salvage.salvage import salvage
from revolume.offline.walk.report import Problem, SalvageReport
from revolume.sim.actors.service import PATH
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.model import Model, blocks_of
from revolume.volume.metadata.manifest import NAMES

FILE = "salvaged"


def check_salvaged(
    machine: Machine, platter: Platter, model: Model, who: str, *, bare: bool, floor: int = 0
) -> list[str]:
    """A disk that has only lost power, if anything: nothing of it is lost, and it is at ``floor`` at least.
    ``bare``: its manifests are removed first."""
    found = salvaged(machine, platter, bare=bare)
    if found is None:
        return []
    report, content = found
    who = f"{who}, salvaged{' without a manifest' if bare else ''}"
    wrong = [
        f"{who}: {p.where}: {p.what}"
        for p in report.problems
        if p.where != "manifest" and not (bare and _is_doubt(p))
    ]
    wrong += (
        [f"{who}: lost or unproved: {report.lost} {report.unproved}"] if report.lost or report.unproved else []
    )
    number = model.find(content)
    if number is None:
        wrong.append(f"{who}: as of w{report.write}: {model.differs(report.write, content)}, and was so never")
    elif number < floor:
        wrong.append(f"{who}: it is w{number}, and w{floor} was flushed")
    return wrong


def _is_doubt(problem: Problem) -> bool:
    """What can't be known without a manifest, and is said: where the log of a copy goes on that stands at a point
    to which it has jumped, and whose record had not come."""
    return problem.where == "log" and "which the image stands for" in problem.what


def check_doubts(machine: Machine, platter: Platter, model: Model, who: str, *, bare: bool) -> list[str]:
    """A disk that is not to be trusted: what is not as it was is named, or writes are said to be missing."""
    found = salvaged(machine, platter, bare=bare)
    if found is None:
        return []
    report, content = found
    if any(problem.where in ("log", "image") for problem in report.problems):
        return []
    named = {b for first, count in report.lost + report.unproved for b in range(first, first + count)}
    if model.find(content, named) is not None:
        return []
    have, want = blocks_of(content), model.at(report.write)
    silent = sorted(b for b in {*have, *want} - named if have.get(b) != want.get(b))
    return [f"{who}, salvaged as of w{report.write}: it was so never, and nobody says so of blocks {silent[:5]}"]


def salvaged(machine: Machine, platter: Platter, *, bare: bool) -> tuple[SalvageReport, bytes] | None:
    """What it says, and the file. None: there is no volume."""
    looker, copy = Process(machine.name, f"{machine.name}.salvage"), platter.copy()
    copy.capacity *= 4  # what is salvaged goes to another disk
    host = machine.host_for(looker, copy)
    try:
        with closing(host.disk.open(PATH)) as directory:
            for name in NAMES if bare else ():
                if directory.exists(name):
                    directory.remove(name)
        report = salvage(host, PATH, f"/{FILE}")
        with closing(host.disk.open("/")) as root, closing(root.open(FILE, write=False)) as file:
            content = bytearray(-(-file.size() // BLOCK) * BLOCK)
            file.preadv([content], 0)
        return report, bytes(content)
    except (NotFound, FileNotFoundError):
        return None
    finally:
        looker.die()
