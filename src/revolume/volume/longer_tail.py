"""A primary's log after an unclean stop, open for what is missing at its end and lies at a mirror.

The log is recovered as for any opening, takes transfers that continue it, and is left as after another unclean
stop, only longer: the opening that follows finds them like its own. Nothing is served meanwhile, no epoch begins.

What is missing was written in openings of this directory, which its manifest knows: each is there before its first
write. If a mirror's log goes on in another, somebody else has been primary since. To take that up would make this
one the newest of all, and the one that is the primary would be refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from revolume.errors import NotFound, Refused
from revolume.host import Host
from revolume.log.carried import Carried
from revolume.volume.base_start import point_of
from revolume.volume.folder import Folder
from revolume.volume.manifest import EditKind, Manifest, Mark, Role, State, load, pack_mark
from revolume.volume.opening import Opening, locked
from revolume.volume.options import OpenOptions
from revolume.volume.secondary import Secondary

ANOTHER_PRIMARY = "another-primary"


class LongerTail(Secondary):
    """It keeps what it is sent like a secondary, which it is for the moment, and deals with nothing of it."""

    def _judge(self, carried: Sequence[Carried]) -> None:
        own = {(epoch.number, epoch.reign) for epoch in self.core.manifest.state.epochs}
        for each in carried:
            if (each.transfer.epoch, each.transfer.reign) not in own:
                raise Refused(
                    ANOTHER_PRIMARY,
                    f"The log goes on in opening {each.transfer.epoch}, which is none of this directory's: "
                    "another node has become primary, or this is an old copy.",
                    "Serve the one that is the primary; make this one its mirror, in an empty directory.",
                )
        super()._judge(carried)

    async def _close_clean(self) -> None:
        """What was kept is durable; the log was not closed."""
        core, appender = self.core, self.core.appender
        await core.footers_written()
        await core.commit.synced()
        if appender.whole != appender.position:  # a write is half there: the next opening cuts it off
            return
        mark = Mark(appender.position, 0, appender.chain, appender.write, appender.time_ns)
        await core.recorder.record((EditKind.DURABLE, pack_mark(mark)))


def left_behind(host: Host, path: str) -> State | None:
    """The state of a primary that was not closed cleanly. None: there is nothing of the kind here."""
    try:
        directory = host.disk.open(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        state = load(directory).state
    except NotFound:
        return None
    finally:
        directory.close()
    return state if state.role == Role.PRIMARY and state.clean is None and state.epochs else None


async def open_longer_tail(host: Host, path: str, options: OpenOptions) -> LongerTail:
    """Open the log of the primary in ``path``. ``close`` it before the volume is opened."""
    directory = locked(host, path, options)
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(Manifest.opened, directory)
        held.callback(manifest.close)
        opening = Opening(host, directory, manifest, options, held)
        end, core = await opening.recovered()
        core.appender.write = end.end.write  # nothing is numbered here
        points = core.points
        tail = LongerTail(core, Folder(core), points[-1] if points else point_of(manifest.state.horizon))
        await opening.take_up_epoch(tail)
        core.admission.failure = lambda: core.commit.failure
        core.pool.start()
        held.pop_all()
        return tail
