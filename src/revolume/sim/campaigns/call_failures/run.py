"""Machines with these disks, in one network, for as long as something is done with them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from revolume.log.write.operations import Op
from revolume.sim.campaigns.call_failures.case import Found
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.fabric import Fabric
from revolume.sim.kernel.loop import SimLoop, Stalled
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.kernel.trace import Trace
from revolume.sim.kernel.uncollected import uncollected

Change = tuple[int, int, bytes | int]
"""Kind, offset, and what: bytes, or how many."""
Life = Callable[[dict[str, Machine]], Coroutine[Any, Any, None]]


def live(platters: Mapping[str, Platter], life: Life, found: Found, who: str = "") -> dict[str, Platter]:
    """``life`` of the machines, by their names; then their disks, as they are. What nobody caught is wrong."""
    trace, chance = Trace(), Chance(1, "nth")
    loop = SimLoop(chance.stream("loop"), trace)
    fabric = Fabric(loop, chance.stream("network"), trace)
    machines = {}
    for name, platter in platters.items():
        machines[name] = Machine(name, loop, fabric, chance.stream(name), trace, platter.capacity)
        machines[name].platter = platter
    with uncollected():
        _live(loop, machines, life, found, who)
    return {name: machine.platter for name, machine in machines.items()}


def _live(loop: SimLoop, machines: dict[str, Machine], life: Life, found: Found, who: str) -> None:
    try:
        loop.run_until_complete(life(machines))
    except Stalled as error:
        found.wrong.append(f"{who} {error}".strip())
    finally:
        found.wrong += [f"{who} {stray}".strip() for stray in loop.strays]
        for machine in machines.values():
            if machine.process is not None:
                machine.process.die()
        loop.end_world()


def payload(number: int, length: int) -> bytes:
    """Bytes of their own for each number."""
    return Chance(number, "nth").randbytes(length)


def ops_of(changes: tuple[Change, ...]) -> list[Op]:
    """As a volume takes them."""
    return [
        (kind, at, len(what), memoryview(what)) if isinstance(what, bytes) else (kind, at, what, None)
        for kind, at, what in changes
    ]
