"""One connection of a mirror: frames in and out. What they mean is its session's business.

    received    every whole frame that has arrived is looked at in place and handed to the session, which is told
                when that was all (``settled``): so it can store a batch at once and acknowledge it at once
    sent        control frames in one piece, transfers through the wire's own ``send`` and ``send_file``
    hold        the session can't take more now (no room): nothing is received, views of frames stay valid
    heartbeat   PING when nothing else was sent for a second; the peer is lost when nothing was heard for ten, or
                when it has taken nothing of what is sent for thirty

``expected`` is the table of what may come now: type -> most bytes of its body. A frame that is not in it, is
longer, or carries another session's id ends the connection before anything is allocated for it.

However it ends, ``ended`` has the reason as a sentence, and the session's ``ended`` is called once, from the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from revolume.errors import RevolumeError
from revolume.host import Host
from revolume.host.clock import within
from revolume.host.disk import Buffer, File
from revolume.host.error_text import error_text
from revolume.host.network import Peer, Wire
from revolume.host.receive_buffer import Inbox
from revolume.mirror.wire.frames import (
    FRAME,
    FRAME_SIZE,
    ProtocolError,
    Type,
    body_of,
    control,
    name_of,
)
from revolume.mirror.wire.session_messages import Refusal, pack_refusal

GREETING_BUFFER: Final = 8192
"""Until the peer is known it gets no more memory than this."""
BUFFER: Final = 4 << 20
TICK_SECONDS: Final = 1.0
QUIET_TICKS: Final = 3
SILENT_TICKS_MAX: Final = 10
STUCK_TICKS_MAX: Final = 30
UNREAD_BYTES_MAX: Final = 64 << 20
"""More than any session leaves unsent: who gets there has a peer that only talks."""
FAREWELL_SECONDS: Final = 2.0

_PING: Final = int(Type.PING)
_REFUSED: Final = int(Type.REFUSED)


Result = TypeVar("Result")


class Session(Protocol):
    """What a link serves."""

    def frame(self, kind: int, frame: memoryview) -> None:
        """A whole frame of an expected type; the view is valid until ``settled`` returns, or until the link goes
        on if it was held."""

    def settled(self) -> None:
        """That was all that has arrived."""

    def writable(self) -> None:
        """The backlog has become small."""

    def ended(self, reason: str) -> None:
        """Once, and nothing follows it."""


class Link:
    """One connection. It has more methods than other classes, because a connection has one state that receiving,
    sending, the heartbeat, the tasks beside it and every way to end share: apart they would hand it to each
    other."""

    def __init__(self, host: Host, wire: Wire, expected: Mapping[int, int]) -> None:
        self.host = host
        self.session = 0
        self.version = 0
        """Of the protocol, as both ends speak it; 0 until the session says so."""
        self.session_frame: int | None = None
        """The type of frame from which we learn the session's id."""
        self.expected = expected
        self.bytes_in = 0
        self.bytes_out = 0
        self.reason: str | None = None
        self.refusal: Refusal | None = None
        self._wire = wire
        self._user: Session | None = None
        self._inbox = Inbox(GREETING_BUFFER)
        self._held = False
        self._parsing = False
        self._heard = True
        self._said = True
        self._silent_ticks = 0
        self._stuck_ticks = 0
        self._taken = 0
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._leaving: asyncio.Task[None] | None = None

    def start(self, user: Session) -> None:
        """Receive, and keep the heart beating."""
        self._user = user
        self.spawn(self._beat())
        self._wire.start(self)

    @property
    def peer(self) -> Peer:
        """Who is there."""
        return self._wire.peer

    @property
    def backlog(self) -> int:
        """Bytes that the kernel has not yet taken."""
        return self._wire.backlog

    @property
    def silent(self) -> bool:
        """The peer has said nothing for so long that it may be lost; who lives says something every second."""
        return self._silent_ticks >= QUIET_TICKS

    @property
    def held(self) -> bool:
        """Nothing is received for now."""
        return self._held

    @property
    def open(self) -> bool:
        """Nothing has ended it."""
        return self.reason is None

    def welcome(self, buffer_bytes: int = BUFFER) -> None:
        """The peer is known: it gets a buffer worth its while."""
        inbox, self._inbox = self._inbox, Inbox(buffer_bytes)
        self._inbox.put(bytes(inbox.view[inbox.start : inbox.end]))

    # Receiving

    def buffer(self) -> memoryview:
        return self._inbox.tail()

    def received(self, n: int) -> None:
        self._inbox.end += n
        self.bytes_in += n
        self._heard = True
        self._work()

    def _work(self) -> None:
        user = self._user
        assert user is not None
        self._parsing = True
        try:
            self._parse(user)
            user.settled()
        except ProtocolError as error:
            self.break_off(error.cause)
        except RevolumeError as error:
            self.refuse(error)
        finally:
            self._parsing = False

    def _parse(self, user: Session) -> None:
        """Hand out whole frames until one is not whole, the link is held, or it has ended. What the session makes
        of the last bytes may swap the inbox (``welcome``), so it is asked for anew each time."""
        while not self._held and self.reason is None:
            inbox = self._inbox
            start = inbox.start
            if inbox.end - start < FRAME_SIZE:
                inbox.needed = 0
                return
            length, kind, _, zero, session = FRAME.unpack_from(inbox.view, start)
            limit = self.expected.get(kind, -1)
            if length > limit or zero or (session != self.session and not self._acceptable(kind, session)):
                raise self._unexpected(kind, length, limit, session)
            stop = start + FRAME_SIZE + length
            if stop > inbox.end:
                self._want(inbox, FRAME_SIZE + length)
                return
            inbox.start = stop
            if kind == _PING:
                body_of(inbox.view[start:stop])
                continue
            user.frame(kind, inbox.view[start:stop])

    def _want(self, inbox: Inbox, size: int) -> None:
        inbox.needed = size
        if size > inbox.size:
            inbox.resize(size)
        elif inbox.oversize and size <= BUFFER:
            inbox.shrink()

    def _acceptable(self, kind: int, session: int) -> bool:
        """The frame that names the session; a refusal in its place; a PING, which may have been under way before
        there was a name."""
        if kind == self.session_frame and not self.session and session:
            self.session = session
        if kind == _REFUSED and not self.session:
            return True
        return kind == _PING or session == self.session

    def _unexpected(self, kind: int, length: int, limit: int, session: int) -> ProtocolError:
        if limit < 0:
            return ProtocolError(f"A frame {name_of(kind)} came where none is expected.")
        if length > limit:
            return ProtocolError(f"A frame {name_of(kind)} of {length} bytes; {limit} are allowed.")
        if session != self.session:
            return ProtocolError(f"A frame {name_of(kind)} of another session.")
        return ProtocolError(f"A frame {name_of(kind)} whose header is not clean.")

    def hold(self) -> None:
        """Receive nothing more for now."""
        if not self._held:
            self._held = True
            self._wire.pause()

    def go_on(self) -> None:
        """Look at what has arrived meanwhile, and receive again."""
        if not self._held or self.reason is not None:
            return
        self._held = False
        if not self._parsing:
            self._work()
        if not self._held and self.reason is None:
            self._wire.resume()

    def drain(self) -> None:
        """Take now what the peer has sent already."""
        if self.reason is None and not self._held:
            self._wire.poll()

    # Sending

    def send(self, buffers: Sequence[Buffer], size: int) -> None:
        """``size`` bytes of frames."""
        self._said = True
        self.bytes_out += size
        self._wire.send(buffers)

    def send_control(self, kind: int, body: Buffer = b"", *, flags: int = 0) -> None:
        """A control frame."""
        frame = control(kind, self.session, body, flags=flags)
        self.send([frame], len(frame))

    def send_with_payload(self, kind: int, body: bytes, payload: Sequence[Buffer], *, flags: int = 0) -> int:
        """A control part and its payload; the bytes sent."""
        size = sum(map(len, payload))
        frame = control(kind, self.session, body, payload=size, flags=flags)
        self.send([frame, *payload], len(frame) + size)
        return len(frame) + size

    def send_file(self, head: bytes, file: File, offset: int, length: int) -> None:
        """A frame whose payload lies in a file."""
        self._said = True
        self.bytes_out += len(head) + length
        self._wire.send_file(file, offset, length, [head])

    # The heart

    async def _beat(self) -> None:
        while True:
            await self.host.clock.sleep(TICK_SECONDS)
            self._listen()
            self._watch_backlog()
            if not self._said:
                self.send_control(Type.PING)
            self._said = False

    def _listen(self) -> None:
        """While we do not listen ourselves, silence says nothing; that the peer has hung up does."""
        self._silent_ticks = 0 if self._heard or self._held else self._silent_ticks + 1
        self._heard = False
        if self._held:
            self._wire.poll()
        if self._silent_ticks >= SILENT_TICKS_MAX:
            raise ProtocolError(f"Nothing was heard for {SILENT_TICKS_MAX} seconds.")

    def _watch_backlog(self) -> None:
        backlog = self._wire.backlog
        taken = self.bytes_out - backlog
        moving = taken != self._taken or not backlog
        self._taken = taken
        self._stuck_ticks = 0 if moving else self._stuck_ticks + 1
        if self._stuck_ticks >= STUCK_TICKS_MAX or backlog > UNREAD_BYTES_MAX:
            raise ProtocolError("It takes nothing of what is sent to it.")

    # Tasks that live no longer than the link

    def spawn(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run beside the link; what it raises ends the link in order."""
        task = asyncio.get_running_loop().create_task(self._guarded(job))
        self._tasks[task] = None

        def over(done: asyncio.Task[None]) -> None:
            self._tasks.pop(done, None)
            job.close()  # cancelled before it began, it has not been awaited

        task.add_done_callback(over)
        return task

    async def _guarded(self, job: Coroutine[Any, Any, None]) -> None:
        try:
            await job
        except ProtocolError as error:
            self.break_off(error.cause)
        except RevolumeError as error:
            self.refuse(error)
        except OSError as error:
            self.break_off(f"This node's disk failed: {error_text(error)}")
        except Exception as error:
            self.break_off(f"A fault of this node's own: {error!r}.")
            asyncio.get_running_loop().call_exception_handler({"message": "a mirror failed", "exception": error})

    async def finished(self) -> None:
        """Nothing of it runs any more."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._leaving is not None:
            await asyncio.wait([self._leaving])

    # Ending

    def refuse(self, error: RevolumeError) -> None:
        """Tell the peer why, and end in order."""
        if self.reason is not None:
            return
        self.send_control(Type.REFUSED, pack_refusal(Refusal(error.code, error.cause, error.hint)))
        self.refusal = Refusal(error.code, error.cause, error.hint)
        self._end(str(error))
        self._leaving = asyncio.get_running_loop().create_task(self._leave())

    def refused(self, refusal: Refusal) -> None:
        """The peer has told us why, and ends."""
        self.refusal = refusal
        self._end(f"{refusal.cause} {refusal.hint}".strip())
        self._wire.abort()

    def break_off(self, reason: str) -> None:
        """End at once."""
        self._end(reason)
        self._wire.abort()

    async def close(self) -> None:
        """An orderly end of our own: what was sent arrives."""
        self._end("Closed.")
        await self._leave()

    async def _leave(self) -> None:
        try:
            await within(self.host.clock, FAREWELL_SECONDS, self._wire.drain_and_close())
        except TimeoutError:
            self._wire.abort()

    def closed(self, error: Exception | None) -> None:
        self._end("The connection was closed." if error is None else f"The connection failed: {error_text(error)}")

    def writable(self) -> None:
        if self.reason is None and self._user is not None:
            self._user.writable()

    def _end(self, reason: str) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        self._held = True
        current = asyncio.current_task()
        for task in list(self._tasks):
            if task is not current:
                task.cancel()
        if self._user is not None:
            asyncio.get_running_loop().call_soon(self._user.ended, reason)


async def finish_uncancelled(job: Coroutine[Any, Any, Result]) -> Result:
    """``job``, done to its end even if the link that began it ends meanwhile: the next one's must not run beside
    it."""
    task = asyncio.ensure_future(job)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # nobody is there any more to be told
        raise
