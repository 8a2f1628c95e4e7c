"""What runs on a simulated machine: a volume served as primary, or kept as a mirror.

The assembly is the product's own (``cli/primary.py``) where that reaches the machine through ``host`` alone; a
mirror is put together here from the same parts as ``cli/mirror.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from revolume.cli.mirror_to import MirrorTo
from revolume.cli.offered import Offered
from revolume.cli.primary import PrimaryRole, open_primary
from revolume.cli.role import open_options
from revolume.cli.serving import Serving
from revolume.errors import NotFound
from revolume.host import Host
from revolume.log.ops import Op
from revolume.mirror.shelf import DirectoryShelf
from revolume.mirror.target import Target
from revolume.nbd.limits import Limits
from revolume.nbd.server import Server
from revolume.sim.model import Model
from revolume.volume.manifest import load
from revolume.volume.opening import open_secondary, open_volume
from revolume.volume.secondary import Secondary
from revolume.volume.volume import Volume

PATH = "/vol"
NBD_PORT, MIRROR_PORT = 10809, 10810
GRACE_S = 5.0
LIMITS = Limits(
    base_bytes=1 << 14, buffer_bytes=1 << 17, payload_bytes_max=1 << 18, inflight_bytes=1 << 20,
    connection_bytes=1 << 19, unanswered_max=256, all_unanswered_max=2048, strangers_max=16, stall_seconds=2.0,
)  # fmt: skip
"""As large in proportion to the little volumes of these worlds as the usual ones are to large volumes."""
Tell = Callable[[str], None]


class PrimaryService:
    """A volume that clients may write to. Everything that it accepts is told to the model."""

    def __init__(self, host: Host, machine: str, role: PrimaryRole, model: Model) -> None:
        self._host = host
        self._machine = machine
        self.role = role
        self.volume: Volume = role._volume
        self.opened_at = self.volume.position
        self.model = model
        self.server: Server | None = None
        self.flushed_ahead = 0
        self._append = self.volume.append
        self.volume.append = self._accept  # type: ignore[method-assign]

    @classmethod
    async def open(
        cls, host: Host, machine: str, asked: Serving, model: Model, tell: Tell, *, promote: bool = False
    ) -> PrimaryService:
        """The volume is open, and mirrored; nobody is served yet."""
        if promote:
            options = replace(open_options(asked), size=None, promote=True)
            volume = await open_volume(host, asked.directory, options)
            return cls(host, machine, PrimaryRole(host, volume, tell), model)
        return cls(host, machine, await open_primary(host, asked, tell), model)

    def _accept(self, ops: list[Op]) -> int:
        """As the volume; what is half done when the power goes may be there afterwards."""
        commit = self.volume.core.commit
        first, failed = self.volume.core.appender.write + 1, commit.failure
        try:
            position = self._append(ops)
        except BaseException as error:
            if commit.failure is not failed or not isinstance(error, Exception):
                self.model.accepted(first, ops)
            raise
        self.model.accepted(first, ops)
        self.model.when.update(dict.fromkeys(range(first, first + len(ops)), self._host.clock.monotonic_ns()))
        return position

    async def serve(self) -> None:
        """Let clients in."""
        offered = Offered()
        offered.take(self.role)
        self.server = Server(self._host, offered, LIMITS, None, tls_required=False)
        await self.server.listen(f"{self._machine}:{NBD_PORT}")

    async def content(self) -> bytearray:
        """All of the live volume."""
        buffer = bytearray(self.volume.size)
        await self.volume.read(0, memoryview(buffer))
        return buffer

    async def close(self) -> None:
        """A clean stop."""
        if self.server is not None:
            await self.server.stop(GRACE_S)
        await self.role.close()


class MirrorService:
    """A mirror in a directory, empty or not."""

    def __init__(self, host: Host, asked: Serving, tell: Tell) -> None:
        self._host = host
        self._asked = asked
        self._tell = tell
        self.shelf: DirectoryShelf
        self.target: Target

    @classmethod
    async def open(
        cls, host: Host, machine: str, asked: Serving, tell: Tell, *, port: int = MIRROR_PORT
    ) -> MirrorService:
        """It is there, and listens for its source."""
        made, options = cls(host, asked, tell), open_options(asked)
        secondary = None
        if holds_volume(host, asked.directory):
            secondary = await open_secondary(host, asked.directory, options)
        else:
            host.disk.open(asked.directory, create=True).close()
        made.shelf = DirectoryShelf(host, asked.directory, options, secondary)
        made.target = Target(host, made.shelf, None, tell)
        await made.target.listen(f"{machine}:{port}")
        return made

    @property
    def secondary(self) -> Secondary | None:
        """What is here; None: nothing yet."""
        return self.shelf.secondary

    async def close(self) -> None:
        """A clean stop."""
        await self.target.stop()
        if self.secondary is not None:
            await self.secondary.close()


def holds_volume(host: Host, path: str) -> bool:
    """Whether there is a volume in a directory."""
    try:
        directory = host.disk.open(path)
    except FileNotFoundError:
        return False
    try:
        load(directory)
        return True
    except NotFound:
        return False
    finally:
        directory.close()


def mirror_at(machine: str, sync: bool) -> MirrorTo:
    """A mirror, as the primary's command line has it. Mirrors are called by their machines."""
    return MirrorTo(f"{machine}:{MIRROR_PORT}", sync, machine)
