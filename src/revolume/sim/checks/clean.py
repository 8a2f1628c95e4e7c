"""``revolume check`` finds nothing on the disk of a machine that does not run, however it stopped."""

from __future__ import annotations

from revolume.errors import NotFound
from revolume.offline.check.check import check
from revolume.sim.actors.service import PATH
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import Platter


def check_clean(machine: Machine, platter: Platter, who: str) -> list[str]:
    """On this file system, as somebody who looks at it and changes nothing."""
    looker = Process(machine.name, f"{machine.name}.check")
    try:
        report = check(machine.host_for(looker, platter.copy()), PATH)
    except NotFound:
        return []
    finally:
        looker.die()
    return [f"{who}: check: {problem.where}: {problem.what}" for problem in report.problems]
