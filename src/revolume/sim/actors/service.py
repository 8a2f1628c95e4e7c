"""The product's own service (``node/service.py``) on a simulated machine, as primary and as mirror.

Nothing is assembled here: a world opens the service, looks at its volume, and lets clients in. A primary's volume
tells the model what it accepts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from revolume.api.schemas import RestoredSchema, RestoreOrder
from revolume.blocks.numbers import Position, WriteNumber
from revolume.host import Host
from revolume.log.write.operations import Op
from revolume.log.write.pool_limits import WholeNeed
from revolume.mirror.target.target import Target
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.server.server import Server
from revolume.node.mirror_to import MirrorTo
from revolume.node.primary_role import PrimaryRole
from revolume.node.promotion import promote_stopped
from revolume.node.secondary_role import SecondaryRole
from revolume.node.service import Service
from revolume.node.service_options import ServiceOptions
from revolume.sim.oracle.model import Model
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary
from revolume.volume.state.events import Event

PATH = "/vol"
NBD_PORT, MIRROR_PORT = 10809, 10810
LIMITS = Limits(
    base_bytes=1 << 14, buffer_bytes=1 << 17, payload_bytes_max=1 << 18, inflight_bytes=1 << 20,
    connection_bytes=1 << 19, unanswered_max=256, all_unanswered_max=2048, strangers_max=16, stall_seconds=2.0,
)  # fmt: skip
"""As large in proportion to the little volumes of these worlds as the usual ones are to large volumes."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class SentenceObserver:
    """``node.event_log.Observer`` that passes on what the service does, and not what happens to its volume."""

    tell: Tell

    def event(self, volume: str, event: Event) -> None:
        """Nothing: worlds look at the volume's events themselves."""


async def _opened(host: Host, options: ServiceOptions, tell: Tell) -> Service:
    simulated = replace(
        options, limits=LIMITS, plaintext_allowed=True, plain_links_allowed=True, control=False,
        scrub_period_s=None,
    )  # fmt: skip
    return await Service.open(host, simulated, SentenceObserver(tell))


class PrimaryService:
    """A service whose volume clients may write to. Everything that the volume accepts is told to the model.
    ``serving``: it lets clients in already."""

    def __init__(self, host: Host, service: Service, model: Model, *, serving: bool = False) -> None:
        assert isinstance(service.role, PrimaryRole)
        self._host = host
        self._service = service
        self._serving = serving
        self.role = service.role
        self.volume: Volume = service.role.volume
        self.opened_at = self.volume.position
        self.model = model
        self._append = self.volume.append
        self.volume.append = self._accept  # type: ignore[method-assign]
        self._append_whole = self.volume.whole_writes.append
        self.volume.whole_writes.append = self._accept_whole  # type: ignore[method-assign]
        self._whole: list[Op] | None = None
        self._resize = self.volume.log.writer.resize
        self.volume.log.writer.resize = self._completed  # type: ignore[method-assign]
        self.on_restored: Callable[[Op], None] = lambda op: None
        """Is told of everything that a restore writes, before it is written."""
        self.slices = 0
        """Of restores, so far."""
        self._forget = self.volume.retained.forget_before
        self.volume.retained.forget_before = self._forgotten  # type: ignore[method-assign]
        self._grow = self.volume.sizes.grow
        self.volume.sizes.grow = self._grown  # type: ignore[method-assign]

    @classmethod
    async def open(
        cls, host: Host, machine: str, options: ServiceOptions, model: Model, tell: Tell
    ) -> PrimaryService:
        """The volume is open, and mirrored; its address is bound, and nobody is served yet."""
        served = replace(options, addresses=(nbd_address(machine),))
        return cls(host, await _opened(host, served, tell), model)

    @property
    def server(self) -> Server:
        """The NBD server."""
        return self._service.server

    def _accept(self, ops: list[Op]) -> Position:
        """As the volume; what is half done when the power goes may be there afterwards."""
        commit = self.volume.log.commit
        first, failed = self.volume.log.appender.write + 1, commit.failure
        try:
            position = self._append(ops)
        except BaseException as error:
            if commit.failure is not failed or not isinstance(error, Exception):
                self._accepted(first, ops)
            raise
        self._accepted(first, ops)
        return position

    async def _accept_whole(
        self, slices: AsyncIterator[Sequence[Op]], need: WholeNeed, check: Callable[[], None]
    ) -> Position:
        """As the volume."""
        self._whole = None
        return await self._append_whole(self._noted(slices), need, check)

    async def _noted(self, slices: AsyncIterator[Sequence[Op]]) -> AsyncIterator[Sequence[Op]]:
        done = list[Op]()
        async for ops in slices:
            self.slices += 1
            for op in ops:
                done.append(op)
                self.on_restored(op)
            yield ops
        self._whole = done

    def _completed(self, size: int) -> None:
        """The end of a write of many places, or another size. Of what is half done when the power goes nothing may
        be there, unless it goes while that is completed."""
        whole, self._whole = self._whole, None
        number = self.volume.log.appender.write + 1
        try:
            self._resize(size)
        finally:
            if whole is not None:
                self._as_one(number, whole)

    def _as_one(self, number: int, ops: list[Op]) -> None:
        self.model.accepted_as_one(number, ops)
        self.model.when[number] = self._host.clock.monotonic_ns()

    async def restore(self, order: RestoreOrder) -> RestoredSchema:
        """The service's own."""
        return await self._service.restore(order)

    def _accepted(self, first: int, ops: list[Op]) -> None:
        self.model.accepted(first, ops)
        self.model.when.update(dict.fromkeys(range(first, first + len(ops)), self._host.clock.monotonic_ns()))

    def _forgotten(self, number: int) -> None:
        gone = [point for point in self.volume.retained if point.number < number]
        self.model.folded.update((point.write, point.lived_ms) for point in gone)
        self._forget(number)

    def _grown(self, write: WriteNumber, size: int) -> None:
        self.model.grown(write, self._host.clock.monotonic_ns())
        self._grow(write, size)

    async def serve(self) -> None:
        """Let clients in."""
        if not self._serving:
            self._serving = True
            await self._service.serve()

    async def content(self) -> bytearray:
        """All of the live volume."""
        buffer = bytearray(self.volume.size)
        await self.volume.read(0, memoryview(buffer))
        return buffer

    async def close(self) -> None:
        """A clean stop."""
        await self._service.close()


class MirrorService:
    """A service in whose directory a mirror is kept, or will be. Clients do not come here until it is promoted."""

    def __init__(self, host: Host, machine: str, service: Service) -> None:
        self._host = host
        self._machine = machine
        self._service = service

    @classmethod
    async def open(
        cls, host: Host, machine: str, options: ServiceOptions, tell: Tell, *, port: int = MIRROR_PORT
    ) -> MirrorService:
        """It is there, and listens for its source."""
        mirror = replace(options, size=None, name=None, mirrors=(), mirror_listen=f"{machine}:{port}")
        service = await _opened(host, mirror, tell)
        await service.serve()
        return cls(host, machine, service)

    @property
    def role(self) -> SecondaryRole | None:
        """None: it is a primary."""
        return self._service.role if isinstance(self._service.role, SecondaryRole) else None

    @property
    def secondary(self) -> Secondary | None:
        """The copy that is here; None: nothing yet."""
        return self.role.secondary if self.role is not None else None

    @property
    def target(self) -> Target | None:
        """The listener for its source; None: it is not served."""
        return self.role.target if self.role is not None else None

    async def promote(self, model: Model) -> PrimaryService:
        """The same service as a primary, which takes over the machine's NBD address. Refused; RevolumeError,
        OSError: it can't be opened as one."""
        await self._service.promote([nbd_address(self._machine)])
        return PrimaryService(self._host, self._service, model, serving=True)

    async def close(self) -> None:
        """A clean stop."""
        await self._service.close()


async def promote_directory(host: Host) -> None:
    """The mirror that nobody serves becomes a primary, and is closed."""
    await promote_stopped(host, PATH)


def nbd_address(machine: str) -> str:
    """Where clients find a machine's volume."""
    return f"{machine}:{NBD_PORT}"


def mirror_at(machine: str, sync: bool) -> MirrorTo:
    """A mirror, as the primary's command line has it. Mirrors are called by their machines."""
    return MirrorTo(f"{machine}:{MIRROR_PORT}", sync, machine)
