"""The transmission phase of one connection: requests in batches, answers in batches.

A batch is what one wake-up of the socket brought. Its changes become one ``append``, its small reads one
``read_now``, its answers one send; whatever waits for something becomes a *job*, a task that answers
alone. Per request little is done here but sorting:

    changes  -> one run, appended at the end of the batch; answers by position
    reads    -> one run, after the changes
    FLUSH, FUA -> one job for all of a batch, waiting for one position to be durable
    large reads, block status, CACHE -> a job each, begun after the changes

Order. Everything sees the changes that came before it. A change that meets a read which came before it
in the batch makes the batch be executed up to there first, so a read does not see the future either.
Between awaits nothing else runs: ``execute`` is atomic, except when the export has no room.

Answers may wait for long: what is unanswered is counted (``unanswered.py``), and beyond a bound the session reads
no further (``held``).

No room (NoRoomNow): the run is kept, with the rest of the batch behind it, in order; the session reads no
further (``held``); when there is room everything goes on where it stopped. If the connection ends
meanwhile, none of it is done (``abandon``): what a dead client sent must not be done after a living one
was let in.
"""

from __future__ import annotations

import asyncio
import weakref
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from revolume.errors import GaveWay, RevolumeError
from revolume.log.ops import OP_TRIM, OP_WRITE, OP_ZERO, NoRoomNow, Op
from revolume.nbd.budget import Account
from revolume.nbd.constants import Command, Errno
from revolume.nbd.errors import ExportError, sentence, wire_errno
from revolume.nbd.jobs import Job, Jobs
from revolume.nbd.limits import Limits
from revolume.nbd.reads import INLINE_BYTES_MAX, Late, LateReader, ReadRun, Scratch
from revolume.nbd.replies import Encoder, clip
from revolume.nbd.transmission import DF_BIT, FUA_BIT, LEGAL, REQ_ONE_BIT, Request, fault
from revolume.nbd.unanswered import Tally

if TYPE_CHECKING:
    from revolume.nbd.export import Export

_WRITE: Final = int(Command.WRITE)
_READ: Final = int(Command.READ)
_OPS: Final = {Command.WRITE: OP_WRITE, Command.WRITE_ZEROES: OP_ZERO, Command.TRIM: OP_TRIM}

OPS_MAX: Final = 256
"""Changes in one ``append``: what one call adds to a map stays small whatever a client sends."""

_NOTHING: Final = memoryview(b"")

_log = structlog.get_logger("revolume.nbd")


class Port(Protocol):
    """What the executor needs of its session."""

    def send(self, buffers: list[memoryview]) -> None:
        """Send answers."""

    @property
    def backlog(self) -> int:
        """Bytes of answers that the socket did not take yet."""

    @property
    def blocked_bytes(self) -> int:
        """The same, but 0 for so little that nobody is told when it is gone (``Executor.note_writable``)."""

    @property
    def clogged(self) -> bool:
        """The client does not take its answers: begin nothing that makes more of them."""

    def go_on(self) -> None:
        """The executor takes requests again."""


class Executor:
    """Does what the requests of one connection ask."""

    def __init__(
        self,
        export: Export,
        encoder: Encoder,
        contexts: tuple[str, ...],
        limits: Limits,
        account: Account,
        tally: Tally,
        scratch: Scratch,
        port: Port,
    ) -> None:
        self.export = export
        self._encoder = encoder
        self._contexts = contexts if encoder.chunked else ()
        self._limits = limits
        self._port = port
        self._tally = tally
        self._scratch = scratch
        self._late = LateReader(export, encoder, account, port, limits.read_ahead_bytes)
        self._one_answer = asyncio.Lock()  # block status and CACHE take memory, so they take turns
        self.leaving = False  # the client said DISC, or its export was ended
        self.stopping = False  # requests are answered with ESHUTDOWN
        self._roomless = False
        self.requests = 0
        # the batch under way
        self._view = _NOTHING
        self._bytes = 0  # in which requests came that are not yet counted as unanswered
        self._rest: list[Request] = []
        self._ops: list[Op] = []
        self._plain: list[bytes] = []  # tokens of the changes in _ops, by what their answers wait for
        self._fua: list[bytes] = []
        self._reads = ReadRun(export, encoder, scratch)
        self._begin: list[tuple[bytes, Job]] = []  # jobs that begin after the changes
        self._synced: list[bytes] = []  # tokens that wait for the position to be durable
        self._done: list[bytes] = []
        self._out: list[memoryview] = []
        # what waits
        self._jobs = Jobs(self._fail_all, self._on_job_finished)
        self._unreleased: dict[int, tuple[list[bytes], int]] = {}  # tokens, and the bytes in which they came
        self._releases = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # --- the batch ---------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """No requests are taken now. After whatever may change that, ``Port.go_on`` is called."""
        return (
            self._roomless or bool(self._rest) or len(self._jobs) >= self._limits.jobs_max or self._tally.full
        )

    def execute(self, requests: list[Request], view: memoryview, count: int) -> None:
        """Do the requests, which lie in ``view`` and have ``count`` bytes. Not while ``held``."""
        self.requests += len(requests)
        self._bytes += count
        if self.stopping or self.leaving:
            self._turn_away(requests)
        else:
            self._view = view
            self._run(requests)
        self._answer()
        if not self._rest and not self._ops:
            self._view = _NOTHING
            self._bytes = 0  # of reads, flushes and the like: no payload of theirs is kept

    def _run(self, requests: list[Request]) -> None:
        size = self.export.size
        writable = not self.export.read_only
        ops, plain, reads, view = self._ops, self._plain, self._reads, self._view
        for index, request in enumerate(requests):
            kind, token, offset, length, place = request
            if kind == _WRITE and place > 0 and offset + length <= size and writable:
                if reads.bytes and reads.meets(offset, length) and not self._commit():
                    return self._keep(requests[index:])
                ops.append((OP_WRITE, offset, length, view[place : place + length]))
                plain.append(token)
                if len(ops) >= OPS_MAX and not self._commit():
                    return self._keep(requests[index + 1 :])
            elif kind == _READ and 0 < length <= INLINE_BYTES_MAX and offset + length <= size:
                if reads.add(token, offset, length) and not self._answer_reads():
                    return self._keep(requests[index + 1 :])
            else:
                if not self._take_other(request, size, writable):
                    if not self._roomless:
                        self._commit()
                    return self._keep(requests[index:])
                if self.leaving:
                    break
                if len(ops) >= OPS_MAX and not self._commit():
                    return self._keep(requests[index + 1 :])
        self._commit()
        return None

    def _answer_reads(self) -> bool:
        """A run of reads is long enough. False: execute no more for now."""
        if not self._commit():
            return False
        self._answer()
        return not self._port.clogged

    def _keep(self, rest: list[Request]) -> None:
        self._rest = rest

    def _commit(self) -> bool:
        """Execute what was sorted so far; False if there is no room for it now."""
        if self._ops and not self._append():
            return False
        if self._synced:
            synced, self._synced = self._synced, []
            self._start_job(synced, partial(self._answer_durable, self.export.position, synced))
        if self._reads.bytes:
            self._read()
        if self._begin:
            begin, self._begin = self._begin, []
            for token, job in begin:
                self._start_job([token], job)
        return True

    def _append(self) -> bool:
        try:
            position = self.export.append(self._ops)
        except NoRoomNow:
            if not self._roomless:
                self._roomless = True
                self._start_job([], self._make_room)
            return False
        except Exception as error:
            self._fail_changes(error)
            return True
        self._ops.clear()
        if self._fua:
            self._synced += self._fua
            self._fua.clear()
        if self._plain:
            self._answer_released(position)
        return True

    def _answer_released(self, position: int) -> None:
        count, self._bytes = self._bytes, 0
        if self.export.released(position):
            self._done += self._plain
            self._plain.clear()
            return
        self._releases += 1
        self._unreleased[self._releases] = (self._plain.copy(), count)
        self._tally.add(len(self._plain), count)
        self._plain.clear()
        self._idle.clear()
        self.export.on_release(position, partial(_on_release, weakref.ref(self), self._releases))

    def _on_release(self, number: int) -> None:
        group = self._unreleased.pop(number, None)
        if group is not None:
            tokens, count = group
            self._tally.drop(len(tokens), count)
            self._done += tokens
            self._answer()
            self._note_idle()
            self._port.go_on()

    def _read(self) -> None:
        try:
            late = self._reads.execute(self._out)
        except Exception:
            late = self._reads.take()  # each is tried alone, so that one bad block fails one read
        for read in late:
            self._start_job([read.token], partial(self._late.answer, read))

    def _answer(self) -> None:
        """Send what is ready."""
        if self._done:
            self._out.insert(0, memoryview(self._encoder.done(self._done)))
            self._done.clear()
        if self._out:
            out, self._out = self._out, []
            self._port.send(out)
            if self._scratch.used:
                self._scratch.recycle(not self._port.backlog)

    # --- requests that are not plain reads and writes ----------------------------------------------------

    def _take_other(self, request: Request, size: int, writable: bool) -> bool:
        """Sort one request in; False if it must be shown again later."""
        kind, token = request[:2]
        wrong = fault(request, size, not writable, self._limits.payload_bytes_max)
        if wrong is not None and LEGAL.get(kind) is not Command.DISC:
            self._fail(token, *wrong)
            return True
        command = LEGAL[kind]
        if command is Command.DISC:
            self.leaving = True
        elif command is Command.FLUSH:
            self._synced.append(token)
        elif command in _OPS:
            return self._take_change(request, _OPS[command])
        else:
            return self._take_job(command, request)
        return True

    def _take_change(self, request: Request, op: int) -> bool:
        kind, token, offset, length, place = request
        if not length:
            self._done.append(token)
            return True
        if self._reads.bytes and self._reads.meets(offset, length) and not self._commit():
            return False
        payload = self._view[place : place + length] if op == OP_WRITE else None
        self._ops.append((op, offset, length, payload))
        (self._fua if kind & FUA_BIT else self._plain).append(token)
        return True

    def _take_job(self, command: Command, request: Request) -> bool:
        _, token, offset, length, _ = request
        if command is Command.READ and not length:
            self._out.append(memoryview(self._encoder.empty(token)))
            return True
        if command is Command.READ and length <= INLINE_BYTES_MAX:
            return self._take_flagged_read(token, offset, length)
        if command is Command.BLOCK_STATUS and not self._contexts:
            self._fail(token, Errno.EINVAL, "no metadata context was selected")
            return True
        if len(self._jobs) + len(self._begin) >= self._limits.jobs_max:
            return False
        self._begin.append((token, self._job(command, request)))
        return True

    def _take_flagged_read(self, token: bytes, offset: int, length: int) -> bool:
        """A small read with DF or FUA: those are answered in one piece anyway."""
        if self._reads.add(token, offset, length):
            self._commit()
        return True

    def _job(self, command: Command, request: Request) -> Job:
        kind, token, offset, length, _ = request
        if command is Command.READ:
            return partial(self._late.answer, Late(token, offset, length, whole=bool(kind & DF_BIT)))
        if command is Command.BLOCK_STATUS:
            return partial(self._answer_status, token, offset, length, bool(kind & REQ_ONE_BIT))
        return partial(self._answer_cache, token, offset, length)

    def _fail(self, token: bytes, errno: Errno, cause: str) -> None:
        self._out.append(memoryview(self._encoder.failure(token, errno, cause)))

    def _fail_all(self, tokens: list[bytes], error: BaseException) -> None:
        if isinstance(error, MemoryError):
            _log.error("no memory for a request", requests=len(tokens))
        elif not isinstance(error, RevolumeError | OSError):
            _log.error("a request failed", exc_info=error)
        if isinstance(error, GaveWay):  # nothing more is to be had here: this is answered, then it is closed
            self.leaving = True
        for token in tokens:
            self._fail(token, wire_errno(error), sentence(error))

    def _fail_changes(self, error: BaseException) -> None:
        """The run cannot be appended: all its requests fail, nothing of it was done."""
        self._fail_all(self._plain + self._fua, error)
        self._ops.clear()
        self._plain.clear()
        self._fua.clear()

    def _turn_away(self, requests: list[Request]) -> None:
        for kind, token, *_ in requests:
            if LEGAL.get(kind) is Command.DISC:
                self.leaving = True
            elif not self.leaving:
                self._fail(token, Errno.ESHUTDOWN, "the server is stopping")

    # --- jobs --------------------------------------------------------------------------------------------

    def _start_job(self, tokens: list[bytes], job: Job) -> None:
        self._idle.clear()
        self._tally.add(len(tokens))
        self._jobs.start(tokens, job)

    def _on_job_finished(self, requests: int) -> None:
        self._tally.drop(requests)
        self._answer()
        self._note_idle()
        self._port.go_on()

    async def _make_room(self) -> None:
        """Wait for room, then go on with the batch that had none."""
        while True:
            try:
                await self.export.room(self._ops)
            except Exception as error:
                self._fail_changes(error)
            if self._commit():
                break
            await asyncio.sleep(0)
        self._roomless = False
        self.take_rest()

    def take_rest(self) -> None:
        """Go on with what was kept of a batch, if that is possible now."""
        if self._rest and not self._roomless and not self._port.clogged:
            rest, self._rest = self._rest, []
            self._run(rest)
            self._answer()

    async def _answer_durable(self, position: int, tokens: list[bytes]) -> None:
        await self.export.durable(position)
        self._done += tokens

    async def _answer_cache(self, token: bytes, offset: int, length: int) -> None:
        if length:
            async with self._one_answer:
                await self.export.cache(offset, length)
        self._done.append(token)

    async def _answer_status(self, token: bytes, offset: int, length: int, one: bool) -> None:
        async with self._one_answer:
            await self._late.unblocked()
            chunks = []
            for number, context in enumerate(self._contexts):
                extents = clip(await self.export.extents(context, offset, length), length, one)
                last = number == len(self._contexts) - 1
                chunks.append(memoryview(self._encoder.status(token, number, extents, last)))
            self._port.send(chunks)

    def note_writable(self) -> None:
        """The client has taken answers."""
        self._late.note_moved()

    # --- the end -----------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests that wait for something."""
        return self._tally.requests + len(self._ops) + len(self._rest)

    def _note_idle(self) -> None:
        if not self._jobs and not self._unreleased:
            self._idle.set()

    async def finished(self) -> None:
        """Wait until everything taken has been answered."""
        await self._idle.wait()

    def give_up(self) -> None:
        """Answer all that still waits with ESHUTDOWN."""
        rest = self._rest.copy()
        tokens = self._jobs.tokens + self._synced + self._plain + self._fua
        tokens += [token for group, _ in self._unreleased.values() for token in group]
        tokens += [token for token, _ in self._begin] + [read.token for read in self._reads.take()]
        self.abandon()
        self._fail_all(tokens, ExportError("stopping", "the server is stopping", errno=Errno.ESHUTDOWN))
        self._turn_away(rest)
        self._answer()

    def abandon(self) -> None:
        """Nothing of what waits is done or answered any more. What was appended stays."""
        self._jobs.abandon()
        self._reads.take()
        for waiting in (self._begin, self._rest, self._ops, self._plain, self._fua, self._synced):
            waiting.clear()
        self._unreleased.clear()
        self._tally.clear()
        self._view = _NOTHING
        self._idle.set()


def _on_release(executor: weakref.ref[Executor], number: int) -> None:
    """A mirror may be away for long: who waits for it is not what keeps a connection's remains in memory."""
    there = executor()
    if there is not None:
        there._on_release(number)
