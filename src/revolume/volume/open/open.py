"""Opening a volume: as primary, or as the mirror of one.

    lock the directory → may it be opened so? → what of the log stands, its unsynced tail written anew
    (``log_recovery.py``) → live map out of base map and log (``assemble.py``) → a primary: epoch durable → log
    open

A primary goes on where the log ended after a clean stop; after an unclean one numbering resumes above what was
reserved. A mirror stands at its last agreed point and takes up what it has received since.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.errors import NotFound, Refused
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.log.format.segment import Segment
from revolume.volume.branches.branch_files import sweep_branches
from revolume.volume.clocks.clock_step import follow_clock
from revolume.volume.livemap.base_map_rebuild import check_memory
from revolume.volume.livemap.point_records import records_behind
from revolume.volume.members.base_start import point_of
from revolume.volume.members.feed import Feed
from revolume.volume.members.membership import mirrors_of_promoted
from revolume.volume.members.mirrors import missing
from revolume.volume.metadata import log_facts as facts
from revolume.volume.metadata.clock_mark import pack_clock
from revolume.volume.metadata.fork import Fork, pack_fork
from revolume.volume.metadata.manifest import Manifest, load
from revolume.volume.metadata.manifest_edits import EditKind, pack_mark, pack_number
from revolume.volume.metadata.manifest_state import Epoch, MirrorMode, Role, State
from revolume.volume.metadata.moment_edits import pack_epoch
from revolume.volume.metadata.node_edits import pack_member
from revolume.volume.open.assemble import Loading
from revolume.volume.open.builder import build_primary, build_secondary
from revolume.volume.open.create import Birth, check_budget, create, create_copy
from revolume.volume.open.land import Landing, sweep_jump
from revolume.volume.open.log_recovery import Ending, Tail
from revolume.volume.open.open_context import Ground
from revolume.volume.open.options import OpenOptions
from revolume.volume.open_log import OpenLog
from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary
from revolume.volume.volume_base import Parts


async def open_volume(host: Host, path: str, options: OpenOptions) -> Volume:
    """Open the volume in ``path``, or create it if ``options.size`` is given and nothing is there."""
    check_memory(options.map_memory_bytes)
    if options.promote:
        await deal_with_received(host, path, options)
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


async def deal_with_received(host: Host, path: str, options: OpenOptions) -> None:
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
        await secondary.discard_jump()  # it waits with its own log meanwhile
        await secondary.records.verify_before_promotion()
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
    for mirror in () if options.promote else state.mirrors:
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
    if state.clones.origin is not None and options.origin is None:
        raise is_clone(state, path)


def is_clone(state: State, path: str) -> Refused:
    """A clone can't be had without its parent."""
    origin = state.clones.origin
    assert origin is not None
    return Refused(
        "is-clone",
        f"{path} holds {state.name}, a clone of {origin.parent} in {origin.directory}, which has the rest of it.",
        f"'revolume serve {origin.directory}' serves both; 'revolume detach-clone {path}' makes it independent.",
    )


class Opening:
    """One opening, of a directory that may be opened so."""

    def __init__(
        self, host: Host, directory: Directory, manifest: Manifest, options: OpenOptions, held: ExitStack
    ) -> None:
        self._ground = Ground(host, directory, manifest, options, held)

    async def recovered(self) -> tuple[Tail, Parts]:
        """The log's end, and the volume's parts as of it. A jump that has been flipped is finished before."""
        await Landing(self._ground).finish()
        tail = await Ending(self._ground).ready()
        return tail, await Loading(self._ground).parts(tail)

    async def run(self) -> Volume:
        _, parts = await self.recovered()
        self._check_size(parts.sizes.now)
        await self._begin_epoch(parts)
        volume = build_primary(parts)
        await self._ground.sweep_maps()
        parts.rescued.sweep()
        sweep_jump(self._ground)
        sweep_branches(self._ground.directory, self._ground.state.branches)
        volume.dirty.sweep()
        volume.start()
        await volume.membership.stated()
        return volume

    def _check_size(self, size: int) -> None:
        wanted = self._ground.options.size
        if wanted is not None and wanted != size:
            raise Refused(
                "wrong-size",
                f"The volume in {self._ground.directory.path} has {size} bytes, not {wanted}.",
                "Leave --size out, or use 'revolume grow'.",
            )

    async def run_secondary(self) -> Secondary:
        tail, parts = await self.recovered()
        await self._ground.manifest.record(
            (EditKind.CLEAN, pack_mark(None)), (EditKind.CLOCK, self._clock_mark(parts)),
            *self._ground.retention_edits(),
        )  # fmt: skip
        secondary = build_secondary(parts, parts.retained.newest or point_of(self._ground.state.horizon))
        await self.take_up_epoch(secondary.log, secondary.feed)
        await self._ground.sweep_maps()
        parts.rescued.sweep()
        sweep_jump(self._ground)
        sweep_branches(self._ground.directory, self._ground.state.branches)
        secondary.dirty.sweep()
        secondary.start(records_behind(tail.columns, self._ground.state.agreed.position))
        return secondary

    async def take_up_epoch(self, log: OpenLog, feed: Feed) -> None:
        """The log goes on in the epoch of its last transfer."""
        appender = log.appender
        identity = await feed.identity_at(appender.position)
        if identity is not None:
            appender.epoch, appender.reign = identity[:2]

    @staticmethod
    def _clock_mark(parts: Parts) -> bytes:
        return pack_clock(parts.clocks.mark(parts.log.appender.position))

    async def _begin_epoch(self, parts: Parts) -> None:
        """The epoch is durable before its first write: in the manifest first, then as a fact in the log."""
        log, appender = parts.log, parts.log.appender
        number, reign = appender.epoch, appender.reign
        epoch = Epoch(number, reign, appender.position, appender.write)
        reserved = max(self._ground.state.reserved, appender.write) + self._ground.options.reserve_writes
        await self._ground.manifest.record(
            *self._primary_edits(number, appender.write), (EditKind.EPOCH, pack_epoch(epoch)),
            (EditKind.RESERVE, pack_number(reserved)), (EditKind.CLEAN, pack_mark(None)),
            (EditKind.CLOCK, self._clock_mark(parts)), *self._ground.retention_edits(),
        )  # fmt: skip
        if not log.writer.holds(4, 0):
            log.pool.ready.append(await self._first_segment())  # behind those that stand ready: uses must ascend
        log.writer.emit(facts.draft(facts.epoch_begun(number, reign)))
        follow_clock(parts.clocks, log, parts.events)
        await log.commit.wait_durable(appender.position)

    def _primary_edits(self, opening: int, end: WriteNumber) -> list[tuple[EditKind, bytes]]:
        """What makes it a primary that was none; a copy's own mark, where an older version made none. Names of
        moments behind its ``end``, of which it was told beforehand, are none of its own: other writes get these
        numbers."""
        edits: list[tuple[EditKind, bytes]] = []
        if self._ground.state.role == Role.SECONDARY:
            agreed = self._ground.state.agreed
            edits += [
                (EditKind.ROLE, bytes([Role.PRIMARY])), (EditKind.YIELDS, b""),
                (EditKind.FORK, pack_fork(Fork(opening, agreed.point, agreed.write))),
            ]  # fmt: skip
            if self._ground.state.jump is not None:  # what had arrived was for going on as a mirror
                edits.append((EditKind.DROP_JUMP, b""))
            ahead = [pin.name for pin in self._ground.state.snapshots if pin.write > end]
            edits += [(EditKind.DROP_SNAPSHOT, name.encode()) for name in ahead]
            others = mirrors_of_promoted(self._ground.state, self._ground.options.former)
            edits += [(EditKind.MEMBER, pack_member(mirror)) for mirror in others]
            edits += [(EditKind.HANDED_TO, b"")] if self._ground.state.handed_to else []
        if self._ground.state.node == bytes(16):
            edits.append((EditKind.NODE, self._ground.host.entropy.token(16)))
        return edits

    async def _first_segment(self) -> Segment:
        try:
            return await self._ground.with_room(self._ground.pool.fresh)
        except OSError as error:
            raise self._ground.no_room("a segment of the log", error) from error
