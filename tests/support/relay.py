"""A liar on the link: between a source and its mirror, it carries frames and bends those that it is told to.

    a record bent    ``lie`` gets the next consistency point's record decoded, changes what it says, and the record
                     goes on with every checksum made anew, as a source would have sent that says so. The log that
                     the mirror has is another one from there on: each transfer behind it is chained anew too, and
                     what both ends say of their chains is translated, so that only what a record *means* is false
    frames bent      ``meddle`` gets each frame of the log as it is to be sent and returns what is sent instead;
                     nothing is made anew

Without either it is a cable. Plain links only.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from revolume.blocks import root as roots
from revolume.blocks.block_set import BlockSet
from revolume.blocks.delta_map import stated_digest
from revolume.blocks.digest import fragment_digest
from revolume.blocks.geometry import BLOCK
from revolume.chain.point import Part, References, Totals, pack_part, unpack_part
from revolume.log.format.received_transfer import ReceivedTransfer
from revolume.log.format.transfer import KIND_SHIFT, EntryKind, Flag, Kind, Transfer, pack_shared_header
from revolume.mirror.wire.begin_messages import pack_begin, unpack_begin
from revolume.mirror.wire.block_messages import unpack_block_request
from revolume.mirror.wire.frames import FRAME, FRAME_SIZE, Type, body_of, control
from revolume.mirror.wire.greeting_messages import Welcome, pack_hello, pack_welcome, unpack_hello, unpack_welcome
from revolume.mirror.wire.log_frame import LogUnpacker, pack_log
from revolume.mirror.wire.session_messages import unpack_epoch
from revolume.volume.open.log_identity import End

U64 = np.uint64
Place = tuple[int, int, int]
"""Epoch and position of a transfer, number of a block in it."""


@dataclass
class Record:
    """A consistency point's record, to be bent. ``rows``: which reference each block has; ``runs``: how many
    blocks a reference takes in; ``partials``: what comes whole; ``versions``: of each block, all that travelled,
    the oldest first; ``digests``: of everything that the record names."""

    number: int
    previous: int
    position: int
    write: int
    digest: int
    root: tuple[int, int]
    chain: bytes
    rows: dict[int, Place]
    partials: dict[int, bytes]
    zeroes: list[tuple[int, int]]
    versions: dict[int, list[Place]]
    digests: dict[int, int]
    runs: int = 1
    where: int = 0  # its own position

    def restate_digest(self) -> None:
        """The interval digest, of what the record says now."""
        named = sorted([*self.rows, *self.partials])
        digests = [self.digest_of(block) for block in named]
        self.digest = stated_digest(np.array(named, U64), np.array(digests, U64), stated(self.zeroes))

    def restate_root(self, block: int, before: int) -> None:
        """The root, now that a block has another digest than it had."""
        at = np.array([block], U64)
        less = roots.subtract(self.root, at, np.array([before], U64))
        self.root = roots.add(less, at, np.array([self.digest_of(block)], U64))

    def digest_of(self, block: int) -> int:
        return fragment_digest(self.partials[block]) if block in self.partials else self.digests[block]


Lie = Callable[[Record], None]
Meddle = Callable[[bytes], list[bytes]]


def stated(runs: list[tuple[int, int]]) -> BlockSet:
    """Zero runs as a record states them, also where they are not what a set is."""
    firsts, counts = columns(runs)
    return BlockSet(firsts, firsts + counts)


def columns(runs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    table = np.array(runs, U64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def whole_blocks(transfer: Transfer) -> Iterator[int]:
    """Of a transfer's payload, in order."""
    for offset, length in zip(transfer.offsets.tolist(), transfer.lengths.tolist(), strict=True):
        if length >> KIND_SHIFT == EntryKind.WRITE:
            size = length & (1 << KIND_SHIFT) - 1
            yield from range(-(-offset // BLOCK), (offset + size) // BLOCK)


def honest(frame: bytes) -> list[bytes]:
    return [frame]


@dataclass
class Told:
    """What a log's ends are called on either side, by position, where that differs."""

    there: dict[int, bytes] = field(default_factory=dict)
    here: dict[int, bytes] = field(default_factory=dict)

    def note(self, position: int, here: bytes, there: bytes) -> None:
        if here != there:
            self.here[position], self.there[position] = here, there

    def to_target(self, position: int, chain: bytes) -> bytes:
        return self.there[position] if self.here.get(position) == chain else chain

    def to_source(self, position: int, chain: bytes) -> bytes:
        return self.here[position] if self.there.get(position) == chain else chain


class Relay(threading.Thread):
    """See the module's text. ``asked``: what the mirror asked for whole, by point; ``lied``: a lie was told;
    ``sent``: every frame of a log that was sent on, with its session; ``record`` is called with each frame as the
    mirror's side of the link has it: number of the connection, b">" towards the mirror or b"<", the frame."""

    def __init__(self, near: Path, far: Path) -> None:
        super().__init__(daemon=True)
        self.near, self.far = near, far
        self.lie: Lie | None = None
        self.meddle: Meddle = honest
        self.asked: list[tuple[int, list[int]]] = []
        self.lied = threading.Event()
        self.sent: list[bytes] = []
        self.record: Callable[[int, bytes, bytes], None] = lambda connection, direction, frame: None
        self.connections = 0
        self.told = Told()
        self.transfers: dict[int, Transfer] = {}
        self.faults: list[BaseException] = []
        self.last_words = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(near))
        self._listener.listen(8)
        self._ended = False
        self._open: list[socket.socket] = []
        self.start()

    def run(self) -> None:
        while not self._ended:
            try:
                source, _ = self._listener.accept()
            except OSError:
                return
            target = socket.socket(socket.AF_UNIX)
            try:
                target.connect(str(self.far))
            except OSError:
                source.close()
                continue
            self._open += [source, target]
            passage = Passage(self, source, target)
            for job in (passage.forth, passage.back):
                threading.Thread(target=self._carry, args=(job, source, target), daemon=True).start()

    def _carry(self, job: Callable[[], None], *ends: socket.socket) -> None:
        try:
            job()
        except OSError:
            pass
        except Exception as fault:
            self.faults.append(fault)
        drop(*ends)

    def versions(self) -> dict[int, list[Place]]:
        """Of every block, what travelled of it whole."""
        found: dict[int, list[Place]] = {}
        for position, transfer in sorted(self.transfers.items()):
            if transfer.kind == Kind.WRITES:
                for number, block in enumerate(whole_blocks(transfer)):
                    found.setdefault(block, []).append((transfer.epoch, position, number))
        return found

    def digest_at(self, place: Place) -> int:
        return int(self.transfers[place[1]].digests[place[2]])

    def turn_honest(self) -> None:
        self.lie, self.meddle = None, honest
        self.lied.clear()

    def forget(self) -> None:
        """Another mirror is behind it, an empty one."""
        self.turn_honest()
        self.told = Told()
        self.asked.clear()

    def hang_up_after(self, last_words: bytes) -> None:
        """The connection that carries the log now ends behind these bytes."""
        self.last_words = last_words

    def hang_up(self) -> None:
        """Every connection is lost; the next one is carried again."""
        open_now, self._open = self._open, []
        drop(*open_now)

    def close(self) -> None:
        self._ended = True
        drop(self._listener)
        self.hang_up()


def drop(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


def frames_of(sock: socket.socket) -> Iterator[bytes]:
    """Whole frames, until the connection ends."""
    while True:
        head = exactly(sock, FRAME_SIZE)
        yield head + exactly(sock, FRAME.unpack(head)[0])


def exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return bytes(data)


class Passage:
    """One connection, both ways."""

    def __init__(self, relay: Relay, source: socket.socket, target: socket.socket) -> None:
        self.relay, self.source, self.target = relay, source, target
        self.number = relay.connections
        relay.connections += 1
        self.session = 0
        self.over = False  # nothing more goes to the target
        self.volume = b""
        self.welcome: Welcome
        self.log: LogUnpacker  # as the source sends it
        self.chain = b""  # of the last transfer, as the target has it

    def forth(self) -> None:
        for frame in frames_of(self.source):
            if self.over:
                continue
            match frame[4]:
                case Type.HELLO:
                    self._send(self._hello(frame))
                case Type.BEGIN:
                    self._send(self._begin(frame))
                case Type.EPOCH:
                    self.log.begin_epoch(*unpack_epoch(body_of(memoryview(frame))))
                    self._send(frame)
                case Type.LOG | Type.LOG_WIDE:
                    self._send_log(frame)
                case _:
                    self._send(frame)

    def _send_log(self, frame: bytes) -> None:
        relay = self.relay
        for each in relay.meddle(self._log(frame)):
            relay.sent.append(each)
            self._send(each)
        if relay.last_words:
            last, relay.last_words = relay.last_words, b""
            self._send(last)
            self._say_no_more()

    def _say_no_more(self) -> None:
        """What the target says meanwhile is still carried, until it ends too: a socket that is closed while it has
        something unread would reset the connection, and what was sent last might never be seen."""
        self.over = True
        self.target.shutdown(socket.SHUT_WR)

    def _send(self, frame: bytes) -> None:
        self.relay.record(self.number, b">", frame)
        self.target.sendall(frame)

    def back(self) -> None:
        for frame in frames_of(self.target):
            self.relay.record(self.number, b"<", frame)
            if frame[4] == Type.WELCOME:
                frame = self._welcome(frame)
            elif frame[4] == Type.REQUEST_BLOCKS:
                self.relay.asked.append(unpack_block_request(body_of(memoryview(frame))))
            self.source.sendall(frame)

    # What both ends say of their logs

    def _hello(self, frame: bytes) -> bytes:
        hello = unpack_hello(body_of(memoryview(frame)))
        self.volume = hello.volume
        hello = replace(hello, end=self._end(hello.end, self.relay.told.to_target))
        return control(Type.HELLO, 0, pack_hello(hello))

    def _welcome(self, frame: bytes) -> bytes:
        told, there = self.relay.told, unpack_welcome(body_of(memoryview(frame)))
        self.session = FRAME.unpack_from(frame)[4]
        self.chain = there.end.chain
        self.welcome = replace(there, end=self._end(there.end, told.to_source))
        return control(Type.WELCOME, self.session, pack_welcome(self.welcome))

    def _begin(self, frame: bytes) -> bytes:
        begin = unpack_begin(body_of(memoryview(frame)))
        end = self.welcome.end if begin.start is None else begin.start.end
        self.log = LogUnpacker(self.volume, end)
        if begin.start is not None:
            self.chain = end.chain
        found = begin.at_target_end
        if found is not None:
            chain = self.relay.told.to_target(end.position, found.chain)
            begin = replace(begin, at_target_end=replace(found, chain=chain))
        return control(Type.BEGIN, self.session, pack_begin(begin))

    @staticmethod
    def _end(end: End, said: Callable[[int, bytes], bytes]) -> End:
        return replace(end, chain=said(end.position, end.chain))

    # The log

    def _log(self, frame: bytes) -> bytes:
        relay = self.relay
        carried = self.log.unpack(memoryview(frame), frame[4] == Type.LOG_WIDE)
        transfer = carried.transfer
        relay.transfers[transfer.position] = transfer
        bent = carried
        if transfer.kind == Kind.POINT:
            bent = self._record(carried)
        shared_header, self.chain = self._packed(bent.transfer, self.chain)
        assert self.chain != transfer.chain or shared_header == carried.shared_header
        relay.told.note(transfer.position, transfer.chain, self.chain)
        payload = bytes(bent.payload)
        return pack_log(self.session, shared_header, len(payload)) + payload

    @staticmethod
    def _packed(t: Transfer, previous: bytes) -> tuple[bytes, bytes]:
        packed = b"".join(c.astype("<u8").tobytes() for c in (t.offsets, t.lengths, t.digests)) + t.body
        return pack_shared_header(
            t.kind, t.flags, t.blocks, t.fragment_bytes, (t.volume, t.reign, t.epoch), t.position, t.write,
            t.time_ns, previous, packed, (len(t.offsets), len(t.digests), len(t.body)),
        )  # fmt: skip

    def _record(self, carried: ReceivedTransfer) -> ReceivedTransfer:
        """Bent, if a lie waits; in any case it names the cut by the chain that the target knows."""
        part, relay = unpack_part(carried.transfer.body), self.relay
        assert part is not None
        said = relay.told.to_target(part.position, part.chain)
        if relay.lie is not None and carried.transfer.flags & Flag.SEALS and part.parts == 1:
            lie, relay.lie = relay.lie, None
            record = self._decoded(replace(part, chain=said), carried)
            lie(record)
            relay.lied.set()
            return encoded(record, part, carried)
        if said == part.chain:
            return carried
        body = bytearray(carried.transfer.body)
        struct.pack_into("16s", body, 96, said)
        return ReceivedTransfer(
            replace(carried.transfer, body=bytes(body)), carried.shared_header, carried.payload
        )

    def _decoded(self, part: Part, carried: ReceivedTransfer) -> Record:
        relay, rows, payload = self.relay, {}, memoryview(carried.payload)
        for epoch, position, first, run in zip(
            *(getattr(part.references, name).tolist() for name in ("epochs", "positions", "blocks", "runs")),
            strict=True,
        ):
            inside = list(whole_blocks(relay.transfers[position]))
            for number in range(first, first + run):
                rows[inside[number]] = (epoch, position, number)
        partials = {
            block: bytes(payload[i * BLOCK : (i + 1) * BLOCK])
            for i, block in enumerate((carried.transfer.offsets // U64(BLOCK)).tolist())
        }
        digests = {block: relay.digest_at(place) for block, place in rows.items()}
        digests |= dict(zip(partials, carried.transfer.digests.tolist(), strict=True))
        zeroes = list(zip(part.zeroes[0].tolist(), part.zeroes[1].tolist(), strict=True))
        return Record(
            part.number, part.previous, part.position, part.write, part.digest, part.root, part.chain,
            rows, partials, zeroes, relay.versions(), digests, where=carried.transfer.position,
        )  # fmt: skip


def encoded(record: Record, part: Part, carried: ReceivedTransfer) -> ReceivedTransfer:
    """A transfer that says what the record says now."""
    table = np.array([(*place, record.runs) for _, place in sorted(record.rows.items())], U64).reshape(-1, 4)
    totals = Totals(
        record.number, record.previous, record.position, record.write, part.time_ns,
        len(record.rows), len(record.partials), len(record.zeroes), record.digest, record.root, record.chain,
    )  # fmt: skip
    body = pack_part(totals, (0, 1), References(*(table[:, i] for i in range(4))), columns(record.zeroes))
    blocks = sorted(record.partials)
    transfer = replace(
        carried.transfer, body=body, blocks=len(blocks), write=record.write,
        offsets=np.array(blocks, U64) * U64(BLOCK),
        lengths=np.full(len(blocks), BLOCK | EntryKind.WRITE << KIND_SHIFT, U64),
        digests=np.array([fragment_digest(record.partials[block]) for block in blocks], U64),
    )  # fmt: skip
    return ReceivedTransfer(transfer, b"", b"".join(record.partials[block] for block in blocks))
