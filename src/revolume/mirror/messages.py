"""The control messages of a mirror link, as values and as bytes. No I/O.

END, 64 bytes: where a log ends
     0  Q  position      8 Q epoch     16 16s reign id     32 16s chain checksum     48 Q write     56 Q time, ns

HELLO (source -> target)
     0  H  highest protocol version     2 B mode, 1 sync, 2 async     3 B lowest protocol version (``version.py``)
     4  I  blocks of a segment     8 I blocks of the largest transfer
    12  H  bytes of the volume's name     14 H bytes of the mirror's name
    16 16s volume id     32 16s node id     48 16s reign id of this opening     64 Q its epoch
    72  Q  size of the volume     80 Q oldest position: what lies at or before it is gone from the log
    88     END
   152 16s node id of the copy that this mirror is, zero if it is not known
   168  Q  durable position that this copy has acknowledged     176 B 1: a copy has joined as this mirror
   177 7x  zero
   184     the volume's name, the mirror's name, UTF-8

WELCOME (target -> source); its frame carries the session id that holds from here on. It also answers EXAMINE
     0  H  protocol version chosen     2 B state, 0 empty, 1 base going on, 2 whole
     3  B  1: the identity at 168 is known     4 I blocks of a segment
     8  Q  highest epoch known     16 16s its reign id     32 16s node id
    48 16s volume id, zero if empty     64 END     128 Q durable position
   136  Q  agreed point     144 Q its position     152 Q volume root, low     160 Q high
   168  Q  epoch     176 16s reign id     192 16s chain checksum: of the transfer in the target's log at the
              position where the source's log ends
   208  Q  base: number of its point     216 Q its position     224 16s its chain checksum
   240  Q  base: first block that is not there
   248  Q  budget of its log, bytes     256 Q bytes that its log takes now     264 Q bytes free on its disk

BEGIN (source -> target)
     0  H  rule (``decide.Rule``)
     2  B  1: the identity at 8 is known, 2: the point at 64 is, 4: a birth follows, 8: the sizes at 48 are known
     3 5x  zero
     8  Q  epoch     16 16s reign id     32 16s chain checksum: of the transfer in the source's log at the
              position where the target's log ends
    48  Q  bytes of the base     56 Q bytes of log that can't be folded, because of a snapshot
    64  Q  pinned point F: number     72 Q position     80 16s chain checksum
    96     birth, only of a base that begins: END of the log at F (the target's log continues it)
   160  Q  number of F     168 Q write of F     176 Q time of F     184 Q size of the volume at F
   192  Q  root, low     200 Q high     208 I epochs     212 I names
   216  Q  position as of which the names are stated: what the log up to there says of names is in them
   224     epochs x (Q number, 16s reign id, Q position, Q write): all that the source knows, until now
           names x (Q write, Q point, Q time, H 1: the copy will hold it, H bytes of the name, the name in UTF-8)

REFUSED (both)
     0  H  bytes of the code     2 H bytes of the cause     4 H bytes of the hint     6 the three, UTF-8

EPOCH      0 Q epoch     8 16s reign id
SYNC       0 Q position
POSITIONS  0 Q received     8 Q durable     16 Q agreed point     24 Q its position
BASE_AT    0 Q first block that is not stored
BASE_END   0 Q number of the base's point     8 Q blocks sent since the beginning of this session
BASE_DONE  0 Q number of the base's point
PING       nothing

FETCH (a primary -> its mirror): send the end of your log. EXAMINE (anybody -> a mirror): say what you have;
nobody is cut off for it, and WELCOME is the answer
     0  H  highest protocol version     2 B zero     3 B lowest protocol version     4 4x zero
     8 16s volume id     24 16s node id of who asks     40 END of its log
   104 16s node id of the copy that is expected to answer, zero: any
TAIL       0 END of the mirror's log     64 H protocol version chosen     66 B 1: it holds less than it had
           acknowledged as durable     67 5x zero     72 16s node id of the mirror
           its frame carries the session id
TAIL_END   0 Q position     8 16s chain checksum: of the last transfer sent
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from revolume.mirror.frames import Broken
from revolume.mirror.version import OURS, check_chosen, common, stated
from revolume.volume.end import End

END = struct.Struct("<QQ16s16sQQ")
HELLO = struct.Struct("<HBBIIHH16s16s16sQQQ64s16sQB7x")
WELCOME = struct.Struct("<HBBIQ16s16s16s64sQQQQQQ16s16sQQ16sQQQQ")
BEGIN = struct.Struct("<HB5xQ16s16sQQQQ16s")
BIRTH = struct.Struct("<64sQQQQQQIIQ")
BIRTH_EPOCH = struct.Struct("<Q16sQQ")
BIRTH_NAME = struct.Struct("<QQQHH")
REFUSED = struct.Struct("<HHH")
EPOCH = struct.Struct("<Q16s")
POSITIONS = struct.Struct("<QQQQ")
BASE_END = struct.Struct("<QQ")
NUMBER = struct.Struct("<Q")
FETCH = struct.Struct("<HBB4x16s16s64s16s")
TAIL = struct.Struct("<64sHB5x16s")
TAIL_END = struct.Struct("<Q16s")

assert (END.size, HELLO.size, WELCOME.size, BEGIN.size, BIRTH.size) == (64, 184, 272, 96, 128)
assert (FETCH.size, TAIL.size) == (120, 88)

NOWHERE: Final = End(0, 0, bytes(16), bytes(16), 0, 0)
"""Where the log of an empty target ends."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Which transfer lies at a position: equal, and the logs are the same up to there."""

    epoch: int
    reign: bytes
    chain: bytes


@dataclass(frozen=True, slots=True)
class Pin:
    """A consistency point by what proves it to be the same one."""

    number: int
    position: int
    chain: bytes


class TargetState(IntEnum):
    """What a target has of the volume."""

    EMPTY = 0
    BASE = 1
    WHOLE = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """Who wants to mirror what, and where its log stands."""

    mode: int
    segment_blocks: int
    largest_blocks: int
    volume: bytes
    node: bytes
    reign: bytes
    epoch: int
    size: int
    oldest: int
    end: End
    name: str
    mirror: str
    expected: bytes = bytes(16)
    """Node id of the copy that the mirror is; zero: it is not known."""
    acknowledged: int = 0
    """A position that this copy has acknowledged as durable."""
    joined: bool = False
    """A copy has joined as this mirror: no other takes its place without an order."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a target has room for, in bytes: its log's budget, what its log takes now, what is free on its disk."""

    budget: int
    log: int
    free: int


NO_ROOM: Final = Room(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Need:
    """What a base will take at its target, in bytes: the blocks themselves, and the log that a snapshot keeps."""

    base: int
    kept_log: int


@dataclass(frozen=True, slots=True)
class Welcome:
    """What the target has."""

    state: TargetState
    segment_blocks: int
    known_epoch: int
    known_reign: bytes
    node: bytes
    volume: bytes
    end: End
    durable: int
    agreed_point: int
    agreed_position: int
    agreed_root: tuple[int, int]
    at_source_end: Identity | None
    base: Pin | None
    next_block: int
    room: Room = NO_ROOM


@dataclass(frozen=True, slots=True)
class Opening:
    """One opening of the volume as primary, as a new mirror is told of it."""

    number: int
    reign: bytes
    position: int
    write: int


@dataclass(frozen=True, slots=True)
class Named:
    """A snapshot, as a new mirror is told of it. ``held``: the mirror's history reaches back to it."""

    name: str
    write: int
    point: int
    time_ns: int
    held: bool


@dataclass(frozen=True, slots=True)
class Start:
    """What a new mirror begins from: the point F of its base, ``end`` the log's transfer at F's position.
    ``names``: of snapshots, with all that the log up to ``names_position`` says of them."""

    end: End
    number: int
    write: int
    time_ns: int
    size: int
    root: tuple[int, int]
    epochs: tuple[Opening, ...]
    names: tuple[Named, ...] = ()
    names_position: int = 0


@dataclass(frozen=True, slots=True)
class Begin:
    """How the target is brought up to date, with all that the source knew when it decided."""

    rule: int
    at_target_end: Identity | None
    pin: Pin | None
    start: Start | None
    need: Need | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, in words."""

    code: str
    cause: str
    hint: str


@dataclass(frozen=True, slots=True)
class Positions:
    """How far a target is."""

    received: int
    durable: int
    agreed_point: int
    agreed_position: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Who asks for a longer tail (or, in EXAMINE, what there is), and where its own log ends. ``expected``: the
    node id of the copy that shall answer, zero for any."""

    volume: bytes
    node: bytes
    end: End
    expected: bytes = bytes(16)


@dataclass(frozen=True, slots=True)
class TailBegin:
    """Where the mirror's log ends, and which copy it is. ``short``: it holds less than it had acknowledged as
    durable, so that its end proves nothing."""

    end: End
    node: bytes
    short: bool = False


def pack_end(end: End) -> bytes:
    """END."""
    return END.pack(end.position, end.epoch, end.reign, end.chain, end.write, end.time_ns)


def unpack_end(data: bytes | memoryview) -> End:
    """END."""
    return End(*END.unpack(data))


def pack_hello(hello: Hello) -> bytes:
    """HELLO."""
    name, mirror = hello.name.encode(), hello.mirror.encode()
    return (
        HELLO.pack(
            OURS.highest, hello.mode, OURS.lowest, hello.segment_blocks, hello.largest_blocks, len(name),
            len(mirror), hello.volume, hello.node, hello.reign, hello.epoch, hello.size, hello.oldest,
            pack_end(hello.end), hello.expected, hello.acknowledged, hello.joined,
        )
        + name
        + mirror
    )  # fmt: skip


Message = TypeVar("Message")


def _strict(unpack: Callable[[memoryview], Message]) -> Callable[[memoryview], Message]:
    """What a body's bytes can't be made into is the peer's fault."""

    def checked(body: memoryview) -> Message:
        try:
            return unpack(body)
        except (struct.error, ValueError) as error:
            raise Broken(f"A message is not what its type says: {error}.") from None

    return checked


def _exact(body: memoryview, size: int) -> None:
    if len(body) != size:
        raise ValueError(f"{len(body)} bytes instead of {size}")


@_strict
def unpack_hello(body: memoryview) -> Hello:
    """HELLO. RevolumeError: there is no version that both ends speak."""
    common(stated(body))
    (
        _, mode, _, segment_blocks, largest, name_size, mirror_size,
        volume, node, reign, epoch, size, oldest, end, expected, acknowledged, joined,
    ) = HELLO.unpack_from(body)  # fmt: skip
    _exact(body, HELLO.size + name_size + mirror_size)
    if mode not in (1, 2):
        raise ValueError(f"{mode} is no mode")
    names = bytes(body[HELLO.size :])
    name, mirror = names[:name_size].decode(), names[name_size:].decode()
    if not (name + mirror).isprintable() or not name or not mirror:
        raise ValueError("a name that nobody can read")
    return Hello(
        mode, segment_blocks, largest, volume, node, reign, epoch, size, oldest, unpack_end(end), name, mirror,
        expected, acknowledged, bool(joined & 1),
    )  # fmt: skip


NUMBER16 = struct.Struct("<H")


def pack_welcome(w: Welcome) -> bytes:
    """WELCOME."""
    found = w.at_source_end or NOBODY
    base = w.base or NO_PIN
    return WELCOME.pack(
        OURS.highest, w.state, w.at_source_end is not None, w.segment_blocks, w.known_epoch, w.known_reign,
        w.node, w.volume, pack_end(w.end), w.durable, w.agreed_point, w.agreed_position, *w.agreed_root,
        found.epoch, found.reign, found.chain, base.number, base.position, base.chain, w.next_block,
        w.room.budget, w.room.log, w.room.free,
    )  # fmt: skip


NOBODY: Final = Identity(0, bytes(16), bytes(16))
NO_PIN: Final = Pin(0, 0, bytes(16))


@_strict
def unpack_welcome(body: memoryview) -> Welcome:
    """WELCOME. RevolumeError: this node does not speak the version that was chosen."""
    check_chosen(NUMBER16.unpack_from(body)[0])
    _exact(body, WELCOME.size)
    (
        _, state, known, segment_blocks, epoch, reign, node, volume, end, durable, point, position, low, high,
        found_epoch, found_reign, found_chain, base, base_position, base_chain, next_block, *room,
    ) = WELCOME.unpack(body)  # fmt: skip
    return Welcome(
        TargetState(state), segment_blocks, epoch, reign, node, volume, unpack_end(end), durable, point, position,
        (low, high), Identity(found_epoch, found_reign, found_chain) if known & 1 else None,
        Pin(base, base_position, base_chain) if state == TargetState.BASE else None, next_block, Room(*room),
    )  # fmt: skip


_FOUND, _PINNED, _BORN, _SIZED = 1, 2, 4, 8
_NO_NEED: Final = Need(0, 0)


def pack_begin(begin: Begin) -> bytes:
    """BEGIN."""
    flags = (
        _FOUND * (begin.at_target_end is not None)
        | _PINNED * (begin.pin is not None)
        | _BORN * (begin.start is not None)
        | _SIZED * (begin.need is not None)
    )
    found, pin, need = begin.at_target_end or NOBODY, begin.pin or NO_PIN, begin.need or _NO_NEED
    head = BEGIN.pack(
        begin.rule, flags, found.epoch, found.reign, found.chain, need.base, need.kept_log, pin.number,
        pin.position, pin.chain,
    )  # fmt: skip
    return head if begin.start is None else head + _pack_start(begin.start)


def _pack_start(start: Start) -> bytes:
    head = BIRTH.pack(
        pack_end(start.end), start.number, start.write, start.time_ns, start.size, *start.root,
        len(start.epochs), len(start.names), start.names_position,
    )  # fmt: skip
    epochs = (BIRTH_EPOCH.pack(e.number, e.reign, e.position, e.write) for e in start.epochs)
    return head + b"".join((*epochs, *map(_pack_named, start.names)))


def _pack_named(named: Named) -> bytes:
    name = named.name.encode()
    return BIRTH_NAME.pack(named.write, named.point, named.time_ns, named.held, len(name)) + name


@_strict
def unpack_begin(body: memoryview) -> Begin:
    """BEGIN."""
    rule, flags, epoch, reign, chain, base, kept_log, number, position, pin_chain = BEGIN.unpack_from(body)
    rest = body[BEGIN.size :]
    if not flags & _BORN:
        _exact(rest, 0)
    return Begin(
        rule,
        Identity(epoch, reign, chain) if flags & _FOUND else None,
        Pin(number, position, pin_chain) if flags & _PINNED else None,
        _unpack_start(rest) if flags & _BORN else None,
        Need(base, kept_log) if flags & _SIZED else None,
    )


def _unpack_start(body: memoryview) -> Start:
    end, number, write, time_ns, size, low, high, count, names, names_position = BIRTH.unpack_from(body)
    behind = BIRTH.size + count * BIRTH_EPOCH.size
    if len(body) < behind:
        raise ValueError(f"{len(body)} bytes instead of {behind}")
    epochs = tuple(Opening(*row) for row in BIRTH_EPOCH.iter_unpack(body[BIRTH.size : behind]))
    named = _unpack_names(body[behind:], names)
    return Start(
        unpack_end(end), number, write, time_ns, size, (low, high), epochs, named, names_position
    )


def _unpack_names(body: memoryview, count: int) -> tuple[Named, ...]:
    found, at = list[Named](), 0
    while len(found) < count:
        write, point, time_ns, held, size = BIRTH_NAME.unpack_from(body, at)
        at += BIRTH_NAME.size + size
        name = bytes(body[at - size : at])
        if len(name) != size:
            raise ValueError("a name is cut off")
        found.append(Named(name.decode(), write, point, time_ns, bool(held & 1)))
    _exact(body, at)
    return tuple(found)


_TEXT_MAX = 1000


def pack_refusal(refusal: Refusal) -> bytes:
    """REFUSED; what is too long is cut."""
    texts = [text.encode()[:_TEXT_MAX] for text in (refusal.code, refusal.cause, refusal.hint)]
    return REFUSED.pack(*map(len, texts)) + b"".join(texts)


@_strict
def unpack_refusal(body: memoryview) -> Refusal:
    """REFUSED. It ends up in a log and before a person, so nothing in it moves a cursor."""
    code, cause, hint = REFUSED.unpack_from(body)
    _exact(body, REFUSED.size + code + cause + hint)
    text = bytes(body[REFUSED.size :])
    parts = text[:code], text[code : code + cause], text[code + cause :]
    return Refusal(*(_printable(part.decode(errors="replace")) for part in parts))


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def pack_positions(p: Positions) -> bytes:
    """POSITIONS."""
    return POSITIONS.pack(p.received, p.durable, p.agreed_point, p.agreed_position)


@_strict
def unpack_positions(body: memoryview) -> Positions:
    """POSITIONS."""
    return Positions(*POSITIONS.unpack(body))


@_strict
def unpack_number(body: memoryview) -> int:
    """SYNC, BASE_AT, BASE_DONE."""
    number: int = NUMBER.unpack(body)[0]
    return number


@_strict
def unpack_epoch(body: memoryview) -> tuple[int, bytes]:
    """EPOCH: number and reign id."""
    epoch, reign = EPOCH.unpack(body)
    return epoch, reign


@_strict
def unpack_base_end(body: memoryview) -> tuple[int, int]:
    """BASE_END: number of the point, blocks sent."""
    number, blocks = BASE_END.unpack(body)
    return number, blocks


def pack_fetch(fetch: Fetch) -> bytes:
    """FETCH, EXAMINE."""
    return FETCH.pack(
        OURS.highest, 0, OURS.lowest, fetch.volume, fetch.node, pack_end(fetch.end), fetch.expected
    )


@_strict
def unpack_fetch(body: memoryview) -> Fetch:
    """FETCH, EXAMINE. RevolumeError: there is no version that both ends speak."""
    common(stated(body))
    _, _, _, volume, node, end, expected = FETCH.unpack(body)
    return Fetch(volume, node, unpack_end(end), expected)


def pack_tail(begin: TailBegin) -> bytes:
    """TAIL."""
    return TAIL.pack(pack_end(begin.end), OURS.highest, begin.short, begin.node)


@_strict
def unpack_tail(body: memoryview) -> TailBegin:
    """TAIL. RevolumeError: this node does not speak the version that was chosen."""
    end, version, short, node = TAIL.unpack(body)
    check_chosen(version)
    return TailBegin(unpack_end(end), node, bool(short))


@_strict
def unpack_tail_end(body: memoryview) -> tuple[int, bytes]:
    """TAIL_END: position and chain checksum of the last transfer."""
    position, chain = TAIL_END.unpack(body)
    return position, chain
