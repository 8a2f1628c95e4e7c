"""Opening a volume: as primary, or as the mirror of one.

    lock the directory → may it be opened so? → what of the log stands, its unsynced tail written anew
    (``ending.py``) → live map out of base map and log (``loading.py``) → a primary: epoch durable → log open

A primary goes on where the log ended after a clean stop; after an unclean one numbering resumes above what was
reserved. A mirror stands at its last agreed point and takes up what it has received since.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from revolume.errors import NotFound, Refused
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.log.segment import Segment
from revolume.log.transfer import BLOCK
from revolume.volume import facts
from revolume.volume.base_start import point_of
from revolume.volume.clock_mark import pack_clock
from revolume.volume.clock_step import follow_clock
from revolume.volume.core import Core
from revolume.volume.creating import Birth, check_budget, create, create_copy
from revolume.volume.cutter import Cutter
from revolume.volume.ending import Ending, Tail
from revolume.volume.first_base import check_memory
from revolume.volume.folder import Folder
from revolume.volume.ground import Ground
from revolume.volume.loading import Loading
from revolume.volume.manifest import (
    EditKind,
    Epoch,
    Manifest,
    MirrorMode,
    Role,
    State,
    load,
    pack_epoch,
    pack_mark,
    pack_number,
)
from revolume.volume.mirrors import missing
from revolume.volume.options import OpenOptions
from revolume.volume.replay import records_behind
from revolume.volume.sealer import watch
from revolume.volume.secondary import Secondary
from revolume.volume.volume import Volume


async def open_volume(host: Host, path: str, options: OpenOptions) -> Volume:
    """Open the volume in ``path``, or create it if ``options.size`` is given and nothing is there."""
    check_memory(options.map_memory_bytes)
    if options.promote:
        await _prove(host, path, options)
    directory = locked(host, path, options)
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(_manifest, host, directory, options)
        held.callback(manifest.close)
        _agree(manifest.state, options, directory.path)
        _may_be_primary(manifest.state, options, directory.path)
        volume = await Opening(host, directory, manifest, options, held).run()
        held.pop_all()
        return volume


async def _prove(host: Host, path: str, options: OpenOptions) -> None:
    """A mirror that is to become a primary first deals with what it has received. What is none is left alone."""
    directory = locked(host, path, options)
    try:
        state = (await host.work.call(load, directory)).state
    finally:
        directory.close()
    if state.role != Role.SECONDARY or state.base is not None:
        return
    secondary = await open_secondary(host, path, replace(options, size=None, promote=False))
    try:
        await secondary.prove()
    finally:
        await secondary.close()


async def open_secondary(host: Host, path: str, options: OpenOptions, birth: Birth | None = None) -> Secondary:
    """Open the copy in ``path`` as secondary, or with ``birth`` make it if nothing is there."""
    check_memory(options.map_memory_bytes)
    directory = locked(host, path, replace(options, size=birth.horizon.size if birth else None))
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(_copy_manifest, host, directory, options, birth)
        held.callback(manifest.close)
        _agree(manifest.state, replace(options, name=None), directory.path)
        if manifest.state.role != Role.SECONDARY:
            raise Refused(
                "is-primary",
                f"{directory.path} holds a volume that clients may write to, not a mirror.",
                "Serve it without --mirror-listen, or name an empty directory.",
            )
        secondary = await Opening(host, directory, manifest, options, held).run_secondary()
        held.pop_all()
        return secondary


def _copy_manifest(host: Host, directory: Directory, options: OpenOptions, birth: Birth | None) -> Manifest:
    try:
        load(directory)
    except NotFound:
        if birth is None:
            raise
        return create_copy(host, directory, options, birth)
    return Manifest.opened(directory)


def _may_be_primary(state: State, options: OpenOptions, path: str) -> None:
    """Refused for a mirror, unless it is being promoted and may be; and where a required mirror is left out."""
    if state.role == Role.SECONDARY and not options.promote:
        raise Refused(
            "is-mirror", f"{path} is a mirror: only its source changes it.",
            "Serve it with --mirror-listen, or make it a primary with 'revolume promote'.",
        )  # fmt: skip
    if state.base is not None:
        raise Refused(
            "not-promotable", f"{path} is not a whole copy yet: its base is still being received.",
            "Let its source finish, or promote another mirror.",
        )  # fmt: skip
    for mirror in state.mirrors:
        if mirror.joined and mirror.mode == MirrorMode.SYNC and mirror.name not in options.mirrors:
            raise missing(mirror.name)


def locked(host: Host, path: str, options: OpenOptions) -> Directory:
    try:
        directory = host.disk.open(path, create=options.size is not None)
    except FileNotFoundError:
        raise NotFound(
            "no-directory", f"{path} does not exist.", "Give --size to create a volume there."
        ) from None
    except NotADirectoryError:
        raise Refused("not-a-directory", f"{path} is not a directory.", "Name a directory.") from None
    try:
        directory.lock()
    except BlockingIOError:
        directory.close()
        raise Refused(
            "dir-in-use",
            f"{path} is in use by another process.",
            "Stop that one, or reach the volume through it.",
        ) from None
    return directory


def _manifest(host: Host, directory: Directory, options: OpenOptions) -> Manifest:
    try:
        load(directory)
    except NotFound:
        if options.size is None:
            raise
        name = options.name or directory.path.rstrip("/").rsplit("/", 1)[-1]
        return create(host, directory, options, name)
    return Manifest.opened(directory)


def _agree(state: State, options: OpenOptions, path: str) -> None:
    if options.name is not None and state.name != options.name:
        raise Refused(
            "wrong-name", f"The volume in {path} is called {state.name}.", "Leave --name out, or name it so."
        )
    check_budget(options, state.segment_blocks * BLOCK)


class Opening:
    """One opening, of a directory that may be opened so."""

    def __init__(
        self, host: Host, directory: Directory, manifest: Manifest, options: OpenOptions, held: ExitStack
    ) -> None:
        self._ground = Ground(host, directory, manifest, options, held)

    async def recovered(self) -> tuple[Tail, Core]:
        """The log's end, and the volume's parts as of it."""
        tail = await Ending(self._ground).ready()
        core = await Loading(self._ground).core(tail)
        watch(core)
        return tail, core

    async def run(self) -> Volume:
        _, core = await self.recovered()
        self._check_size(core)
        await self._begin_epoch(core)
        volume = self._volume(core)
        self._ground.sweep_maps()
        volume.start()
        return volume

    def _check_size(self, core: Core) -> None:
        wanted = self._ground.options.size
        if wanted is not None and wanted != core.size:
            raise Refused(
                "wrong-size",
                f"The volume in {self._ground.directory.path} has {core.size} bytes, not {wanted}.",
                "Leave --size out, or use 'revolume grow'.",
            )

    async def run_secondary(self) -> Secondary:
        tail, core = await self.recovered()
        await self._ground.recorder.record(
            (EditKind.CLEAN, pack_mark(None)), (EditKind.CLOCK, pack_clock(core.clock_mark())),
            *self._ground.budget_edits(),
        )  # fmt: skip
        agreed = core.points[-1] if core.points else point_of(self._ground.state.horizon)
        secondary = Secondary(core, Folder(core), agreed)
        await self.take_up_epoch(secondary)
        self._ground.sweep_maps()
        secondary.start(records_behind(tail.columns, self._ground.state.agreed.position))
        return secondary

    async def take_up_epoch(self, secondary: Secondary) -> None:
        """The log goes on in the epoch of its last transfer."""
        appender = secondary.core.appender
        identity = await secondary.feed.identity_at(appender.position)
        if identity is not None:
            appender.epoch, appender.reign = identity[:2]

    async def _begin_epoch(self, core: Core) -> None:
        """The epoch is durable before its first write: in the manifest first, then as a fact in the log."""
        appender = core.appender
        number, reign = appender.epoch, appender.reign
        epoch = Epoch(number, reign, appender.position, appender.write)
        reserved = max(self._ground.state.reserved, appender.write) + self._ground.options.reserve_writes
        await self._ground.recorder.record(
            *self._primary_edits(), (EditKind.EPOCH, pack_epoch(epoch)), (EditKind.RESERVE, pack_number(reserved)),
            (EditKind.CLEAN, pack_mark(None)), (EditKind.CLOCK, pack_clock(core.clock_mark())),
            *self._ground.budget_edits(),
        )  # fmt: skip
        if not core.writer.holds(4, 0):
            core.pool.ready.append(await self._first_segment())  # behind those that stand ready: uses must ascend
        core.writer.emit(facts.draft(facts.epoch_begun(number, reign)))
        follow_clock(core)
        await core.commit.wait_durable(appender.position)

    def _primary_edits(self) -> list[tuple[EditKind, bytes]]:
        """What makes it a primary that was none; a copy's own mark, where an older version made none."""
        edits: list[tuple[EditKind, bytes]] = []
        if self._ground.state.role == Role.SECONDARY:
            edits.append((EditKind.ROLE, bytes([Role.PRIMARY])))
        if self._ground.state.node == bytes(16):
            edits.append((EditKind.NODE, self._ground.host.entropy.token(16)))
        return edits

    async def _first_segment(self) -> Segment:
        try:
            return await self._ground.with_room(self._ground.pool.fresh)
        except OSError as error:
            raise self._ground.no_room("a segment of the log", error) from error

    def _volume(self, core: Core) -> Volume:
        cutter = Cutter(core)
        core.partials.on_due = cutter.request
        return Volume(core, cutter, Folder(core))
