"""A connection on a socket of our own.

asyncio's streams copy and its transports allocate for every receive; here a wake-up is one ``recv_into``
into the session's buffer, and an answer one ``send``. After a wake-up has been worked through, the socket
is tried again at once, a few times: while 32 requests were being answered more have come, and finding
them costs a system call instead of a turn of the loop.

Sending is in order. ``send_queue.py`` holds what the kernel did not take, and only while it is empty does ``send``
go to the socket directly. A file's head is sent with MSG_MORE, so that on TCP it leaves in one packet with the
first of the file.

``_deaf`` is true if nothing more may be received: paused, closed, or handed over to TLS.

When TLS begins, the socket goes to asyncio and a ``TlsStream`` does the work; this object stays what the
session holds, and passes on.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import select
import socket
import ssl
import termios
import time
from collections.abc import Sequence
from typing import ClassVar

from revolume.host.disk import Buffer, File
from revolume.host.file_slice import FileSlice
from revolume.host.network import Peer, Receiver
from revolume.host.real.send_queue import VECTORS_MAX, SendQueue
from revolume.host.real.wire_tls import TlsStream

LOW_WATER = 256 << 10
LINGER_SECONDS = 1.0
"""How long an orderly end waits for the peer to end as well. Closing with unread input would make the
kernel reset the connection, and the peer would lose answers that it has not yet read."""


class SocketWire:
    """``network.Wire`` on a socket that does not block. ``accepted``: whether it is the server's side of a TLS
    handshake."""

    __slots__ = (
        "_accepted",
        "_deaf",
        "_drained",
        "_loop",
        "_low_water",
        "_open",
        "_parts",
        "_paused",
        "_queue",
        "_receiver",
        "_recv_into",
        "_rounds",
        "_send",
        "_sending",
        "_sendmsg",
        "_sock",
        "_tls",
        "peer",
    )

    spin_ns: ClassVar[int] = 0
    """How long to ask an empty socket again before going back to the loop."""

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        *,
        accepted: bool = True,
        rounds: int = 4,
        low_water: int = LOW_WATER,
    ) -> None:
        self.peer = peer
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._sendmsg = sock.sendmsg
        self._accepted = accepted
        self._rounds = range(rounds)
        self._low_water = low_water
        self._receiver: Receiver | None = None
        self._tls: TlsStream | None = None
        self._open = True
        self._sending = True  # until an error: what is sent after it goes nowhere
        self._paused = False
        self._deaf = True
        self._queue = SendQueue(sock)
        self._parts = self._queue.parts
        self._drained: asyncio.Future[None] | None = None

    # Receiving

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._tls is not None:
            self._tls.start(receiver)
        self._listen_again()

    def pause(self) -> None:
        self._paused = True
        if self._tls is not None:
            self._tls.pause()
        elif not self._deaf:
            self._deafen()

    def resume(self) -> None:
        self._paused = False
        if self._tls is not None:
            self._tls.resume()
        else:
            self._listen_again()

    def _deafen(self) -> None:
        self._deaf = True
        self._loop.remove_reader(self._sock.fileno())

    def _listen_again(self) -> None:
        if self._deaf and self._open and not self._paused and self._tls is None and self._receiver:
            self._deaf = False
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        receiver, recv_into = self._receiver, self._recv_into
        assert receiver is not None
        for _ in self._rounds:
            try:
                n = recv_into(receiver.buffer())
            except (BlockingIOError, InterruptedError):
                if not self.spin_ns or not (n := self._spin(receiver)):
                    return
            except OSError as error:
                self._end(error)
                return
            if not n:
                self._end(None)
                return
            try:
                receiver.received(n)
            except Exception as error:
                self._end(error)
                raise
            if self._deaf:
                return

    def _spin(self, receiver: Receiver) -> int:
        """Bytes received within ``spin_ns``; 0 for none. The end is left for the loop to find."""
        until = time.monotonic_ns() + self.spin_ns
        while time.monotonic_ns() < until:
            try:
                return self._recv_into(receiver.buffer())
            except BlockingIOError:
                continue
            except OSError:
                return 0
        return 0

    def poll(self) -> bool:
        if self._tls is not None:
            if self._tls.open and hung_up(self._sock):
                self._tls.end(None)
        elif self._open and self._receiver is not None:
            self._receive_arrived()
            if self._open and self._deaf and hung_up(self._sock):
                self._end(None)
        return self._open

    def _receive_arrived(self) -> None:
        """What lies in the kernel at this moment, and the end if that is what follows; not what a busy
        peer adds meanwhile."""
        receiver = self._receiver
        assert receiver is not None
        missing = _arrived(self._sock)
        while missing >= 0 and not self._deaf:
            try:
                n = self._recv_into(receiver.buffer())
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(error)
                return
            if not n:
                self._end(None)
                return
            missing -= n
            self._deliver(receiver, n)

    def _deliver(self, receiver: Receiver, n: int) -> None:
        """Within somebody else's call: a fault of this session is not the caller's."""
        try:
            receiver.received(n)
        except Exception as error:
            self._end(error)
            self._loop.call_exception_handler({"message": "a session failed", "exception": error})

    # Sending

    @property
    def backlog(self) -> int:
        return self._queue.bytes if self._tls is None else self._tls.backlog

    def send(self, buffers: Sequence[Buffer]) -> None:
        if self._tls is not None:
            self._tls.send(buffers)
            return
        if self._parts or not self._sending:
            self._enqueue(buffers, 0)
            return
        try:
            if len(buffers) == 1:
                sent = self._send(buffers[0])
                if sent == len(buffers[0]):
                    return
            else:
                sent = self._sendmsg(buffers if len(buffers) <= VECTORS_MAX else buffers[:VECTORS_MAX])
                if sent == sum(map(len, buffers)):
                    return
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._fail(error)
            return
        self._enqueue(buffers, sent)

    def _enqueue(self, buffers: Sequence[Buffer], sent: int) -> None:
        """Queues what follows the first ``sent`` bytes."""
        if not self._sending:
            return
        was_empty = not self._parts
        self._queue.put(buffers, sent)
        if was_empty and self._parts:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def send_file(self, file: File, offset: int, length: int, head: Sequence[Buffer] = ()) -> None:
        if self._tls is not None:
            self._tls.send_file(file, offset, length, head)
            return
        part, sent = FileSlice(file, offset, length), 0
        if not self._parts and self._sending:
            try:
                sent = self._queue.send_head(head)
                if sent == sum(map(len, head)) and length:
                    part.forget(part.send_to(self._sock.fileno()))
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._fail(error)
                return
        self._enqueue(head, sent)
        self._enqueue_file(part)

    def _enqueue_file(self, part: FileSlice) -> None:
        if not self._sending or not part:
            return
        if not self._parts:
            self._loop.add_writer(self._sock.fileno(), self._on_writable)
        self._queue.put_file(part)

    def _on_writable(self) -> None:
        before = self._queue.bytes
        try:
            self._queue.send()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._end(error)
            return
        if not self._parts:
            self._loop.remove_writer(self._sock.fileno())
            self._tell_drained()
        if before >= self._low_water > self._queue.bytes and self._receiver is not None:
            self._receiver.writable()

    def _fail(self, error: OSError) -> None:
        """A send failed within somebody's call: the end is told from the loop, not from in there."""
        self._sending = False
        self._loop.call_soon(self._end, error)

    async def _wait_drained(self) -> None:
        while self._parts:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _tell_drained(self) -> None:
        waiting, self._drained = self._drained, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    # TLS

    async def start_tls(self, context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        assert self._tls is None, "TLS has begun already"
        if not self._deaf:
            self._deafen()
        await self._wait_drained()
        if not self._open:
            raise ConnectionError("the connection ended before TLS began")
        self._tls = TlsStream(self._end, self.peer, self._low_water)
        self._tls.start(self._receiver)
        if self._paused:
            self._tls.pause()
        try:
            if self._accepted:
                await self._tls.accept(self._sock, context)
            else:
                await self._tls.connect(self._sock, context, server_hostname)
        except BaseException as error:
            self._end(error if isinstance(error, Exception) else None)
            raise
        if not self._open:
            raise ConnectionError("the connection ended while TLS began")
        self.peer = self._tls.peer

    # Ending

    async def drain_and_close(self) -> None:
        if self._tls is not None:
            await self._tls.drain_and_close()
            return
        self.pause()
        await self._wait_drained()
        if self._open:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
                await self._linger()
        self._end(None)

    async def _linger(self) -> None:
        """Throws away what the peer still sends, until it ends too or time is up."""
        waste = bytearray(64 << 10)
        deadline = self._loop.time() + LINGER_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while self._open and await self._loop.sock_recv_into(self._sock, waste):
                    await asyncio.sleep(0)

    def abort(self) -> None:
        """What is queued is dropped; the descriptor is closed now, the session is told from the loop."""
        if self._open:
            receiver, self._receiver = self._receiver, None
            self._end(None)
            if receiver is not None:
                self._loop.call_soon(receiver.closed, None)

    def _end(self, error: Exception | None) -> None:
        if not self._open:
            return
        self._open = self._sending = False
        self._deaf = True
        self._queue.clear()
        tls, self._tls = self._tls, None
        if tls is not None:
            tls.end(error)
        elif self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._tell_drained()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.closed(error)


def hung_up(sock: socket.socket) -> bool:
    """The peer has ended its side, whatever it sent before."""
    if sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def _arrived(sock: socket.socket) -> int:
    """Bytes that the kernel holds for us."""
    count = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, count)
    return count[0]
