"""The transmission phase of one connection: requests in batches, replies in batches.

A batch is what one wake-up of the socket brought. Its changes become one ``append`` (``change_run.py``), its small
reads one ``read_now`` (``reads.py``), its replies one send (``reply_queue.py``); whatever waits for something
becomes a *job*, a task that answers alone (``waiting_requests.py``). Per request little is done here but sorting:

    changes  -> one run, appended at the end of the batch; answered by position
    reads    -> one run, after the changes
    FLUSH, FUA -> one job for all of a batch, waiting for one position to be durable
    large reads, block status, CACHE -> a job each, begun after the changes

Order. Every request sees the changes that came before it. A change that overlaps a read which came before it
in the batch makes the batch be executed up to there first, so a read does not see later changes either.
Between awaits nothing else runs: ``execute`` is atomic, except when the export has no room.

Replies may wait for long: what is unanswered is counted (``unanswered.py``), and beyond a bound the session reads
no further (``blocked``).

No room (WouldBlock): the run is kept, with the rest of the batch behind it, in order; the session reads no
further (``blocked``); when there is room everything goes on where it stopped. If the connection ends
meanwhile, none of it is done (``abandon``): what a dead client sent must not be done after a living one
was let in, or has written on another connection. A session that does not read is not told of the end, so it is
asked for (``still_there``) before anything that waited is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from revolume.errors import GaveWay
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, WouldBlock
from revolume.nbd.bounds.budget import Account
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.bounds.unanswered import Tally
from revolume.nbd.server.change_run import OPS_MAX, ChangeRun
from revolume.nbd.server.jobs import Job
from revolume.nbd.server.outlet import Outlet
from revolume.nbd.server.reads import INLINE_BYTES_MAX, DeferredRead, DeferredReader, ReadRun, Scratch
from revolume.nbd.server.reply_queue import ReplyQueue
from revolume.nbd.server.slow_requests import SlowRequests
from revolume.nbd.server.waiting_requests import WaitingRequests
from revolume.nbd.wire.constants import Command, Errno
from revolume.nbd.wire.errors import ExportError
from revolume.nbd.wire.replies import Encoder
from revolume.nbd.wire.requests import LEGAL, Request, fault

if TYPE_CHECKING:
    from revolume.nbd.export import Export

_WRITE: Final = int(Command.WRITE)
_READ: Final = int(Command.READ)
_OPS: Final = {Command.WRITE: OP_WRITE, Command.WRITE_ZEROES: OP_ZERO, Command.TRIM: OP_TRIM}


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
        outlet: Outlet,
        still_there: Callable[[], bool],
        go_on: Callable[[], None],
    ) -> None:
        """``still_there``: whether the client has not hung up; if it has, everything is abandoned before this
        returns. ``go_on`` is called whenever ``blocked`` may have ended."""
        self.export = export
        self._limits = limits
        self._outlet = outlet
        self._still_there = still_there
        self._replies = ReplyQueue(encoder, scratch, outlet)
        self._reader = DeferredReader(export, encoder, account, outlet, limits.read_ahead_bytes)
        self._slow = SlowRequests(export, encoder, contexts, self._reader, self._replies, outlet)
        self._tally = tally
        self._waiting = WaitingRequests(tally, self._fail_all, self._succeed, go_on)
        self._jobs = self._waiting.jobs
        self.leaving = False  # the client said DISC, or its export was ended
        self.stopping = False  # requests are answered with ESHUTDOWN
        self._waiting_for_room = False
        self.requests = 0
        # the batch under way
        self._deferred: list[Request] = []  # the rest of a batch, which has to wait
        self._changes = ChangeRun()
        self._reads = ReadRun(export, encoder, scratch)
        self._retried_reads = ReadRun(export, encoder, scratch)
        self._jobs_to_begin: list[tuple[bytes, Job]] = []  # after the changes
        self._synced: list[bytes] = []  # tokens that wait for the position to be durable

    # --- the batch ---------------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """No requests are taken now. After whatever may change that, ``go_on`` is called."""
        crowded = len(self._jobs) >= self._limits.jobs_max or self._tally.full
        return crowded or self._waiting_for_room or bool(self._deferred)

    def execute(self, requests: list[Request], view: memoryview, count: int) -> None:
        """Do the requests, which lie in ``view`` and have ``count`` bytes. Not while ``blocked``."""
        self.requests += len(requests)
        changes = self._changes
        if self.stopping or self.leaving:
            self._turn_away(requests)
        else:
            changes.view = view
            changes.received_bytes += count
            self._run(requests)
        self._replies.send()
        if not self._deferred and not changes.ops:
            changes.end_batch()

    def _run(self, requests: list[Request]) -> None:
        size = self.export.size
        writable = not self.export.read_only
        reads, changes = self._reads, self._changes
        ops, plain, view = changes.ops, changes.plain, changes.view
        for index, request in enumerate(requests):
            kind, token, offset, length, place = request
            if kind == _WRITE and place > 0 and offset + length <= size and writable:
                if reads.bytes and reads.meets(offset, length) and not self._commit():
                    return self._defer(requests[index:])
                ops.append((OP_WRITE, offset, length, view[place : place + length]))
                plain.append(token)
                if len(ops) >= OPS_MAX and not self._commit():
                    return self._defer(requests[index + 1 :])
            elif kind == _READ and 0 < length <= INLINE_BYTES_MAX and offset + length <= size:
                if reads.add(token, offset, length) and not self._answer_reads():
                    return self._defer(requests[index + 1 :])
            else:
                if not self._take_other(request, size, writable):
                    if not self._waiting_for_room:
                        self._commit()
                    return self._defer(requests[index:])
                if self.leaving:
                    break
                if len(ops) >= OPS_MAX and not self._commit():
                    return self._defer(requests[index + 1 :])
        self._commit()
        return None

    def _answer_reads(self) -> bool:
        """A run of reads is long enough. False: execute no more for now."""
        if not self._commit():
            return False
        self._replies.send()
        return not self._outlet.clogged

    def _defer(self, rest: list[Request]) -> None:
        self._deferred = rest

    def take_deferred(self) -> None:
        """Go on with what was kept of a batch, if that is possible now."""
        if self._deferred and not self._waiting_for_room and not self._outlet.clogged:
            deferred, self._deferred = self._deferred, []
            self._run(deferred)
            self._replies.send()

    def _commit(self) -> bool:
        """Execute what was sorted so far; False if there is no room for it now."""
        if self._changes.ops and not self._append():
            return False
        if self._synced:
            synced, self._synced = self._synced, []
            self._waiting.start(synced, partial(self._slow.answer_durable, self.export.position, synced))
        if self._reads.bytes:
            self._read()
        if self._jobs_to_begin:
            begin, self._jobs_to_begin = self._jobs_to_begin, []
            for token, job in begin:
                self._waiting.start([token], job)
        return True

    def _append(self) -> bool:
        changes = self._changes
        try:
            position = self.export.append(changes.ops)
        except WouldBlock:
            if not self._waiting_for_room:
                self._waiting_for_room = True
                self._waiting.start([], self._wait_for_room)
            return False
        except Exception as error:  # nothing of the run was done: all its requests fail
            self._fail_all(changes.clear(), error)
            return True
        changes.ops.clear()
        if changes.fua:
            self._synced += changes.fua
            changes.fua.clear()
        if changes.plain:
            count, changes.received_bytes = changes.received_bytes, 0  # counted as unanswered from here on
            if self.export.released(position):
                self._replies.succeeded += changes.plain
            else:
                self._waiting.until_released(self.export, position, changes.plain.copy(), count)
            changes.plain.clear()
        return True

    async def _wait_for_room(self) -> None:
        """Wait for room, then go on with the batch that had none."""
        while True:
            try:
                await self.export.room(self._changes.ops)
            except Exception as error:
                self._fail_all(self._changes.clear(), error)
            if not self._still_there():
                return
            if self._commit():
                break
            await asyncio.sleep(0)
        self._waiting_for_room = False
        self.take_deferred()

    # --- reads -------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            deferred = self._reads.execute(self._replies.buffers)
        except Exception:
            self._begin_reads(self._reads.take())  # each is tried alone, so that one bad block fails one read
            return
        if deferred:
            self._waiting.start([read.token for read in deferred], partial(self._retry_reads, deferred))

    async def _retry_reads(self, deferred: list[DeferredRead]) -> None:
        """Together, before each gets a thread: it awaits nothing, so each token is in one job's hands."""
        if not self._outlet.clogged:
            try:
                deferred = self._retried_reads.retry(deferred, self._replies.buffers)
            except Exception:
                self._retried_reads.take()
            self._replies.send()
        self._begin_reads(deferred)

    def _begin_reads(self, reads: list[DeferredRead]) -> None:
        for read in reads:
            self._waiting.start([read.token], partial(self._reader.answer, read))

    # --- requests that are not plain reads and writes ----------------------------------------------------

    def _take_other(self, request: Request, size: int, writable: bool) -> bool:
        """Sort one request in; False if it must be shown again later."""
        kind, token = request[:2]
        wrong = fault(request, size, not writable, self._limits.payload_bytes_max)
        if wrong is not None and LEGAL.get(kind) is not Command.DISC:
            self._replies.fail(token, *wrong)
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
        _, token, offset, length, _ = request
        if not length:
            self._replies.succeeded.append(token)
            return True
        if self._reads.bytes and self._reads.meets(offset, length) and not self._commit():
            return False
        self._changes.add(request, op)
        return True

    def _take_job(self, command: Command, request: Request) -> bool:
        _, token, offset, length, _ = request
        if command is Command.READ and not length:
            self._replies.read_nothing(token)
            return True
        if command is Command.READ and length <= INLINE_BYTES_MAX:  # with DF or FUA: it is in one piece anyway
            if self._reads.add(token, offset, length):
                self._commit()
            return True
        if command is Command.BLOCK_STATUS and not self._slow.contexts:
            self._replies.fail(token, Errno.EINVAL, "no metadata context was selected")
            return True
        if len(self._jobs) + len(self._jobs_to_begin) >= self._limits.jobs_max:
            return False
        self._jobs_to_begin.append((token, self._slow.job(command, request)))
        return True

    def _turn_away(self, requests: list[Request]) -> None:
        for kind, token, *_ in requests:
            if LEGAL.get(kind) is Command.DISC:
                self.leaving = True
            elif not self.leaving:
                self._replies.fail(token, Errno.ESHUTDOWN, "the server is stopping")

    # --- what has ended ----------------------------------------------------------------------------------

    def _succeed(self, tokens: list[bytes]) -> None:
        """Requests that waited are done; also called when a job has put its replies into the queue itself."""
        self._replies.succeeded += tokens
        self._replies.send()

    def _fail_all(self, tokens: list[bytes], error: BaseException) -> None:
        if isinstance(error, GaveWay):  # the export is gone for good: this is answered, then the connection ends
            self.leaving = True
        self._replies.fail_all(tokens, error)

    def note_writable(self) -> None:
        """The client has taken replies."""
        self._reader.note_moved()

    # --- the end -----------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests that wait for something."""
        return self._tally.requests + len(self._changes.ops) + len(self._deferred)

    async def finished(self) -> None:
        """Wait until everything taken has been answered."""
        await self._waiting.finished()

    def give_up(self) -> None:
        """Answer all that still waits with ESHUTDOWN."""
        deferred = self._deferred.copy()
        tokens = self._waiting.tokens + self._synced + self._changes.clear()
        tokens += [token for token, _ in self._jobs_to_begin] + [read.token for read in self._reads.take()]
        self.abandon()
        self._fail_all(tokens, ExportError("stopping", "the server is stopping", errno=Errno.ESHUTDOWN))
        self._turn_away(deferred)
        self._replies.send()

    def abandon(self) -> None:
        """Nothing of what waits is done or answered any more. What was appended stays."""
        self._waiting.abandon()
        self._reads.take()
        self._changes.clear()
        self._changes.end_batch()
        for waiting in (self._jobs_to_begin, self._deferred, self._synced):
            waiting.clear()
