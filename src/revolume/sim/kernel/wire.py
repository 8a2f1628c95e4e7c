"""``host.Wire`` between simulated machines.

Each connection has two *halves*, one for each direction: bytes leave in order, take their time, and lie in the
peer's kernel until it receives them. How many may be under way is bounded: what a kernel does not take is the
wire's backlog, by reference, and ranges of files are read only when their turn has come.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections import deque
from collections.abc import Sequence

import xxhash

from revolume.host.disk import Buffer, File
from revolume.host.file_slice import FileSlice
from revolume.host.network import Peer, Receiver
from revolume.sim.kernel.fabric import PATIENCE_S, Fabric, Path
from revolume.sim.kernel.process import Process

LOW_WATER = 256 << 10
LINGER_S = 1.0
HEARD_MAX = 200


class SimWire:
    """``host.Wire``: one end of a connection. What it sends is its own half; it receives from its peer's.
    Receiving, sending and ending share its state, so they are one class."""

    def __init__(self, fabric: Fabric, process: Process, there: str, peer: Peer) -> None:
        self._fabric = fabric
        self.process = process
        self.here, self.there = process.machine, there
        self.peer = peer
        self.other: SimWire
        self._receiver: Receiver | None = None
        self._open = True
        self._paused = False
        self._waking = False
        self._window = fabric.chance.choice((16 << 10, 64 << 10, 1 << 20))
        self._queue: deque[memoryview | FileSlice] = deque()
        self._queued = 0
        self._high = False
        self._flight: deque[bytearray | None] = deque()  # on the path, oldest first; None is the end
        self._left_at = -1.0  # when the newest of those left
        self._held = 0  # of those, how many arrived at a cut
        self._unread = 0  # sent and not yet received by the peer
        self._owed = 0  # credit that a cut holds up
        self._earned = 0  # credit that is on its way to the peer since ``_earned_at``
        self._earned_at = -1.0
        self._free_at = 0.0
        self._arrived: deque[memoryview | None] = deque()
        self._ending = False
        self._peer_ended = False
        self._drained: asyncio.Future[None] | None = None
        fabric.wires[self] = None

    @classmethod
    def pair(cls, fabric: Fabric, ours: Process, theirs: Process, address: str) -> tuple[SimWire, SimWire]:
        """The two ends of a new connection."""
        near = Peer("tcp", address)
        far = Peer("tcp", f"{ours.machine}:{fabric.chance.randrange(32768, 61000)}")
        one, other = cls(fabric, ours, theirs.machine, near), cls(fabric, theirs, ours.machine, far)
        one.other, other.other = other, one
        return one, other

    # Receiving

    def start(self, receiver: Receiver) -> None:
        """Receive from now on, also what has arrived already."""
        self._receiver = receiver
        self._wake()

    def pause(self) -> None:
        """Receive nothing more until ``resume``; what arrives waits."""
        self._paused = True

    def resume(self) -> None:
        """Receive again, beginning with what has waited."""
        self._paused = False
        self._wake()

    def _wake(self) -> None:
        if not self._waking and self._arrived and self._open and not self._paused and self._receiver:
            self._waking = True
            self._fabric.loop.call_soon(self._receive, context=self.process.context)

    def _receive(self) -> None:
        self._waking = False
        for _ in range(4):
            if self._paused or not self._open or not self._arrived:
                return
            self._take_once()
        self._wake()

    def _take_once(self) -> None:
        """One receive: what lies there, as far as the buffer takes it, or the end."""
        receiver = self._receiver
        assert receiver is not None
        if self._arrived[0] is None:
            self._end(None)
            return
        buffer, n = receiver.buffer(), 0
        while self._arrived and n < len(buffer) and (piece := self._arrived[0]) is not None:
            part = piece[: len(buffer) - n]
            buffer[n : n + len(part)] = part
            n += len(part)
            self._arrived.popleft()
            if len(part) < len(piece):
                self._arrived.appendleft(piece[len(part) :])
        self._read(n)
        try:
            receiver.received(n)
        except Exception as error:
            self._end(error)
            raise

    def _read(self, n: int) -> None:
        """Room for the peer to send more, as soon as it hears of it."""
        fabric, now = self._fabric, self._fabric.loop.time()
        if self._earned and now == self._earned_at:
            self._earned += n
            return
        path = fabric.path(self.here, self.there)
        self._earned, self._earned_at = self._earned + n, now
        fabric.loop.call_later(
            fabric.chance.delay(path.latency_s), self.other._credit, context=self.other.process.context
        )

    def poll(self) -> bool:
        """Receive now what has arrived already. False: the end was met."""
        while self._open and self._arrived and not self._paused and self._receiver is not None:
            self._take_once()
        if self._open and self._paused and self._peer_ended:
            self._end(None)
        return self._open

    # Sending

    @property
    def backlog(self) -> int:
        """Bytes that were sent and that the peer's side has not taken yet."""
        return self._queued

    def send(self, buffers: Sequence[Buffer]) -> None:
        """Queue bytes for the peer; they arrive when the fabric says, or never."""
        if self._open and not self._ending and self.process.alive:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                if len(view):
                    self._queue.append(view)
                    self._queued += len(view)
            self._push()

    def send_file(self, file: File, offset: int, length: int, head: Sequence[Buffer] = ()) -> None:
        """Queue ``head``, then a range of a file, which is read when its turn comes."""
        if self._open and not self._ending and self.process.alive:
            self.send(head)
            if length:
                self._queue.append(FileSlice(file, offset, length))
                self._queued += length
            self._push()

    def _push(self) -> None:
        """What the kernel takes now: much at once, or all that there is; not every byte that becomes free."""
        while self._queue and self._open and self._window - self._unread >= min(self._queued, self._window // 4):
            try:
                piece = self._next_piece(self._window - self._unread)
            except OSError as error:  # of a file; told from the loop
                self._queue.clear()
                self._fabric.loop.call_soon(self._end, error, context=self.process.context)
                return
            self._queued -= len(piece)
            self._unread += len(piece)
            self._depart(piece)
        self._high = self._high or self._queued >= LOW_WATER
        if not self._queue and self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _next_piece(self, room: int) -> bytes:
        first = self._queue[0]
        size = min(len(first), room)
        if size > 1 and self._fabric.chance.hit(0.2):
            size = self._fabric.chance.randrange(1, size)
        if isinstance(first, FileSlice):
            piece = bytes(first.take(size))
            done = not first
        else:
            piece, self._queue[0] = bytes(first[:size]), first[size:]
            done = size == len(first)
        if done:
            self._queue.popleft()
        return piece

    def _depart(self, piece: bytes | None) -> None:
        fabric, path = self._fabric, self._fabric.path(self.here, self.there)
        if piece and (self.here, self.peer.address) == fabric.overheard and len(fabric.heard) < HEARD_MAX:
            fabric.heard.append(piece)
        if piece and fabric.chance.hit(path.bent):
            piece = self._bend(piece)
        now = fabric.loop.time()
        if piece and now == self._left_at and self._flight and self._flight[-1] and fabric.chance.hit(0.9):
            self._flight[-1] += piece  # what leaves at one instant mostly travels together
            self._free_at += len(piece) / path.bytes_per_s
            return
        self._flight.append(None if piece is None else bytearray(piece))
        self._left_at = now
        begin = max(now, self._free_at)
        self._free_at = begin + len(piece or b"") / path.bytes_per_s
        arrives = self._free_at + fabric.chance.delay(path.latency_s)
        fabric.loop.call_at(arrives, self._arrive, context=self.other.process.context)

    def _bend(self, piece: bytes) -> bytes:
        at = self._fabric.chance.randrange(len(piece))
        self._fabric.bent_bytes += 1
        return piece[:at] + bytes([piece[at] ^ 1 << self._fabric.chance.randrange(8)]) + piece[at + 1 :]

    def _arrive(self) -> None:
        """The oldest piece of the flight is there. (In the peer's context: if it is dead, nothing happens.)"""
        if not self._flight:
            return
        if not self._fabric.path(self.here, self.there).up:
            self._held += 1
            return
        piece, other = self._flight.popleft(), self.other
        self._fabric.trace.note("arrive", self.there, len(piece or b""), piece and xxhash.xxh3_64_intdigest(piece))
        if not other._open:
            self._fabric.loop.call_soon(self._reset, context=self.process.context)
            return
        if piece is None:
            other._peer_ended = True
        other._arrived.append(None if piece is None else memoryview(piece))
        other._wake()

    def _credit(self) -> None:
        """The peer has received so much."""
        n, self.other._earned = self.other._earned, 0
        self._credited(n)

    def _credited(self, n: int) -> None:
        if not self._fabric.path(self.there, self.here).up:
            self._owed += n
            return
        self._unread -= n
        self._push()
        if self._high and self._queued < LOW_WATER:
            self._high = False
            if self._receiver is not None and self._open:
                self._receiver.writable()

    def flow_again(self) -> None:
        """Our direction is whole again."""
        held, self._held = self._held, 0
        for _ in range(held):
            self._fabric.loop.call_later(
                self._fabric.chance.uniform(0.001, 0.4), self._arrive, context=self.other.process.context
            )

    def credit_again(self) -> None:
        """The other direction is whole again."""
        owed, self._owed = self._owed, 0
        if owed:
            self._fabric.loop.call_later(
                self._fabric.chance.uniform(0.001, 0.4), self._credited, owed, context=self.process.context
            )

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        """Not here."""
        raise NotImplementedError("TLS is not simulated")

    # Ending

    async def drain_and_close(self) -> None:
        """Wait until everything has been sent, then end in order."""
        self.pause()
        if self._queue and self._open:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        if self._open:
            self._ending = True
            self._depart(None)
            waited = 0.0
            while self._open and not self._peer_ended and waited < LINGER_S:
                self._arrived.clear()
                await asyncio.sleep(0.05)
                waited += 0.05
        self._end(None)

    def abort(self) -> None:
        """End at once; what was not delivered is lost."""
        if not self._open:
            return
        receiver, self._receiver = self._receiver, None
        self._end(None)
        self._tell_reset()
        if receiver is not None:
            self._fabric.loop.call_soon(receiver.closed, None, context=self.process.context)

    def _tell_reset(self) -> None:
        path = self._fabric.path(self.here, self.there)
        if path.up:
            self._fabric.loop.call_later(
                self._fabric.chance.delay(path.latency_s), self.other._reset, context=self.other.process.context
            )

    def _reset(self) -> None:
        self._end(ConnectionResetError(errno.ECONNRESET, "reset by the peer"))

    def lose_patience(self, path: Path, cut: int) -> None:
        """It was cut when we were asked to wait; if that is still so, it ends."""
        if self._open and self.process.alive and not path.up and path.cuts == cut:
            error = TimeoutError(errno.ETIMEDOUT, "the peer does not answer")
            self._fabric.loop.call_soon(self._end, error, context=self.process.context)

    def vanish(self, silently: bool) -> None:
        """Our process is no more."""
        self._open = False
        self._queue.clear()
        self._fabric.wires.pop(self, None)
        if not silently:
            self._tell_reset()
            return
        seconds = self._fabric.chance.uniform(0.2, PATIENCE_S)
        self._fabric.loop.call_later(seconds, self.other._reset, context=self.other.process.context)

    def _end(self, error: Exception | None) -> None:
        if not self._open:
            return
        self._open = False
        self._queue.clear()
        self._queued = 0
        self._fabric.wires.pop(self, None)
        if not self._ending and self.process.alive:
            self._tell_reset()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.closed(error)
