"""The offline verifier: every structure and every digest that a retained moment can reach.

Not a second implementation of the store but a second *reader*: it follows the chain header by header, reads
every payload, and builds each point's delta map from the references in its record, the way a mirror does;
interval digests and volume roots must come out as stated. Image, sums, base map and footers are compared with
what follows from that. Bytes that no retained moment can reach (free segments, what lies behind the log's
end, blocks of the image that a fold in progress was about to replace) are not looked at.

Of a mirror whose base is under way, the image is what has durably come of it: these blocks are held against their
digests, and the sum over all of them against the point's root only once all are there. The report says what is
lacking; such a copy is not good, though nothing is wrong with it.

Nothing is written and nothing is repaired.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from revolume.blocks import root as roots
from revolume.blocks.digest import LOST_DIGEST, block_digests
from revolume.blocks.extents import contiguous
from revolume.blocks.overlay import Overlay
from revolume.blocks.ranges import Ranges
from revolume.blocks.word import ADDRESS_MASK
from revolume.chain.mapfile import MapFile
from revolume.chain.point import Part, unpack_part
from revolume.chain.received import received
from revolume.chain.versions import Newest, newest, under_ranges
from revolume.errors import Damaged, NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File
from revolume.log.columns import Columns, ColumnsBuilder, only, ramp
from revolume.log.scan import Found, SegmentReader, chain_behind, complete_prefix, payload_holds
from revolume.log.segment import Segment, read_footer, segment_name
from revolume.log.table import TableView
from revolume.log.tail import stated_durable, stated_edit
from revolume.log.transfer import BLOCK, Flag, Kind
from revolume.volume import layout
from revolume.volume.compose import delta_digest
from revolume.volume.manifest import NAMES, Role, State, judge_end, load, parse, read_file
from revolume.volume.replay import addresses
from revolume.volume.reports import CheckReport, Problem, Progress, lacking
from revolume.volume.sums import Sums

U64 = npt.NDArray[np.uint64]
MASK = np.uint64(ADDRESS_MASK)
DIGESTS_BYTES = 512 << 20
NOTHING = np.zeros(0, np.uint64)
Fact = tuple[Part, Columns, bool]
"""A part of a point's record, where it lies, and whether it is the last."""


def check(host: Host, path: str, progress: Progress = lambda stage, done, total: None) -> CheckReport:
    """Verify the stopped volume in ``path``. Refused while it is open; NotFound where there is none."""
    try:
        directory = host.disk.open(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no-directory", f"{path} is not a directory.", "Name a volume's directory.") from None
    try:
        directory.lock()
    except BlockingIOError:
        directory.close()
        raise Refused(
            "dir-in-use", f"{path} is in use by another process.", "Stop the volume, then check it."
        ) from None
    try:
        return _Check(directory, progress).run()
    finally:
        directory.close()


@dataclass(slots=True)
class _Counts:
    segments: int = 0
    transfers: int = 0
    blocks: int = 0
    points: int = 0
    moments: int = 0
    bytes_read: int = 0


class _Check:
    def __init__(self, directory: Directory, progress: Progress) -> None:
        self._directory = directory
        self._progress = progress
        self._problems: list[Problem] = []
        self._counts = _Counts()
        self._pieces: list[Columns] = []
        self._facts: list[Fact] = []
        self._fixed: dict[int, list[Columns]] = {}
        self._held = ExitStack()
        self._incomplete = ""

    def _say(self, where: str, what: str) -> None:
        self._problems.append(Problem(where, what))

    def run(self) -> CheckReport:
        try:
            with self._held:
                self._all()
        except (RevolumeError, OSError, ValueError, KeyError, IndexError) as error:
            cause = error.cause if isinstance(error, RevolumeError) else str(error)
            if isinstance(error, NotFound):
                raise
            self._say(self._directory.path, cause)
        c = self._counts
        return CheckReport(
            tuple(self._problems), c.segments, c.transfers, c.blocks, c.points, c.moments, c.bytes_read,
            self._incomplete,
        )  # fmt: skip

    def _all(self) -> None:
        loaded = load(self._directory)
        state = loaded.state
        self._incomplete = lacking(state)
        self._manifests(state, loaded.first)
        log = self._held.enter_context(closing(self._directory.child(layout.LOG)))
        judge_end(loaded.number, stated_edit(log, state.segment_blocks, state.volume))
        segments = self._segments(log, state)
        judge_end(loaded.number, stated_durable(segments, state.volume)[1])
        self._log(segments, state)
        self._image(state)
        self._points(state)
        self._base_map(state)
        self._snapshots(state)

    def _manifests(self, state: State, first: int) -> None:
        """``first``: the newest's first edit. If it goes on from the older's last, what that has behind was torn
        by a crash, before the newest was begun."""
        for name in NAMES:
            if not self._directory.exists(name):
                if state.clean is not None:
                    self._say(name, "is missing although the volume was stopped cleanly")
                continue
            loaded = parse(name, read_file(self._directory, name))
            if loaded is None and state.clean is not None:
                self._say(name, "is not whole")
            elif loaded is not None and loaded.torn and state.clean is not None and loaded.number + 1 != first:
                self._say(name, "has something behind its last edit")

    # The log

    def _segments(self, log: Directory, state: State) -> list[Segment]:
        first = state.horizon.address // state.segment_blocks
        found = []
        for index, use in sorted(state.uses.items(), key=lambda pair: pair[1]):
            if use == 0 or use < first:
                continue
            name = segment_name(index)
            if not log.exists(name):
                self._say(f"log/{name}", "is missing")
                continue
            file = self._held.enter_context(closing(log.open(name, write=False)))
            if file.size() != state.segment_blocks * BLOCK:
                self._say(f"log/{name}", f"has {file.size()} bytes, not {state.segment_blocks * BLOCK}")
            found.append(Segment(index, use, state.segment_blocks, file))
        return found

    def _log(self, segments: list[Segment], state: State) -> None:
        durable, _ = stated_durable(segments, state.volume)
        durable = max(durable, state.durable.position)
        chain, position = state.horizon.chain, state.horizon.position
        walked: list[Found] = []
        for number, segment in enumerate(segments):
            self._progress("log", number, len(segments))
            taken = list(self._follow(segment, state, chain, durable))
            if taken:
                chain, position = chain_behind(taken[-1].transfer), taken[-1].transfer.position
                walked = taken
                self._segment_read(segment, taken, state, durable)
        self._end(state, walked, position, durable)

    @staticmethod
    def _end_of(segment: Segment, state: State, durable: int) -> int | None:
        """Where the log leaves a segment early. A recovery that was cut short has sealed it there, and has not yet
        told the manifest."""
        footer = read_footer(segment, state.volume) if state.clean is None else None
        if footer is None or not len(footer.columns.rows) or int(footer.columns.rows["position"][-1]) > durable:
            return state.ends.get(segment.use)
        return footer.end_block

    def _follow(self, segment: Segment, state: State, chain: bytes, durable: int) -> Iterator[Found]:
        block = max(0, state.horizon.address - segment.base)
        reader = SegmentReader(segment, state.volume)
        for found in reader.chain_from(block, chain, self._end_of(segment, state, durable)):
            if not payload_holds(found):
                if found.transfer.position <= state.durable.position or state.clean is not None:
                    where = f"log/{segment_name(segment.index)} at {found.block * BLOCK}"
                    self._say(where, f"the payload of position {found.transfer.position} is not what was written")
                else:
                    return
            self._counts.transfers += 1
            self._counts.blocks += found.transfer.blocks
            self._counts.bytes_read += found.transfer.total_blocks * BLOCK
            yield found

    def _segment_read(self, segment: Segment, taken: list[Found], state: State, durable: int) -> None:
        self._counts.segments += 1
        builder = ColumnsBuilder(segment.base)
        for found in taken:
            builder.add_transfer(found.transfer, found.block)
        columns = builder.freeze()
        self._pieces.append(columns)
        self._footer(segment, columns, state, durable)
        self._collect_points(segment, taken)

    def _footer(self, segment: Segment, columns: Columns, state: State, durable: int) -> None:
        """After a crash a footer may speak of transfers that the disk never got: nobody goes by it then."""
        footer = read_footer(segment, state.volume)
        clean, where = state.clean, f"log/{segment_name(segment.index)}"
        if footer is None:
            sealed = clean is not None and segment.use < clean.address // segment.blocks
            if sealed and segment.use not in state.ends:
                self._say(where, "the footer is missing or damaged (it can be rebuilt from the headers)")
            return
        if clean is None and len(footer.columns.rows) and int(footer.columns.rows["position"][-1]) > durable:
            return
        rows = footer.columns.rows[-len(columns.rows) :]
        if rows.tobytes() != columns.rows.tobytes():
            self._say(where, "the footer disagrees with the headers")

    def _collect_points(self, segment: Segment, taken: list[Found]) -> None:
        for found in taken:
            builder = ColumnsBuilder(segment.base)
            builder.add_transfer(found.transfer, found.block)
            if found.transfer.kind == Kind.FIXUP:
                number = int.from_bytes(found.transfer.body, "little")
                self._fixed.setdefault(number, []).append(builder.freeze())
            if found.transfer.kind == Kind.POINT:
                self._collect_part(found, builder.freeze())

    def _collect_part(self, found: Found, columns: Columns) -> None:
        part = unpack_part(found.transfer.body)
        if part is None:
            self._say(f"position {found.transfer.position}", "a consistency point's record makes no sense")
            return
        self._lost(part, found)
        self._facts.append((part, columns, bool(found.transfer.flags & Flag.SEALS)))

    def _lost(self, part: Part, found: Found) -> None:
        digests = found.transfer.digests
        for offset in found.transfer.offsets[digests == np.uint64(LOST_DIGEST)].tolist():
            self._say(f"cp{part.number}", f"block {offset // BLOCK} could not be read any more when it was made")

    def _end(self, state: State, walked: list[Found], position: int, durable: int) -> None:
        clean = state.clean
        if clean is not None and position != clean.position:
            self._say("log", f"ends at position {position}; the clean stop was at {clean.position}")
        elif position < durable:
            self._say("log", f"breaks off after position {position}; position {durable} was durable")
        if clean is not None and len(complete_prefix(walked)) != len(walked):
            self._say("log", "ends within a write")

    # Image

    def _image(self, state: State) -> None:
        image = self._directory.open(layout.IMAGE, write=False)
        sums = Sums.open(self._directory, state.volume, state.horizon.pages_generation)
        try:
            sums.verify()
            self._image_blocks(image, sums, state)
        finally:
            sums.close()
            image.close()

    def _image_blocks(self, image: File, sums: Sums, state: State) -> None:
        replaced = self._being_folded(state)
        total = -(-state.horizon.size // BLOCK)
        root = roots.EMPTY
        for blocks, digests in sums.within(0, max(total, sums.blocks)):
            if len(blocks):
                self._progress("image", int(blocks[-1]), total)
            kept = ~np.isin(blocks, replaced)
            if state.base is not None:  # of what is behind it digests may be on the disk, and blocks not yet
                kept &= blocks < np.uint64(state.base)
            self._blocks_hold(image, blocks[kept], digests[kept])
            root = roots.add(root, blocks, digests)
        whole = state.base is None or state.base >= total
        if whole and not len(replaced) and root != (state.horizon.root_low, state.horizon.root_high):
            self._say("image", "the sum over all blocks is not the volume root of its point")

    def _being_folded(self, state: State) -> U64:
        """Blocks that a fold which was under way may have replaced already: all reads of them go to the
        log."""
        if state.folding <= state.horizon.write:
            return np.zeros(0, np.uint64)
        changed = self._newest(state, state.folding)
        ranges = [np.arange(start, end, dtype=np.uint64) for start, end, _ in changed.zero_ranges()]
        return np.unique(np.concatenate([changed.blocks, *ranges]))

    def _newest(self, state: State, upto: int) -> Newest:
        return under_ranges(newest((c.versions() for c in self._pieces), state.horizon.write, upto))

    def _blocks_hold(self, image: File, blocks: U64, digests: U64) -> None:
        starts, counts, firsts = contiguous(blocks)
        for start, count, first in zip(starts.tolist(), counts.tolist(), firsts.tolist(), strict=True):
            for at in range(0, count, 256):
                size = min(256, count - at)
                buffer = bytearray(size * BLOCK)
                image.preadv([buffer], (first + at) * BLOCK)
                found = block_digests(memoryview(buffer), size)
                stated = digests[start + at : start + at + size].tolist()
                self._counts.blocks += size
                self._counts.bytes_read += size * BLOCK
                for index in range(size) if found != stated else ():
                    if found[index] != stated[index]:
                        self._say(f"image block {first + at + index}", "is not what was written")

    # Points, the way a mirror builds them

    def _points(self, state: State) -> None:
        sums = Sums.open(self._directory, state.volume, state.horizon.pages_generation)
        try:
            _Points(self, state, sums, self._fixed).run(self._pieces, self._facts)
        finally:
            sums.close()

    def point_checked(self, number: int, problem: str | None) -> None:
        """One point has been rebuilt."""
        self._counts.points += 1
        if problem:
            self._say(f"cp{number}", problem)

    # What is derived

    def _base_map(self, state: State) -> None:
        maps = self._held.enter_context(closing(self._directory.child(layout.MAPS)))
        if not state.base_map:
            return
        if not maps.exists(state.base_map):
            self._say(f"maps/{state.base_map}", "is missing (it will be made anew)")
            return
        base = MapFile.open(maps.open(state.base_map, write=False), state.volume)
        try:
            base.verify()
            self._compare_base(base, state)
        except Damaged as error:
            self._say(f"maps/{state.base_map}", error.cause)
        finally:
            base.close()

    def _compare_base(self, base: MapFile, state: State) -> None:
        if base.meta.address <= state.horizon.address:
            return
        expected = self._newest(state, base.meta.write)
        have = [chunk for chunk in base.chunks() if len(chunk[0])]
        blocks = np.concatenate([c[0] for c in have]) if have else np.zeros(0, np.uint64)
        words = np.concatenate([c[1] for c in have]) if have else np.zeros(0, np.uint64)
        kept = ((words & MASK) >= np.uint64(state.horizon.address)) & ~np.isin(words, self._older(state))
        if not np.array_equal(blocks[kept], expected.blocks) or not np.array_equal(words[kept], expected.words):
            self._say(f"maps/{state.base_map}", "disagrees with the log")

    def _older(self, state: State) -> U64:
        """Words of versions that lie behind the horizon's cut although they are not newer than it: its point's
        record. A map may still name them; the image holds the same."""
        found = [np.zeros(0, np.uint64)]
        for columns in self._pieces:
            versions = columns.versions()
            found.append(versions.words[versions.asof <= np.uint64(state.horizon.write)])
        return np.concatenate(found)

    def _snapshots(self, state: State) -> None:
        for snapshot in state.snapshots:
            self._counts.moments += 1
            if snapshot.write < state.horizon.write:
                self._say(f"snapshot {snapshot.name}", "lies before the horizon")


class _Points:
    """Rebuilds every point's delta map from its references and follows the volume root. A volume that is or was
    a mirror has its log from elsewhere: references that don't hold are dropped, as they were when it agreed to the
    point, and blocks that it was sent whole (``fixed``, by point) take their place.

    A fold that committed its digests and did not come to its flip leaves the image's sums at its own point,
    ahead of the horizon. Before that point no root can be followed, since nothing says any more what was there; at
    it the sums must add up to the root stated, and from there on all is as ever."""

    def __init__(self, owner: _Check, state: State, sums: Sums, fixed: dict[int, list[Columns]]) -> None:
        self._owner = owner
        self._fixed = fixed
        self._state = state
        self._sums = sums
        self._now = Overlay(DIGESTS_BYTES)
        self._zeroed = Ranges()
        self._step = 1
        self._root = (state.horizon.root_low, state.horizon.root_high)
        self._ahead = sums.facts.point if sums.facts.write > state.horizon.write else 0

    def run(self, pieces: list[Columns], facts: list[Fact]) -> None:
        table = _Transfers(pieces)
        h = self._state.horizon
        self._pieces, self._before = pieces, (h.position, h.write)
        parts: list[tuple[Part, Columns]] = []
        for part, columns, seals in facts:
            parts = [*parts, (part, columns)] if part.part else [(part, columns)]
            if seals and len(parts) == part.parts and self._claimed(part.number):
                rebuild = self._rebuild_received if self._state.agreed.point else self._rebuild
                self._owner.point_checked(part.number, rebuild(parts, table))
                self._before = part.position, part.write

    def _claimed(self, number: int) -> bool:
        """A mirror does not answer for points that it has not agreed to."""
        state = self._state
        return state.horizon.point < number and (state.role == Role.PRIMARY or number <= state.agreed.point)

    def _rebuild_received(self, parts: list[tuple[Part, Columns]], table: _Transfers) -> str | None:
        positions = [int(columns.rows["position"][0]) for _, columns in parts]
        pieces = [c for c in self._pieces if _overlaps(c, self._before[0], positions[-1])]
        got = received([part for part, _ in parts], pieces, table.view(), self._before, positions)
        if got.wrong:
            return got.wrong
        fixed = [columns.versions() for columns in self._fixed.get(parts[0][0].number, [])]
        blocks = np.concatenate([NOTHING, *(v.blocks for v in fixed)])
        last = np.unique(blocks[::-1], return_index=True)  # asked twice: what came last holds
        digests = np.concatenate([NOTHING, *(v.digests for v in fixed)])[::-1][last[1]]
        if len(np.setdiff1d(got.refused, last[0])):
            return "blocks have no reference that holds, and did not come whole either"
        needed = np.isin(last[0], got.refused)
        return self._follow(
            parts[-1][0],
            np.concatenate([got.blocks, got.partial_blocks, last[0][needed]]),
            np.concatenate([got.digests, got.partial_digests, digests[needed]]),
            got.zeroes,
        )

    def _rebuild(self, parts: list[tuple[Part, Columns]], table: _Transfers) -> str | None:
        last = parts[-1][0]
        blocks: list[U64] = []
        digests: list[U64] = []
        for part, columns in parts:
            found = table.resolve(part)
            if found is None:
                return "a reference names a transfer or a block that is not in the log"
            partial = columns.versions()
            blocks += [found[0], partial.blocks]
            digests += [found[1], partial.digests]
        zeroes = tuple(np.concatenate([p.zeroes[i] for p, _ in parts]) for i in (0, 1))
        return self._follow(last, np.concatenate(blocks), np.concatenate(digests), (zeroes[0], zeroes[1]))

    def _follow(self, last: Part, blocks: U64, digests: U64, zeroes: tuple[U64, U64]) -> str | None:
        order = np.argsort(blocks)
        blocks, digests = blocks[order], digests[order]
        if delta_digest(blocks, digests, zeroes) != last.digest:
            return "the interval digest of its references is not the one stated"
        if last.number < self._ahead:
            return None
        if last.number == self._ahead:
            self._root = roots.EMPTY
            for found in self._sums.chunks():
                self._root = roots.add(self._root, *found)
        else:
            self._apply(blocks, digests, zeroes)
        return None if self._root == last.root else "the volume root is not the one stated"

    def _apply(self, blocks: U64, digests: U64, zeroes: tuple[U64, U64]) -> None:
        self._step += 1
        for first, count in zip(zeroes[0].tolist(), zeroes[1].tolist(), strict=True):
            self._zero(first, first + count)
        self._root = roots.subtract(self._root, blocks, self._digests(blocks))
        self._root = roots.add(self._root, blocks, digests)
        self._now.put(blocks, np.full(len(blocks), self._step, np.uint64), digests)

    def _digests(self, blocks: U64) -> U64:
        """What these blocks are now."""
        words, digests = self._now.get(blocks)
        covered = self._zeroed.get(blocks)
        digests[covered > words] = 0
        missing = np.flatnonzero((words == 0) & (covered == 0))
        if len(missing):
            sums = self._sums.get(blocks[missing], False)
            assert sums is not None
            digests[missing] = sums
        return digests

    def _zero(self, start: int, end: int) -> None:
        seen = [blocks for blocks, _, _ in self._now.within(start, end)]
        seen += [blocks for blocks, _ in self._sums.within(start, end)]
        if seen:
            blocks = np.unique(np.concatenate(seen))
            self._root = roots.subtract(self._root, blocks, self._digests(blocks))
        self._zeroed = self._zeroed.with_range(start, end, self._step)


def _overlaps(columns: Columns, first: int, last: int) -> bool:
    positions = columns.rows["position"]
    return bool(len(positions)) and int(positions[0]) <= last and first <= int(positions[-1])


class _Transfers:
    """All transfers of the log by (epoch, position): their blocks and digests, for references."""

    def __init__(self, pieces: list[Columns]) -> None:
        empty = np.zeros(0, np.uint64)
        rows = [c.rows for c in pieces]
        self._positions = np.concatenate([r["position"] for r in rows] or [empty])
        self._epochs = np.concatenate([r["epoch"] for r in rows] or [empty])
        self._payloads = np.concatenate([addresses(c) + c.rows["header_blocks"] for c in pieces] or [empty])
        self._sizes = np.concatenate([r["blocks"] for r in rows] or [empty]).astype(np.uint64)
        versions = [only(c, c.rows["kind"] == Kind.WRITES).versions() for c in pieces]
        words = np.concatenate([v.words for v in versions] or [empty])
        data = (words >> np.uint64(62)) == 1
        place = words[data] & MASK
        order = np.argsort(place)
        self._places = place[order]
        self._blocks = np.concatenate([v.blocks for v in versions] or [empty])[data][order]
        self._digests = np.concatenate([v.digests for v in versions] or [empty])[data][order]

    def view(self) -> TableView:
        """The same as a mirror's own table."""
        return TableView(self._payloads, self._positions, self._epochs)

    def resolve(self, part: Part) -> tuple[U64, U64] | None:
        """(blocks, digests) that the references mean; None if one resolves to nothing."""
        refs = part.references
        if not len(refs.runs):
            return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        row = np.searchsorted(self._positions, refs.positions)
        if (row >= len(self._positions)).any():
            return None
        if (self._positions[row] != refs.positions).any() or (self._epochs[row] != refs.epochs).any():
            return None
        if (refs.blocks + refs.runs > self._sizes[row]).any():
            return None
        wanted = np.repeat(self._payloads[row] + refs.blocks, refs.runs.astype(np.int64)) + ramp(refs.runs)
        at = np.searchsorted(self._places, wanted)
        if (at >= len(self._places)).any() or (self._places[at] != wanted).any():
            return None
        return self._blocks[at], self._digests[at]
