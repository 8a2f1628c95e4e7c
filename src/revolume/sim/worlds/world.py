"""What every world has: a loop, a network, machines, clients, an operator, and what was found wrong.

A world is made from a seed and run once. The operator does one thing after another; each is a method whose name
begins with ``op_``, of the world or of one of its groups of operations, so that what may happen can be read off
their classes. When he is done everything is healed, and within a bounded virtual time all must be well again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from revolume.errors import RevolumeError
from revolume.history.exports import VolumeExports
from revolume.host import Host
from revolume.sim.actors.client import ODD_BYTES, Habits, Orders, SimClient
from revolume.sim.actors.readers import Readers
from revolume.sim.actors.service import NBD_PORT
from revolume.sim.checks.gave_way import check_refused
from revolume.sim.checks.lived import check_ages, check_ago
from revolume.sim.checks.unique_ids import check_given_once
from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.fabric import Fabric
from revolume.sim.kernel.loop import SimLoop, Stalled
from revolume.sim.kernel.machine import Ended, Machine
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.trace import Trace
from revolume.sim.kernel.uncollected import uncollected
from revolume.sim.oracle.model import Model
from revolume.sim.oracle.sector_history import SectorHistory
from revolume.sim.oracle.sector_payload import SECTOR
from revolume.volume.clocks.label_clock import TOLERANCE_NS
from revolume.volume.volume_base import OpenVolume

HEALED_S = 180.0
"""Within this time after the last fault everything must be well."""
LIFE_S = 3600.0
KiB, MiB = 1 << 10, 1 << 20


@dataclass(slots=True)
class Verdict:
    """What one seed's life came to."""

    world: str
    seed: int
    wrong: list[str]
    digest: int
    virtual_s: float
    answered: int
    faults: int
    events: int
    cuts: set[int] = field(default_factory=set)
    """Crash states, by hash."""
    happened: dict[str, int] = field(default_factory=dict)
    trace: list[str] = field(default_factory=list)


class World:
    """One seed's life: the parts that every world has, and the operator's loop."""

    name = "world"
    size = MiB
    steps = 12
    capacity = 64 * MiB
    overlay_quota = 256 * KiB
    segments: tuple[int, ...] = (64 * KiB, 128 * KiB, 256 * KiB)
    requests: tuple[int, ...] = (1500, 3000, 6000)
    """Answers after which clients take their time, one of these."""
    sync_share = 0.65
    """Of the worlds whose mirror is a sync one."""

    def __init__(self, seed: int, *, keep: int = 0) -> None:
        self.seed = seed
        self.trace = Trace(keep)
        self.chance = Chance(seed, self.name)
        self.loop = SimLoop(self.chance.stream("loop"), self.trace)
        self.fabric = Fabric(self.loop, self.chance.stream("network"), self.trace)
        self.machines: dict[str, Machine] = {}
        self.model = Model(self.size)
        self.register = SectorHistory((self.size - ODD_BYTES) // SECTOR)
        self.orders = Orders("")
        self.wrong: list[str] = []
        self.over = False
        """The operator is done before his time."""
        self.told: list[str] = []
        self.knows_ago = True
        """Nothing was lost of what is known of the clocks: so long ago is exact."""
        self._lives: dict[bytes, OpenVolume] = {}
        """The last life of each directory, by its node."""
        self.cuts: set[int] = set()
        self.happened: dict[str, int] = {}
        self.clients: list[asyncio.Task[None]] = []
        self.readers = Readers(self.model, self.chance.stream("readers"), self.say, self.overlay_quota)
        self._clients_process = Process("c", "clients")

    # Life

    def live(self) -> Verdict:
        """The whole of it."""
        asyncio.set_event_loop(None)
        with uncollected():
            try:
                self.loop.run_until_complete(self._life())
            except Stalled as error:
                self.say(f"stalled: {error}")
            finally:
                for machine in self.machines.values():
                    if machine.process is not None:
                        machine.process.die()
                self._clients_process.die()
                self.wrong += [f"stray: {stray}" for stray in self.loop.strays]
                self.loop.end_world()
        return Verdict(
            self.name, self.seed, self.wrong + self.register.wrong, self.trace.digest, self.loop.time(),
            self.orders.counts.answered, self.faults, self.trace.events, self.cuts, self.happened, self.trace.kept,
        )  # fmt: skip

    @property
    def faults(self) -> int:
        """How many there were."""
        machines = sum(machine.faults.count + machine.blows for machine in self.machines.values())
        network = self.fabric.bent_bytes + self.fabric.cuts
        return machines + network + sum(n for op, n in self.happened.items() if op in FAULTS)

    async def _life(self) -> None:
        try:
            async with asyncio.timeout(LIFE_S):
                await self.begin()
                await self._operate()
                self.trace.note("healing")
                async with asyncio.timeout(HEALED_S):
                    await self.end()
        except TimeoutError:
            self.say("it was not well again in time" + self.state())
        except (RevolumeError, AssertionError, Ended) as error:
            self.say(f"{type(error).__name__}: {error}")

    async def _operate(self) -> None:
        operations = self.operations()
        for _ in range(self.steps):
            await asyncio.sleep(self.chance.delay(3.0))
            if self.wrong or self.register.wrong:
                return
            names = list(operations)
            name = self.chance.choices(names, [operations[name] for name in names])[0]
            self.happened[name] = self.happened.get(name, 0) + 1
            self.trace.note("operator", name)
            await self.operation(name)()
            if self.over:
                return

    def operations(self) -> dict[str, int]:
        """What the operator does, and how often."""
        raise NotImplementedError

    def groups(self) -> Sequence[object]:
        """The objects whose ``op_`` methods are the operations, the first that has one counts."""
        return (self,)

    def operation(self, name: str) -> Callable[[], Awaitable[None]]:
        """What the operator does that is called so."""
        found = next(group for group in self.groups() if hasattr(group, f"op_{name}"))
        does: Callable[[], Awaitable[None]] = getattr(found, f"op_{name}")
        return does

    async def begin(self) -> None:
        """Everything is started."""
        raise NotImplementedError

    async def end(self) -> None:
        """Everything is healed, comes to rest, and is judged."""
        raise NotImplementedError

    def state(self) -> str:
        """For whoever reads a failure."""
        return "".join(f"\n    {line}" for line in self.told[-12:])

    def say(self, what: str) -> None:
        """Record a violation, with the virtual time; the seed fails."""
        self.wrong.append(f"at {self.loop.time():.3f}: {what}")

    def tell(self, text: str) -> None:
        """A service has something to say."""
        self.told.append(f"{self.loop.time():.3f} {text}")

    # Parts

    def budgets(self, segment: int, *, small: bool) -> tuple[int, ...]:
        """What the log of a machine may take, one of these. ``small``: of the one that is a mirror at first."""
        return 24 * segment, 48 * segment, 32 * segment if small else 16 * MiB, 64 * MiB

    def machine(self, name: str) -> Machine:
        """A new one."""
        made = Machine(name, self.loop, self.fabric, self.chance.stream("machines"), self.trace, self.capacity)
        self.machines[name] = made
        return made

    def clock_lost(self, machine: Machine, volume: OpenVolume) -> None:
        """A primary is about to lose its power. A clock step of which it did not know yet, or which is not on its
        disk, nobody can tell from time for which the machine was off."""
        unknown = abs(volume.clocks.labels.now_ns() - machine.clock.wall_ns()) > TOLERANCE_NS
        unsynced = bool(volume.clocks.steps) and volume.clocks.steps[-1].position > volume.log.commit.durable
        self.knows_ago = self.knows_ago and not unknown and not unsynced

    def judge_ago(self, volume: OpenVolume, who: str) -> None:
        """So long ago is what it was then, as far as anybody can know."""
        if self.knows_ago and volume.log.commit.failure is None:
            self.wrong += check_ago(volume, self.model, who)

    def lives(self, volume: OpenVolume, who: str) -> None:
        """A directory is open once more: what it gives out is new, and its last life has kept what it had to."""
        node = volume.manifest.state.node
        last = self._lives.get(node)
        self.wrong += check_given_once(last, volume, who)
        self.wrong += check_ages(last, self.model, f"{who} before") if last is not None else []
        self._lives[node] = volume
        told = volume.admission.on_refusal

        def refused(cause: str) -> None:
            told(cause)
            self.wrong += check_refused(volume, who)

        volume.admission.on_refusal = refused

    def forget_life(self, node: bytes) -> None:
        """The directory of this node is put back to an older state: what it gave out since is given out again."""
        self._lives.pop(node, None)

    def read_the_past(self, machine: Machine, exports: VolumeExports) -> None:
        """A few views and overlays of what there is, kept for a while."""
        number = self.chance.choice(self.model.numbers)
        for _ in range(self.chance.randrange(1, 4)):
            name = self.chance.choice(("vm@now", "vm@now,rw", f"vm@w{number}", f"vm@w{number},rw"))
            self.readers.begin(machine, exports, name)

    def start_clients(self, count: int) -> None:
        """So many, each with habits of its own."""
        self.orders.enough = self.chance.choice(self.requests)
        host = self.client_host()
        for number in range(count):
            chance = self.chance.stream(f"client {number}")
            habits = Habits(
                depth=chance.choice((1, 2, 4)), burst=chance.choice((1, 16, 48)),
                think_s=chance.choice((0.01, 0.04, 0.1)), sectors_max=chance.choice((8, 16, 64, 128)),
                hot=chance.choice((0, 256)), flush=chance.choice((0.02, 0.1)), fua=chance.choice((0.0, 0.1)),
            )  # fmt: skip
            client = SimClient(host, f"client {number}", self.register, self.orders, chance, habits)
            context = self._clients_process.context.copy()
            self.clients.append(self.loop.create_task(client.run(), context=context))

    def client_host(self) -> Host:
        """A client's machine."""
        return Machine("c", self.loop, self.fabric, self.chance, self.trace, MiB).host_for(self._clients_process)

    def serve_at(self, machine: str) -> None:
        """Clients find their volume there from now on."""
        self.orders.uri = f"nbd://{machine}:{NBD_PORT}/vm"

    async def rest(self) -> None:
        """Clients stop; everything that they asked for is answered."""
        self.orders.stop = True
        if self.clients:
            await asyncio.wait(self.clients)
            for client in self.clients:
                if error := client.exception():
                    self.say(f"a client failed: {error!r}")
        self.clients = []

    async def patiently(
        self, what: str, once: Callable[[], Coroutine[Any, Any, object] | Awaitable[bool]], seconds: float
    ) -> bool:
        """Poll ``once`` every 0.1 s of virtual time; whether it was true within ``seconds``. If not, ``what`` is
        said to be wrong."""
        deadline = self.loop.time() + seconds
        while not await once():
            if self.loop.time() > deadline:
                self.say(f"{what}: not within {seconds:.0f} s" + self.state())
                return False
            await asyncio.sleep(0.1)
        return True


FAULTS = frozenset({"slow", "slow_link", "clock", "full", "replay", "stale", "copy"})
"""Operations that are one fault each, and are not counted where they happen."""
