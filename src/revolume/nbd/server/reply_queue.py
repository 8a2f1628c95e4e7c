"""The replies of one connection that go out together: collected while a batch is executed, sent at its end."""

from __future__ import annotations

from typing import Final

import structlog

from revolume.errors import RevolumeError
from revolume.nbd.server.outlet import Outlet
from revolume.nbd.server.reads import Scratch
from revolume.nbd.wire.constants import Errno
from revolume.nbd.wire.errors import sentence, wire_errno
from revolume.nbd.wire.replies import Encoder

_log: Final = structlog.get_logger("revolume.nbd")


class ReplyQueue:
    """Replies that are ready. ``succeeded`` and ``buffers`` are appended to by whoever has replies."""

    __slots__ = ("_encoder", "_outlet", "_scratch", "buffers", "succeeded")

    def __init__(self, encoder: Encoder, scratch: Scratch, outlet: Outlet) -> None:
        self._encoder = encoder
        self._scratch = scratch
        self._outlet = outlet
        self.succeeded: list[bytes] = []  # tokens of requests, other than reads, that are done
        self.buffers: list[memoryview] = []  # encoded replies

    def fail(self, token: bytes, errno: Errno, cause: str) -> None:
        """Answer one request with an error."""
        self.buffers.append(memoryview(self._encoder.failure(token, errno, cause)))

    def fail_all(self, tokens: list[bytes], error: BaseException) -> None:
        """Answer requests with ``error``, which is logged if it is none of our own or of the machine's."""
        if isinstance(error, MemoryError):
            _log.error("no memory for a request", requests=len(tokens))
        elif not isinstance(error, RevolumeError | OSError):
            _log.error("a request failed", exc_info=error)
        for token in tokens:
            self.fail(token, wire_errno(error), sentence(error))

    def read_nothing(self, token: bytes) -> None:
        """Answer a read of no bytes."""
        self.buffers.append(memoryview(self._encoder.empty(token)))

    def send(self) -> None:
        """Send what is ready."""
        if self.succeeded:
            self.buffers.insert(0, memoryview(self._encoder.done(self.succeeded)))
            self.succeeded.clear()
        if self.buffers:
            buffers, self.buffers = self.buffers, []
            self._outlet.send(buffers)
            if self._scratch.used:
                self._scratch.recycle(not self._outlet.backlog)
