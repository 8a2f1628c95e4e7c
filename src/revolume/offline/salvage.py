"""Salvage: the volume's content rebuilt from self-describing records when manifest, maps or blocks are lost.

Trusts nothing but checksums. The image's digests, where they can be read, say which of its blocks are whole and
which write they stand for; every segment file is searched for valid transfers, and of those the chain says
which led to the newest state. What they changed behind the image is resolved as a fold does it, by write
number; a block that is not where it should be is looked for by its digest wherever one may still lie. What is
missing is counted and said; the result is the newest state that the records can prove, not more.

The source is opened read-only and locked; the target is a new file. A disk that refuses to be read in places
costs these places.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

import numpy as np

from revolume.blocks.geometry import ceil_div
from revolume.chain.point import unpack_part
from revolume.chain.versions import newest, under_ranges
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File
from revolume.log.columns import Columns, ColumnsBuilder, only, resizes
from revolume.log.scan import Found
from revolume.log.transfer import BLOCK, LENGTH_MASK, Kind
from revolume.offline.copies import Copies
from revolume.offline.lineage import lineage
from revolume.offline.rebuilt import Rebuilt
from revolume.offline.records import Records, search
from revolume.offline.report import Problem, Progress, SalvageReport
from revolume.volume import layout
from revolume.volume.lacking import lacking
from revolume.volume.manifest import State, load
from revolume.volume.sums import Sums, stated_volume


def salvage(
    host: Host, path: str, target: str, progress: Progress = lambda stage, done, total: None
) -> SalvageReport:
    """Write the volume in ``path``, as far as its records prove it, to the new file ``target``."""
    directory = _source(host, path)
    try:
        out_directory, name = _target(host, target)
        try:
            out = out_directory.open(name, create=True, exclusive=True)
        except FileExistsError:
            raise Refused("file-exists", f"{target} exists.", "Name a new file.") from None
        try:
            with ExitStack() as held:
                return _Salvage(directory, out, progress, held).run()
        finally:
            out.close()
            out_directory.sync()
            out_directory.close()
    finally:
        directory.close()


def _source(host: Host, path: str) -> Directory:
    try:
        directory = host.disk.open(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no-directory", f"{path} is not a directory.", "Name a volume's directory.") from None
    try:
        directory.lock()
    except BlockingIOError:
        directory.close()
        raise Refused("dir-in-use", f"{path} is in use by another process.", "Stop the volume first.") from None
    if not directory.exists(layout.LOG) and not directory.exists(layout.IMAGE):
        directory.close()
        raise NotFound("not-a-volume", f"{path} holds neither a log nor an image.", "Name a volume's directory.")
    return directory


def _target(host: Host, target: str) -> tuple[Directory, str]:
    parent, _, name = target.rpartition("/")
    try:
        return host.disk.open(parent or ("/" if target.startswith("/") else ".")), name
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no-directory", f"{parent} is not a directory.", "Name a file in one.") from None


class _Salvage:
    def __init__(self, directory: Directory, out: File, progress: Progress, held: ExitStack) -> None:
        self._directory = directory
        self._out = out
        self._progress = progress
        self._held = held
        self._problems: list[Problem] = []

    def run(self) -> SalvageReport:
        state = self._state()
        records = self._records(state)
        horizon, durable = self._known(state, records)
        log = lineage(records.found, durable)
        pieces = _columns(log)
        last = max([horizon, *(_last_write(one) for one in log)])
        size = self._size(state, pieces)
        self._out.truncate(size)
        rebuilt = Rebuilt(self._out, Copies(records.found), self._progress)
        write, point = self._image(rebuilt, records.volume)
        horizon = max(horizon, write)
        self._gaps(log, _position_of(point, log, state), durable)
        changed = under_ranges(newest((columns.versions() for columns in pieces), horizon, last))
        rebuilt.take_log(changed, {one.segment.use: one.segment for one in log})
        self._out.truncate(size)
        self._out.datasync()
        return SalvageReport(
            tuple(self._problems), size, last, len(records.found), rebuilt.written, rebuilt.lost, rebuilt.unproved
        )

    def _say(self, where: str, what: str) -> None:
        self._problems.append(Problem(where, what))

    # What is known

    def _state(self) -> State | None:
        try:
            state = load(self._directory).state
        except (RevolumeError, OSError) as error:
            self._say("manifest", error.cause if isinstance(error, RevolumeError) else str(error))
            return None
        if sentence := lacking(state):
            self._say(layout.IMAGE, sentence)
        return state

    def _records(self, state: State | None) -> Records:
        if not self._directory.exists(layout.LOG):
            self._say(layout.LOG, "is missing")
            return Records(stated_volume(self._directory), [], 0)
        log = self._held.enter_context(closing(self._directory.child(layout.LOG)))
        known = stated_volume(self._directory) if state is None else state.volume
        return search(log, known, state.segment_blocks if state else 0, self._held, self._progress)

    @staticmethod
    def _known(state: State | None, records: Records) -> tuple[int, int]:
        """(the write that the image stands for at least, the position that was durable)."""
        horizons = [one.local.horizon for one in records.found]
        if state is None:
            return max([0, *horizons]), records.durable
        clean = 0 if state.clean is None else state.clean.position
        return max([state.horizon.write, *horizons]), max(records.durable, state.durable.position, clean)

    def _size(self, state: State | None, pieces: list[Columns]) -> int:
        sizes = [0] if state is None else [state.horizon.size]
        if self._directory.exists(layout.IMAGE):
            with closing(self._directory.open(layout.IMAGE, write=False)) as image:
                sizes.append(image.size())
        for columns in pieces:
            sizes += [size for _, size in resizes(columns)]
            written = only(columns, columns.rows["kind"] == Kind.WRITES)
            sizes += (written.offsets + (written.lengths & np.uint64(LENGTH_MASK))).tolist()
        return max(sizes)

    # What is there

    def _image(self, rebuilt: Rebuilt, volume: bytes) -> tuple[int, int]:
        """The write and the point that it stands for; zeroes if its digests don't say so."""
        if not self._directory.exists(layout.IMAGE):
            self._say(layout.IMAGE, "is missing")
            return 0, 0
        image = self._held.enter_context(closing(self._directory.open(layout.IMAGE, write=False)))
        try:
            sums = self._held.enter_context(closing(Sums.open(self._directory, volume, write=False)))
        except (RevolumeError, OSError) as error:
            cause = error.cause if isinstance(error, RevolumeError) else str(error)
            self._say(layout.SUMS, f"{cause} The image is taken as it is.")
            rebuilt.take_unproved(image, 0, ceil_div(image.size(), BLOCK))
            return 0, 0
        rebuilt.take_image(image, sums)
        return sums.facts.write, sums.facts.point

    def _gaps(self, log: list[Found], begin: int | None, durable: int) -> None:
        """What the log has lost behind position ``begin``."""
        position, write = begin, 0
        for one in (one for one in log if one.transfer.kind != Kind.FIXUP):
            if position is not None and one.transfer.position > position + 1:
                missing = f"positions {position + 1} to {one.transfer.position - 1} are missing"
                self._say("log", f"{missing}, behind w{write}")
            if position is None or one.transfer.position > position:
                position = one.transfer.position
            write = max(write, _last_write(one))
        if (position or 0) < durable:
            self._say("log", f"breaks off after position {position or 0}; position {durable} was durable")


def _position_of(point: int, log: list[Found], state: State | None) -> int | None:
    """Where the log was cut for this point. None: its record is not there."""
    if state is not None and state.horizon.point == point:
        return state.horizon.position
    for one in log:
        part = unpack_part(one.transfer.body) if one.transfer.kind == Kind.POINT else None
        if part is not None and part.number == point:
            return part.position
    return None if point else 0


def _last_write(found: Found) -> int:
    """The last write in it; of what has none, the newest before it."""
    entries = len(found.transfer.offsets) if found.transfer.kind == Kind.WRITES else 1
    return found.transfer.write + max(0, entries - 1)


def _columns(log: list[Found]) -> list[Columns]:
    """Segment by segment."""
    builders: dict[int, ColumnsBuilder] = {}
    for one in log:
        builder = builders.setdefault(one.segment.use, ColumnsBuilder(one.segment.base))
        builder.add_transfer(one.transfer, one.block)
    return [builder.freeze() for builder in builders.values()]
