"""A primary's log after an unclean stop, open for what is missing at its end and lies at a mirror.

The log is recovered as for any opening, takes transfers that continue it, and is left as after another unclean
stop, only longer: the opening that follows finds them like its own. Nothing is served meanwhile, no epoch begins.

What is missing was written in openings of this directory, which its manifest knows: each is there before its first
write. If a mirror's log goes on in another, somebody else has been primary since. To take that up would make this
one the newest of all, and the one that is the primary would be refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from revolume.blocks.numbers import Address, Position
from revolume.errors import NotFound, Refused
from revolume.host import Host
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.volume.members.feed import Feed
from revolume.volume.members.received_log import ReceivedLog
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_edits import EditKind, pack_mark
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.open.builder import received_log
from revolume.volume.open.directory_state import stated
from revolume.volume.open.log_identity import End
from revolume.volume.open.open import Opening, locked
from revolume.volume.open.options import OpenOptions
from revolume.volume.open.space_builder import build_space
from revolume.volume.volume_base import OpenVolume

ANOTHER_PRIMARY = "another-primary"


class TailCatchUp:
    """It stores what it is sent like a mirror's copy, and deals with nothing of it. ``close`` once."""

    def __init__(self, volume: OpenVolume, received: ReceivedLog) -> None:
        self._volume = volume
        self._received = received

    @property
    def received(self) -> Position:
        """The newest position up to which every write is complete."""
        return self._received.received

    @property
    def end(self) -> End:
        """The last transfer here; it may be part of a write."""
        return self._received.end

    def keep(self, carried: Sequence[ReceivedTransfer]) -> Position:
        """Store transfers that continue the log, in order; the position that is received now. WouldBlock: nothing
        was stored. Refused: they are not what they should be, or of another primary."""
        self._check_openings((each.transfer.epoch, each.transfer.reign) for each in carried)
        return self._received.keep(carried)

    def check_end(self, end: End) -> None:
        """Refused: a log that ends so goes on in an opening that is none of this directory's. Nothing of it is
        stored then, not even what this directory's own openings wrote."""
        if end.position > self.end.position:
            self._check_openings([(end.epoch, end.reign)])

    def _check_openings(self, openings: Iterable[tuple[int, bytes]]) -> None:
        own = {(epoch.number, epoch.reign) for epoch in self._volume.manifest.state.epochs}
        other = next((number for number, reign in openings if (number, reign) not in own), None)
        if other is not None:
            raise Refused(
                ANOTHER_PRIMARY,
                f"The log goes on in opening {other}, which is none of this directory's: another node has become "
                "primary, or this is an old copy.",
                "Serve the one that is the primary; make this one its mirror with 'revolume demote DIR'.",
            )

    def need(self, carried: Sequence[ReceivedTransfer]) -> int:
        """Blocks that these take at most."""
        return self._received.need(carried)

    async def room(self, blocks: int) -> None:
        """Wait for room for so many blocks. NoSpace: there will be none."""
        await self._received.room(blocks)

    async def close(self) -> None:
        """What was kept is durable; the log was not closed."""
        await self._volume.close_parts(self._make_durable, _nothing)

    async def _make_durable(self) -> None:
        log = self._volume.log
        await log.footers.written()
        await log.commit.synced()
        if (
            log.appender.complete_position != log.appender.position
        ):  # a write is half there: the next opening cuts it off
            return
        await log.manifest.record((EditKind.DURABLE, pack_mark(log.end_mark(Address(0)))))


async def _nothing() -> None:
    return None


def unclean_primary(host: Host, path: str) -> State | None:
    """The state of a primary that was not closed cleanly. None: there is nothing of the kind here."""
    try:
        state = stated(host.disk, path)
    except (FileNotFoundError, NotADirectoryError, NotFound):
        return None
    return state if state.role == Role.PRIMARY and state.clean is None and state.epochs else None


async def open_tail_catch_up(host: Host, path: str, options: OpenOptions) -> TailCatchUp:
    """Open the log of the primary in ``path``. ``close`` it before the volume is opened."""
    directory = locked(host, path, options)
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(Manifest.opened, directory)
        held.callback(manifest.close)
        opening = Opening(host, directory, manifest, options, held)
        end, parts = await opening.recovered()
        parts.log.appender.write = end.end.write  # nothing is numbered here
        await opening.take_up_epoch(parts.log, Feed(parts.log))
        volume = OpenVolume(parts, build_space(parts))
        tail = TailCatchUp(volume, received_log(parts, lambda kind, position, address: None))
        parts.log.pool.start()
        held.pop_all()
        return tail
