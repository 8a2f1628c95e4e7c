"""The manifest: the few facts about a volume that its log can't tell, as checksummed edits.

Two files, ``manifest.a`` and ``manifest.b``. Each is a header and then edits; the one with the higher
generation that holds is the manifest. Edits are appended and synced. When the file has grown, or on a
clean stop, the whole state is written anew as edits into the other one (a temporary file, synced, renamed,
directory synced), so at every instant one whole manifest exists. A clean stop renews both, so that
a flipped bit in either is survived.

Every transfer names the last edit that was durable when it was written. A log that names a later edit than
the manifest holds has lost its manifest's end: that is damage, not an older state.

File header (64 bytes, little endian)
     0  8s  magic "RVMANIF1"     8 I format 1     12 I zero     16 16s volume id     32 Q generation
    40  16x zero     56 Q XXH3-64 of bytes 0..56
Edit
     0  I   bytes of the body     4 H kind     6 H zero     8 Q number     16 body
     …  Q   XXH3-64 of everything before, seeded by the volume
Bodies: see ``_BODIES``; lists are a count (Q) and rows.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum

import xxhash

from revolume.errors import Damaged, NotFound
from revolume.host.disk import Directory, File
from revolume.log.transfer import volume_seed
from revolume.volume.clock_mark import NEVER, ClockMark, pack_clock, unpack_clock

HEADER = struct.Struct("<8sII16sQ16xQ")
MAGIC = b"RVMANIF1"
FORMAT = 1
EDIT = struct.Struct("<IHHQ")
NAMES = ("manifest.a", "manifest.b")
RENEW_BYTES = 1 << 20
BODY_MAX = 64 << 20


class EditKind(IntEnum):
    """The facts."""

    IDENTITY = 1  # name, segment size, size at creation
    EPOCH = 2  # an opening as primary: number, reign id, where it begins
    RESERVE = 3  # write numbers below this may have been given out
    USES = 4  # segment files and their use numbers
    ENDS = 5  # segments closed early: use number, end block
    HORIZON = 6  # the image's moment
    FOLDING = 7  # moments before this write number are retired: a fold to there has begun
    DURABLE = 8  # everything up to this position is on the disk
    CLEAN = 9  # the log ended here in a clean stop; 0 = in use
    SNAPSHOT = 10
    DROP_SNAPSHOT = 11
    BASE_MAP = 12  # the map file that the live map stands on
    STATE_END = 13  # the whole state has been written
    BUDGET = 14  # bytes of log on the disk, as decided at creation or since
    NEXT_USE = 15  # use numbers below this have been given out; every USES counts too
    NODE = 32  # 16 random bytes: this copy among all copies of the volume
    ROLE = 33  # primary or secondary
    AGREED = 34  # the last point that this copy has proved equal to its source's
    BASE = 35  # a mirror being brought up: the image holds the blocks below this; empty = all of it
    MIRROR = 36  # read, not written any more: a mirror whose copy's node is not known
    DROP_MIRROR = 37
    MEMBER = 38  # a mirror of this volume: mode, whether it has joined, what is kept for it, which copy it is
    SOURCE = 39  # a mirror's: the certificate name that its source must show
    OWES = 40  # a mirror's: it had acknowledged the log up to this position, and may hold less
    CLOCK = 48  # what this copy knew of time when it was opened or closed last
    LACKING = 49  # a snapshot of the source that lies before this copy's history began: it is not here
    NAMES = 50  # a mirror's: what the log up to this position says of names is in this state already


_KINDS = frozenset(EditKind)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One opening as primary; ``position`` and ``write`` are those of the end before it."""

    number: int
    reign: bytes
    position: int
    write: int


@dataclass(frozen=True, slots=True)
class Horizon:
    """The moment that the image holds: a point, and where its cut lies in the log."""

    point: int = 0
    write: int = 0
    position: int = 0
    address: int = 0
    time_ns: int = 0
    size: int = 0
    root_low: int = 0
    root_high: int = 0
    chain: bytes = bytes(16)
    pages_generation: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log: behind the transfer ``position``, at ``address``."""

    position: int = 0
    address: int = 0
    chain: bytes = bytes(16)
    write: int = 0
    time_ns: int = 0


@dataclass(frozen=True, slots=True)
class PinnedSnapshot:
    """A named, pinned point."""

    name: str
    write: int
    point: int
    time_ns: int


class Role(IntEnum):
    """Who changes this copy: clients, or its source alone."""

    PRIMARY = 0
    SECONDARY = 1


class MirrorMode(IntEnum):
    """SYNC: a write is answered once it is in the mirror's log file too. ASYNC: the mirror lags."""

    SYNC = 1
    ASYNC = 2


@dataclass(frozen=True, slots=True)
class Agreed:
    """A point of the source that this copy holds: built from the references received, digest and root equal.
    ``position``: records of the log up to here have been dealt with."""

    point: int = 0
    position: int = 0
    write: int = 0


@dataclass(frozen=True, slots=True)
class MirrorState:
    """What a primary durably knows of a mirror. ``joined``: base and log have met there. ``point`` and
    ``write``: the point from which the log is kept for it; 0 = nothing is kept. ``node``: the node id of the copy
    that the mirror is, zero until one has joined (or where a store of before MEMBER knew none). ``durable``: a
    position that it has acknowledged as durable; what it holds may be more. ``peer``: the name that its
    certificate must have, "" for any. ``since``: the write at which its history begins, None: not known (no base
    has begun, or it was made by an older release). ``from_creation``: the point from which the log is kept is
    number 0, the volume as it was made. ``based``: its base is complete, also if the log has not caught up yet."""

    name: str
    mode: MirrorMode
    joined: bool
    point: int
    write: int
    node: bytes = bytes(16)
    durable: int = 0
    peer: str = ""
    since: int | None = None
    from_creation: bool = False
    based: bool = False

    @property
    def kept(self) -> bool:
        """Something of the log is kept for it."""
        return self.point > 0 or self.from_creation

    @property
    def required(self) -> bool:
        """Answers wait for it."""
        return self.joined and self.mode == MirrorMode.SYNC

    @property
    def firm(self) -> bool:
        """What is kept for it does not give way: a sync mirror that is required, or will be once it has caught
        up."""
        return (self.joined or self.based) and self.mode == MirrorMode.SYNC


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the edits amount to."""

    volume: bytes = bytes(16)
    name: str = ""
    segment_blocks: int = 0
    created_ns: int = 0
    epochs: tuple[Epoch, ...] = ()
    reserved: int = 0
    uses: dict[int, int] = field(default_factory=dict)  # segment file -> use number; 0 = free
    ends: dict[int, int] = field(default_factory=dict)  # use number -> end block
    horizon: Horizon = Horizon()
    folding: int = 0
    durable: Mark = Mark()
    clean: Mark | None = None
    snapshots: tuple[PinnedSnapshot, ...] = ()
    base_map: str = ""
    budget: int = 0  # 0 = not decided yet
    next_use: int = 1
    node: bytes = bytes(16)
    role: Role = Role.PRIMARY
    agreed: Agreed = Agreed()
    base: int | None = None  # blocks of the image that have arrived, while a mirror is brought up
    mirrors: tuple[MirrorState, ...] = ()
    lacking: tuple[PinnedSnapshot, ...] = ()  # snapshots of the volume that this copy does not hold
    names_position: int = 0  # a mirror's: the log up to here says nothing new of names
    source_name: str = ""  # the certificate name that a mirror's source must show; "" = any
    owes: int = 0  # a mirror had acknowledged the log up to this position as durable, its source says
    clock: ClockMark = NEVER

    def epoch_at(self, position: int) -> tuple[int, bytes]:
        """Number and reign id of the epoch in which a position was made; zeroes before the first."""
        found = [(e.number, e.reign) for e in self.epochs if e.position < position]
        return found[-1] if found else (0, bytes(16))


_IDENTITY = struct.Struct("<QQ")
_EPOCH = struct.Struct("<Q16sQQ")
_PAIR = struct.Struct("<QQ")
_HORIZON = struct.Struct("<8Q16sQ")
_MARK = struct.Struct("<QQ16sQQ")
_SNAPSHOT = struct.Struct("<QQQ")
_NUMBER = struct.Struct("<Q")
_AGREED = struct.Struct("<QQQ")
_MIRROR = struct.Struct("<BB6xQQ")
_MEMBER = struct.Struct("<BBHIQQQ16sHHHHQ")
_FROM_CREATION, _SINCE, _BASED = 1, 2, 4
_SOURCE = struct.Struct("<HHI")


def pack_identity(state: State) -> bytes:
    """IDENTITY: blocks of a segment, time of creation, name in UTF-8."""
    return _IDENTITY.pack(state.segment_blocks, state.created_ns) + state.name.encode()


def pack_epoch(epoch: Epoch) -> bytes:
    """EPOCH: number, reign id, position and write number at its begin."""
    return _EPOCH.pack(epoch.number, epoch.reign, epoch.position, epoch.write)


def pack_pairs(pairs: dict[int, int]) -> bytes:
    """USES and ENDS: rows of two numbers."""
    return b"".join(_PAIR.pack(*pair) for pair in pairs.items())


def pack_number(number: int) -> bytes:
    """RESERVE, FOLDING, BUDGET, NEXT_USE, OWES, NAMES."""
    return _NUMBER.pack(number)


def pack_horizon(h: Horizon) -> bytes:
    """HORIZON."""
    return _HORIZON.pack(
        h.point, h.write, h.position, h.address, h.time_ns, h.size,
        h.root_low, h.root_high, h.chain, h.pages_generation,
    )  # fmt: skip


def pack_mark(mark: Mark | None) -> bytes:
    """DURABLE; CLEAN, where an empty body says that the volume is in use."""
    if mark is None:
        return b""
    return _MARK.pack(mark.position, mark.address, mark.chain, mark.write, mark.time_ns)


def pack_snapshot(snapshot: PinnedSnapshot) -> bytes:
    """SNAPSHOT, LACKING: write number, point, time, name in UTF-8."""
    return _SNAPSHOT.pack(snapshot.write, snapshot.point, snapshot.time_ns) + snapshot.name.encode()


def pack_agreed(agreed: Agreed) -> bytes:
    """AGREED: point, position, write number."""
    return _AGREED.pack(agreed.point, agreed.position, agreed.write)


def pack_base(blocks: int | None) -> bytes:
    """BASE: blocks that have arrived; empty: all of them."""
    return b"" if blocks is None else _NUMBER.pack(blocks)


def pack_member(mirror: MirrorState) -> bytes:
    """MEMBER, 64 bytes and three texts in UTF-8: B mode, B joined, H flags (1: the log is kept from point 0 on,
    2: the last number is known, 4: its base is complete), I zero, Q point, Q write number, Q durable position,
    16s node id, H bytes of the name, H bytes of the certificate name, H bytes of an address (none yet), H zero, Q
    write number at which its history begins; name, certificate name, address."""
    flags = _FROM_CREATION * mirror.from_creation | _SINCE * (mirror.since is not None) | _BASED * mirror.based
    name, peer = mirror.name.encode(), mirror.peer.encode()
    return (
        _MEMBER.pack(
            mirror.mode, mirror.joined, flags, 0, mirror.point, mirror.write, mirror.durable, mirror.node,
            len(name), len(peer), 0, 0, mirror.since or 0,
        )
        + name
        + peer
    )  # fmt: skip


def _unpack_member(body: bytes) -> MirrorState:
    (
        mode, joined, flags, _, point, write, durable, node, name_size, peer_size, _, _, since,
    ) = _MEMBER.unpack_from(body)  # fmt: skip
    if flags & ~(_FROM_CREATION | _SINCE | _BASED):
        raise _newer(f"A mirror has flags {flags:#x}, which this version does not know.")
    texts = body[_MEMBER.size :]
    name, peer = texts[:name_size].decode(), texts[name_size : name_size + peer_size].decode()
    return MirrorState(
        name, MirrorMode(mode), bool(joined), point, write, node, durable, peer,
        since if flags & _SINCE else None, bool(flags & _FROM_CREATION),
        bool(flags & _BASED),
    )  # fmt: skip


def _unpack_mirror(body: bytes) -> MirrorState:
    """MIRROR, as it was written before MEMBER: B mode, B joined, 6x zero, Q point, Q write number, name."""
    mode, joined, point, write = _MIRROR.unpack_from(body)
    return MirrorState(body[_MIRROR.size :].decode(), MirrorMode(mode), bool(joined), point, write)


def pack_source(name: str) -> bytes:
    """SOURCE: H bytes of the certificate name, H and I zero, the name in UTF-8; an empty name: any."""
    return _SOURCE.pack(len(name.encode()), 0, 0) + name.encode()


def _unpack_source(body: bytes) -> str:
    size, _, _ = _SOURCE.unpack_from(body)
    return body[_SOURCE.size : _SOURCE.size + size].decode()


def _unnamed(snapshots: tuple[PinnedSnapshot, ...], name: bytes) -> tuple[PinnedSnapshot, ...]:
    return tuple(snapshot for snapshot in snapshots if snapshot.name.encode() != name)


def _others(state: State, name: str) -> tuple[MirrorState, ...]:
    return tuple(mirror for mirror in state.mirrors if mirror.name != name)


def _pairs(body: bytes) -> dict[int, int]:
    return dict(_PAIR.iter_unpack(body))


def apply(state: State, kind: EditKind, body: bytes) -> State:
    """The state after one edit."""
    match kind:
        case EditKind.IDENTITY:
            blocks, created = _IDENTITY.unpack_from(body)
            name = body[_IDENTITY.size :].decode()
            return replace(state, segment_blocks=blocks, created_ns=created, name=name)
        case EditKind.EPOCH:
            return replace(state, epochs=(*state.epochs, Epoch(*_EPOCH.unpack(body))))
        case EditKind.RESERVE:
            return replace(state, reserved=_NUMBER.unpack(body)[0])
        case EditKind.USES:
            uses = _pairs(body)
            following = max([state.next_use, *(use + 1 for use in uses.values())])
            return replace(state, uses={**state.uses, **uses}, next_use=following)
        case EditKind.ENDS:
            return replace(state, ends={**state.ends, **_pairs(body)})
        case EditKind.HORIZON:
            numbers = _HORIZON.unpack(body)
            horizon = Horizon(*numbers)
            folding = state.folding if state.folding > horizon.write else 0
            return _passed(replace(state, horizon=horizon, folding=folding))
        case EditKind.FOLDING:
            return replace(state, folding=_NUMBER.unpack(body)[0])
        case EditKind.DURABLE:
            return replace(state, durable=Mark(*_MARK.unpack(body)))
        case EditKind.CLEAN:
            return replace(state, clean=Mark(*_MARK.unpack(body)) if body else None)
        case EditKind.SNAPSHOT:
            pin = PinnedSnapshot(body[_SNAPSHOT.size :].decode(), *_SNAPSHOT.unpack_from(body))
            return replace(state, snapshots=(*state.snapshots, pin))
        case EditKind.DROP_SNAPSHOT:
            snapshots, lacking = _unnamed(state.snapshots, body), _unnamed(state.lacking, body)
            return replace(state, snapshots=snapshots, lacking=lacking)
        case EditKind.BASE_MAP:
            return replace(state, base_map=body.decode())
        case EditKind.BUDGET:
            return replace(state, budget=_NUMBER.unpack(body)[0])
        case EditKind.NEXT_USE:
            return replace(state, next_use=max(state.next_use, _NUMBER.unpack(body)[0]))
        case EditKind.STATE_END:
            return state
        case _:
            return _apply_mirroring(state, kind, body)


def _apply_mirroring(state: State, kind: EditKind, body: bytes) -> State:
    match kind:
        case EditKind.NODE:
            return replace(state, node=body)
        case EditKind.ROLE:
            return replace(state, role=Role(body[0]))
        case EditKind.AGREED:
            return replace(state, agreed=Agreed(*_AGREED.unpack(body)))
        case EditKind.BASE:
            return replace(state, base=_NUMBER.unpack(body)[0] if body else None)
        case EditKind.OWES:
            return replace(state, owes=_NUMBER.unpack(body)[0])
        case EditKind.SOURCE:
            return replace(state, source_name=_unpack_source(body))
        case EditKind.CLOCK:
            return replace(state, clock=unpack_clock(body))
        case EditKind.LACKING:
            pin = PinnedSnapshot(body[_SNAPSHOT.size :].decode(), *_SNAPSHOT.unpack_from(body))
            return replace(state, lacking=(*_unnamed(state.lacking, pin.name.encode()), pin))
        case EditKind.NAMES:
            return replace(state, names_position=_NUMBER.unpack(body)[0])
        case EditKind.MIRROR | EditKind.MEMBER:
            mirror = _unpack_mirror(body) if kind == EditKind.MIRROR else _unpack_member(body)
            return replace(state, mirrors=(*_others(state, mirror.name), mirror))
        case _:
            return replace(state, mirrors=_others(state, body.decode()))


def _passed(state: State) -> State:
    """Forget early ends of segments that lie wholly behind the horizon."""
    first = state.horizon.address // state.segment_blocks if state.segment_blocks else 0
    return replace(state, ends={use: end for use, end in state.ends.items() if use >= first})


def state_edits(state: State) -> Iterator[tuple[EditKind, bytes]]:
    """The whole state as edits."""
    yield EditKind.IDENTITY, pack_identity(state)
    for epoch in state.epochs:
        yield EditKind.EPOCH, pack_epoch(epoch)
    yield EditKind.RESERVE, pack_number(state.reserved)
    yield EditKind.USES, pack_pairs(state.uses)
    yield EditKind.NEXT_USE, pack_number(state.next_use)
    yield EditKind.HORIZON, pack_horizon(state.horizon)
    yield EditKind.ENDS, pack_pairs(state.ends)
    yield EditKind.FOLDING, pack_number(state.folding)
    yield EditKind.DURABLE, pack_mark(state.durable)
    for snapshot in state.snapshots:
        yield EditKind.SNAPSHOT, pack_snapshot(snapshot)
    yield EditKind.BASE_MAP, state.base_map.encode()
    if state.budget:
        yield EditKind.BUDGET, pack_number(state.budget)
    yield EditKind.CLOCK, pack_clock(state.clock)
    yield EditKind.CLEAN, pack_mark(state.clean)
    yield from _mirroring_edits(state)
    yield EditKind.STATE_END, b""


def _mirroring_edits(state: State) -> Iterator[tuple[EditKind, bytes]]:
    yield EditKind.NODE, state.node
    yield EditKind.ROLE, bytes([state.role])
    yield EditKind.AGREED, pack_agreed(state.agreed)
    yield EditKind.BASE, pack_base(state.base)
    for snapshot in state.lacking:
        yield EditKind.LACKING, pack_snapshot(snapshot)
    if state.names_position:
        yield EditKind.NAMES, pack_number(state.names_position)
    if state.source_name:
        yield EditKind.SOURCE, pack_source(state.source_name)
    if state.owes > state.durable.position:
        yield EditKind.OWES, pack_number(state.owes)
    for mirror in state.mirrors:
        yield EditKind.MEMBER, pack_member(mirror)


def pack_edit(seed: int, number: int, kind: EditKind, body: bytes) -> bytes:
    """One edit, framed and checksummed."""
    framed = EDIT.pack(len(body), kind, 0, number) + body
    return framed + _NUMBER.pack(xxhash.xxh3_64_intdigest(framed, seed))


def pack_header(volume: bytes, generation: int) -> bytes:
    """The file header."""
    head = HEADER.pack(MAGIC, FORMAT, 0, volume, generation, 0)[:56]
    return head + _NUMBER.pack(xxhash.xxh3_64_intdigest(head))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest file that holds."""

    name: str
    generation: int
    first: int
    """Number of its first edit; ``number``: of its last."""
    number: int
    state: State
    size: int
    torn: bool


def parse(name: str, data: bytes) -> Loaded | None:
    """The manifest in ``data``: every edit up to the first that does not hold. None: no whole state."""
    if len(data) < HEADER.size:
        return None
    magic, version, _, volume, generation, checksum = HEADER.unpack_from(data)
    if magic != MAGIC or xxhash.xxh3_64_intdigest(data[:56]) != checksum:
        return None
    if version != FORMAT:
        raise _newer(f"{name} is of format {version}; this version reads format {FORMAT}.")
    state, first, number, at, whole = State(volume=volume), 0, 0, HEADER.size, False
    for kind, body, edit, end in _edits(name, data, volume_seed(volume)):
        state, first, number, at = apply(state, kind, body), first or edit, edit, end
        whole = whole or kind == EditKind.STATE_END
    return Loaded(name, generation, first, number, state, at, at != len(data)) if whole else None


def _newer(cause: str) -> Damaged:
    return Damaged("newer-format", cause, "Open the volume with the version that wrote it, or a newer one.")


def _edits(name: str, data: bytes, seed: int) -> Iterator[tuple[EditKind, bytes, int, int]]:
    at, last = HEADER.size, 0
    while at + EDIT.size <= len(data):
        size, kind, _, number = EDIT.unpack_from(data, at)
        end = at + EDIT.size + size
        if size > BODY_MAX or end + 8 > len(data) or (last and number != last + 1):
            return
        if xxhash.xxh3_64_intdigest(data[at:end], seed) != _NUMBER.unpack_from(data, end)[0]:
            return
        if kind not in _KINDS:
            raise _newer(f"{name} holds an edit of kind {kind}, which this version does not know.")
        yield EditKind(kind), data[at + EDIT.size : end], number, end + 8
        at, last = end + 8, number


def read_file(directory: Directory, name: str) -> bytes:
    """The whole of a small file."""
    file = directory.open(name, write=False)
    try:
        data = bytearray(file.size())
        got = file.preadv([data], 0) if data else 0
        return bytes(data[:got])
    finally:
        file.close()


def load(directory: Directory) -> Loaded:
    """The newest manifest that holds. NotFound if there is none at all, Damaged if none is whole."""
    present = [name for name in NAMES if directory.exists(name)]
    if not present:
        raise NotFound(
            "not-a-volume",
            f"{directory.path} holds no Revolume volume.",
            "Name a volume's directory, or give --size to create one.",
        )
    loaded = [m for m in (parse(name, read_file(directory, name)) for name in present) if m]
    if not loaded:
        raise Damaged(
            "manifest-damaged",
            f"No manifest in {directory.path} is whole.",
            "Rebuild the volume's content from its records with 'revolume salvage'.",
        )
    return max(loaded, key=lambda m: (m.number, m.generation))


def judge_end(number: int, stated: int) -> None:
    """Damaged if the log names a later edit than the manifest's last: the manifest is older than the log."""
    if stated > number:
        raise Damaged(
            "manifest-damaged",
            f"The log knows manifest edit {stated}, the manifest ends with {number}.",
            "The manifest's end is lost: use 'revolume salvage', or restore from a mirror or a backup.",
        )


class Manifest:
    """The open manifest. ``record`` and ``renew`` block on the disk: call them from a thread, one at a time."""

    def __init__(self, directory: Directory, state: State, generation: int, number: int) -> None:
        self._directory = directory
        self._file: File | None = None
        self._size = 0
        self._seed = volume_seed(state.volume)
        self._loaded_name = NAMES[1]
        self.state = state
        self.generation = generation
        self.number = number
        self.failure: OSError | None = None
        """A sync failed: nobody can tell what the disk has, so nothing more is recorded."""

    @classmethod
    def opened(cls, directory: Directory) -> Manifest:
        """The newest that holds. Its number is what the log is judged by; only when it has been accepted may
        ``renew`` raise it, writing into the other file, so that appending starts on whole ground."""
        loaded = load(directory)
        manifest = cls(directory, loaded.state, loaded.generation, loaded.number)
        manifest._loaded_name = loaded.name
        return manifest

    @classmethod
    def created(cls, directory: Directory, state: State) -> Manifest:
        """The first manifest of a new volume."""
        manifest = cls(directory, state, 0, 0)
        manifest.renew(NAMES[0])
        return manifest

    def record(self, *edits: tuple[EditKind, bytes]) -> None:
        """Append edits and sync: all of them are durable when it returns."""
        if self.failure is not None:
            raise self.failure
        packed, number, state = [], self.number, self.state
        for kind, body in edits:
            number += 1
            packed.append(pack_edit(self._seed, number, kind, body))
            state = apply(state, kind, body)
        assert self._file is not None
        self._file.pwritev(packed, self._size)
        with self._or_never():
            self._file.datasync()
        self._size += sum(map(len, packed))
        self.number, self.state = number, state
        if self._size > RENEW_BYTES:
            with contextlib.suppress(OSError):  # the edits are durable where they are; it is tried again
                self.renew()

    def renew(self, name: str | None = None) -> None:
        """Write the whole state into the other file (or ``name``), in one replacement."""
        current = self._file.name if self._file else self._loaded_name
        target = name or NAMES[1 - NAMES.index(current)]
        edits = list(state_edits(self.state))
        first = self.number + 1
        packed = [pack_header(self.state.volume, self.generation + 1)]
        packed += [pack_edit(self._seed, first + i, *edit) for i, edit in enumerate(edits)]
        temporary = target + ".new"
        write_file(self._directory, temporary, packed)
        with self._or_never():  # which of the two files stands after a crash is open until the names are synced
            self._directory.rename(temporary, target)
            self._directory.sync()
            file = self._directory.open(target)
        if self._file is not None:
            self._file.close()
        self._file = file
        self._size = sum(map(len, packed))
        self.generation += 1
        self.number = first + len(edits) - 1

    @contextlib.contextmanager
    def _or_never(self) -> Iterator[None]:
        """What fails in here is not tried again."""
        try:
            yield
        except OSError as error:
            self.failure = error
            raise

    def close_clean(self) -> None:
        """Both files hold the final state afterwards; one of them if there is no room for another."""
        try:
            self.renew()
            self.renew()
        except OSError:
            if self.failure is not None:
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def write_file(directory: Directory, name: str, parts: list[bytes]) -> None:
    """A new file with these parts, synced; what an earlier attempt left is thrown away."""
    if directory.exists(name):
        directory.remove(name)
    file = directory.open(name, create=True, exclusive=True)
    try:
        file.pwritev(parts, 0)
        file.datasync()
    finally:
        file.close()
