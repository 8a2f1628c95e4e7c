"""Salvage: the volume's content rebuilt from self-describing records when manifest, maps or blocks are lost.

Trusts nothing but checksums. The image's digests, where they can be read, say which of its blocks are whole and
which write they stand for; every segment file is searched for valid transfers, and of those the chain says which
led to the newest state. What they changed behind the image is resolved as a fold does it, by write number. Where
a jump has been flipped and is not part of the image yet, what arrived takes the log's place. A block that is not
where it should be is looked for by its digest wherever one may still lie. What is missing is counted and said;
the result is the newest state that the records can prove, not more.

The source is opened read-only and locked; the target is a new file. A disk that refuses to be read in places
costs these places.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np

from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.blocks.numbers import Position, WriteNumber
from revolume.blocks.root import Root
from revolume.chain.point import unpack_part
from revolume.chain.versions import NewestVersions, newest_in
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File
from revolume.log.format.columns import Columns, ColumnsBuilder, resizes, select
from revolume.log.format.log_cut import NO_CUT
from revolume.log.format.transfer import LENGTH_MASK, Flag, Kind
from revolume.log.read.scan import FoundTransfer
from revolume.offline.salvage.digest_index import DigestIndex
from revolume.offline.salvage.jumped import take_jump
from revolume.offline.salvage.output_image import OutputImage
from revolume.offline.salvage.transfer_search import FoundTransfers, search
from revolume.offline.walk.lineage import lineage
from revolume.offline.walk.report import Problem, Progress, SalvageReport
from revolume.volume.image.block_digests import BlockDigests, stated_volume
from revolume.volume.image.digest_pages import sums_damaged
from revolume.volume.members.base_progress import lacking
from revolume.volume.metadata import layout
from revolume.volume.metadata.directory_lock import locked
from revolume.volume.metadata.manifest import NAMES, Loaded, load
from revolume.volume.metadata.manifest_state import Jump, State


def salvage(
    host: Host, path: str, target: str, progress: Progress = lambda stage, done, total: None
) -> SalvageReport:
    """Write the volume in ``path``, as far as its records prove it, to the new file ``target``. The volume's
    directory is only read. NotFound: there is neither log nor image. Refused: the volume is running, or ``target``
    exists."""
    with ExitStack() as held:
        directory = held.enter_context(closing(_source(host, path)))
        parent, name = _target(host, target)
        held.enter_context(closing(parent))
        try:
            out = held.enter_context(closing(parent.open(name, create=True, exclusive=True)))
        except FileExistsError:
            raise Refused("file-exists", f"{target} exists.", "Name a new file.") from None
        report = _Salvage(directory, out, progress, held).run()
        parent.sync()
        return report


def _source(host: Host, path: str) -> Directory:
    directory = locked(host, path, "Stop the volume first.")
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
        loaded = self._loaded()
        state = loaded.state if loaded is not None else None
        records = self._records(state)
        if loaded is not None and records.edit > loaded.number:
            self._say("manifest", f"ends with edit {loaded.number}; edit {records.edit} was made after it")
        if state is not None and state.jumped is not None:
            return self._jumped(state, state.jumped, records)
        log = lineage(records.found, _durable(state, records), _begins(state))
        pieces = _columns(log)
        size = self._size(state, pieces)
        self._out.truncate(size)
        output = OutputImage(
            self._out, ceil_div(size, BLOCK), self._image(), DigestIndex(records.found), self._progress
        )
        base = self._base(output, state, records, log)
        self._gaps(log, base, _durable(state, records))
        last = max([base.write, *(_last_write(one) for one in log)])
        segments = {one.segment.use: one.segment for one in log}
        output.take_log(_resolved(_writes(pieces), base.write, last), segments)
        if output.lost:  # what points carry whole is needed only there
            output.take_lost(_resolved(pieces, base.write, last), segments)
        return self._report(output, size, last, len(records.found))

    def _jumped(self, state: State, jump: Jump, records: FoundTransfers) -> SalvageReport:
        """The copy is what arrived, over its image; of its log nothing is needed any more."""
        point = jump.target.point
        self._out.truncate(point.size)
        index = DigestIndex(records.found)
        output = OutputImage(self._out, ceil_div(point.size, BLOCK), self._image(), index, self._progress)
        try:
            output.take_image(self._sums(state, state.volume, state.horizon.write))
        except (RevolumeError, OSError) as error:
            self._say(layout.SUMS, f"{_cause(error)} The image is copied as it is, unverified.")
            output.take_unproved(0, ceil_div(point.size, BLOCK))
        take_jump(output, self._directory, state.volume, jump, self._say, self._held)
        return self._report(output, point.size, point.write, len(records.found))

    def _report(self, output: OutputImage, size: int, write: WriteNumber, transfers: int) -> SalvageReport:
        self._out.truncate(size)
        self._out.datasync()
        return SalvageReport(
            problems=tuple(self._problems),
            size=size,
            write=write,
            transfers=transfers,
            blocks=output.written,
            lost=output.lost,
            unproved=output.unproved,
        )

    def _say(self, where: str, what: str) -> None:
        self._problems.append(Problem(where, what))

    # What is known

    def _loaded(self) -> Loaded | None:
        if not any(self._directory.exists(name) for name in NAMES):
            self._say("manifest", "is missing")
            return None
        try:
            loaded = load(self._directory)
        except (RevolumeError, OSError) as error:
            self._say("manifest", _cause(error))
            return None
        if sentence := lacking(loaded.state):
            self._say(layout.IMAGE, sentence)
        if (origin := loaded.state.clones.origin) is not None:
            where = f"{origin.parent} in {origin.directory}"
            self._say(layout.IMAGE, f"is a clone's: what was not written to the clone lies in {where}, not here")
        return loaded

    def _records(self, state: State | None) -> FoundTransfers:
        known = stated_volume(self._directory) if state is None else state.volume
        if not self._directory.exists(layout.LOG):
            self._say(layout.LOG, "is missing")
            return FoundTransfers(known, [])
        log = self._held.enter_context(closing(self._directory.child(layout.LOG)))
        cut = state.cut if state is not None else NO_CUT
        return search(log, known, state.segment_blocks if state else 0, self._held, self._progress, cut)

    def _size(self, state: State | None, pieces: list[Columns]) -> int:
        """An image is padded to whole blocks, so its length is asked only where nothing else tells."""
        stated = [0 if state is None else state.horizon.size, *(s for one in pieces for _, s in resizes(one))]
        size = max([*stated, *map(_reach, _writes(pieces))])
        if state is None and self._directory.exists(layout.IMAGE):
            with closing(self._directory.open(layout.IMAGE, write=False)) as image:
                if ceil_div(max(stated), BLOCK) * BLOCK < image.size():
                    return max(size, image.size())
        return size

    # What is there

    def _image(self) -> File | None:
        if not self._directory.exists(layout.IMAGE):
            self._say(layout.IMAGE, "is missing")
            return None
        return self._held.enter_context(closing(self._directory.open(layout.IMAGE, write=False)))

    def _base(
        self, output: OutputImage, state: State | None, records: FoundTransfers, log: list[FoundTransfer]
    ) -> Base:
        """Copy the image to the output; what it stands for."""
        stated = max([state.horizon.write if state else WriteNumber(0), *(one.node_header.horizon for one in log)])
        try:
            sums = self._sums(state, records.volume, stated)
        except (RevolumeError, OSError) as error:
            self._say(layout.SUMS, f"{_cause(error)} The image is copied as it is, unverified.")
            if not self._directory.exists(layout.IMAGE):
                return Base(WriteNumber(0), Position(0))
            output.take_unproved(0, ceil_div(self._out.size(), BLOCK))
            known = state is not None and state.horizon.write == stated
            return Base(stated, state.horizon.position if state and known else None)
        root = output.take_image(sums)
        base = _base_of(sums, state, log)
        if base.position is None:
            what = (
                f"the record of cp{sums.facts.point}, which the image stands for, is missing; so may be what was"
            )
            self._say("log", f"{what} written after w{base.write}")
        elif None not in (root, base.root) and root != base.root and not (state and lacking(state)):
            self._say(layout.SUMS, f"the digests do not add up to the volume root of cp{sums.facts.point}")
        return base

    def _sums(self, state: State | None, volume: bytes, stated: int) -> BlockDigests:
        generation = state.horizon.pages_generation if state else 0
        sums = BlockDigests.open(self._directory, volume, generation, write=False)
        self._held.enter_context(closing(sums))
        if sums.facts.write < stated:
            raise sums_damaged(
                f"image.sums stand for w{sums.facts.write}, and the image was folded up to w{stated}"
            )
        return sums

    def _gaps(self, log: list[FoundTransfer], base: Base, durable: Position) -> None:
        """Report the positions that are missing in the log after the image. Where it is not known where that
        stands, what the image contains says nothing: between the rest of an older log and the one that began
        anew behind a jump there is no position missing."""
        position, write = base.position, base.write
        reached = max([base.position or Position(0), *(one.transfer.position for one in log)])
        for one in log:
            if position is None and _last_write(one) <= base.write:
                continue
            if position is not None and one.transfer.position > position + 1:
                missing = f"positions {position + 1} to {one.transfer.position - 1} are missing"
                self._say("log", f"{missing}, behind w{write}")
            if position is None or one.transfer.position > position:
                position, write = one.transfer.position, max(write, _last_write(one))
        if reached < durable:
            self._say("log", f"breaks off after position {reached}; position {durable} was durable")


class Base(NamedTuple):
    """What the image stands for: a write, the log's position there (None: it can't be known), and the volume
    root."""

    write: WriteNumber
    position: Position | None
    root: Root | None = None


def _base_of(sums: BlockDigests, state: State | None, log: list[FoundTransfer]) -> Base:
    facts = sums.facts
    if state is not None and state.horizon.point == facts.point:
        return Base(facts.write, state.horizon.position, (state.horizon.root_low, state.horizon.root_high))
    for one in reversed(log):  # a crash may have left half a record, and its number was given out again
        part = unpack_part(one.transfer.body) if one.transfer.flags & Flag.SEALS else None
        if part is not None and part.number == facts.point:
            return Base(facts.write, part.position, part.root)
    return Base(facts.write, None if facts.point else Position(0))


def _durable(state: State | None, records: FoundTransfers) -> Position:
    """The position up to which the log was durable at least."""
    if state is None:
        return records.durable
    clean = Position(0) if state.clean is None else state.clean.position
    return max(records.durable, state.durable.position, clean)


def _begins(state: State | None) -> dict[int, Position]:
    return {epoch.number: epoch.position for epoch in state.epochs} if state else {}


def _cause(error: RevolumeError | OSError) -> str:
    return error.cause if isinstance(error, RevolumeError) else f"{error}."


def _last_write(found: FoundTransfer) -> WriteNumber:
    """The last write in the transfer; of one without writes, the newest before it."""
    entries = len(found.transfer.offsets) if found.transfer.kind == Kind.WRITES else 1
    return WriteNumber(found.transfer.write + max(0, entries - 1))


def _columns(log: list[FoundTransfer]) -> list[Columns]:
    """The transfers' columns, one for each use of a segment."""
    builders: dict[int, ColumnsBuilder] = {}
    for one in log:
        builder = builders.setdefault(one.segment.use, ColumnsBuilder(one.segment.base))
        builder.add_transfer(one.transfer, one.block, one.node_header.lived_ns)
    return [builder.freeze() for builder in builders.values()]


def _reach(columns: Columns) -> int:
    """The greatest byte offset at which one of these writes ends."""
    ends = columns.offsets + (columns.lengths & np.uint64(LENGTH_MASK))
    return int(ends.max()) if len(ends) else 0


def _writes(pieces: list[Columns]) -> list[Columns]:
    return [select(columns, columns.rows["kind"] == Kind.WRITES) for columns in pieces]


def _resolved(pieces: list[Columns], after: WriteNumber, upto: WriteNumber) -> NewestVersions:
    return newest_in(pieces, after, upto)
