"""What one client may cost the control socket: bytes, connections and time.

``Bounded`` stands before the application and takes a request's body, so much of it and within a time, before
anything is made of it. ``Patient`` is uvicorn's protocol with what that lacks: a number of connections, and a time
within which a request must have come whole. When too many are connected those go that ask nothing or do not take
their answer, the oldest first; if all are being answered, the newcomer goes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from revolume.api.problems import MEDIA_TYPE, problem
from revolume.errors import UsageError


@dataclass(frozen=True, slots=True)
class ControlLimits:
    """The bounds of one control socket."""

    body_bytes_max: int = 256 << 10
    connections_max: int = 64
    request_seconds: float = 10.0  # for a request's head, and again for its body


LIMITS: Final = ControlLimits()


class Bounded:
    """An ASGI application that reads a request's whole body, bounded in bytes and in time, before it calls
    ``app``."""

    def __init__(self, app: ASGIApp, limits: ControlLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                body = await self._body(receive)
        except TimeoutError:
            await _refuse(408, "The request's body did not come.", scope, receive, send)
            return
        if body is None:
            told = f"A request has at most {self._limits.body_bytes_max} bytes."
            await _refuse(413, told, scope, receive, send)
            return
        await self._app(scope, _once(body, receive), send)

    async def _body(self, receive: Receive) -> bytes | None:
        """The request's body; None if it is too long."""
        pieces: list[bytes] = []
        left = self._limits.body_bytes_max
        while True:
            message = await receive()
            piece = message.get("body", b"")
            left -= len(piece)
            if left < 0:
                return None
            pieces.append(piece)
            if not message.get("more_body", False):
                return b"".join(pieces)


def _once(body: bytes, receive: Receive) -> Receive:
    told = False

    async def next_message() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


async def _refuse(status: int, cause: str, scope: Scope, receive: Receive, send: Send) -> None:
    _, body = problem(UsageError("bad-request", cause))
    body["status"] = status
    await JSONResponse(body, status, {"connection": "close"}, media_type=MEDIA_TYPE)(scope, receive, send)


def patient(limits: ControlLimits) -> type[H11Protocol]:
    """The protocol class for ``uvicorn.Config(http=…)``."""

    class Patient(H11Protocol):
        """Uvicorn's HTTP/1.1 protocol, with a bounded number of connections and a bounded time for a request."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._late: asyncio.TimerHandle | None = None

        @property
        def asked(self) -> bool:
            """A request is being answered."""
            return self.cycle is not None and not self.cycle.response_complete

        @property
        def dispensable(self) -> bool:
            """Nothing is lost but to a client that does not do its part."""
            return not self.asked or self.flow.write_paused

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            order = self.server_state.__dict__.setdefault("order", {})  # as they came; uvicorn has a set
            order[self] = None
            if len(order) > limits.connections_max:
                next((each for each in order if each.dispensable and each is not self), self).give_way()
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self.server_state.__dict__["order"].pop(self, None)
            self._forget()
            super().connection_lost(exc)

        def give_way(self) -> None:
            """For the others."""
            self.server_state.__dict__["order"].pop(self, None)
            self.transport.abort()

        def _wait(self) -> None:
            """The time of a request's head runs from its first byte, or from the connection's beginning."""
            if self.asked:
                self._forget()
            elif self._late is None:
                self._late = self.loop.call_later(limits.request_seconds, self._look)

        def _look(self) -> None:
            self._late = None
            if not self.asked:
                self.transport.abort()

        def _forget(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Patient
