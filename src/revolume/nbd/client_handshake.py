"""The option phase from the client's side: greeting, TLS, the dialect, metadata contexts, opening an export."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from typing import Final

from revolume.nbd.client_connection import ClientConnection
from revolume.nbd.wire import client_codec, options
from revolume.nbd.wire.client_codec import ExportInfo
from revolume.nbd.wire.constants import REPLY_ERROR_BIT, Dialect, Info, Option, Reply
from revolume.nbd.wire.errors import Disconnected, ExportError, ProtocolError
from revolume.nbd.wire.greeting import CLIENT_FLAGS, GREETING, OFFERED_FLAGS, check_greeting
from revolume.nbd.wire.options import OPTION_REPLY_HEADER

_WANTED: Final = (Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE)
_REPLIES_MAX: Final = 100_000  # to one option


class ClientHandshake:
    """The option phase on ``connection``. Every method may raise Disconnected and ProtocolError."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def greet(self) -> None:
        """Read the server's greeting and answer it."""
        check_greeting(await self._connection.take(GREETING.size))
        self._connection.wire.send([CLIENT_FLAGS.pack(OFFERED_FLAGS)])

    async def secure(self, context: ssl.SSLContext | None, hostname: str) -> None:
        """STARTTLS; the server's certificate must name ``hostname``."""
        if context is None:
            raise ExportError("nbd-tls-context", "An nbds URI needs certificates.", "Give a TLS directory.")
        await self._ask(Option.STARTTLS, options.request(Option.STARTTLS), "STARTTLS")
        if self._connection.unread:
            raise ProtocolError("the server sent plaintext behind its answer to STARTTLS")
        wire = self._connection.wire
        wire.pause()
        try:
            await wire.start_tls(context, hostname)
        except OSError as error:
            raise Disconnected(f"The TLS handshake failed: {error}.") from error
        wire.resume()

    async def agree(self, dialect: Dialect) -> Dialect:
        """The best headers that both sides know, up to ``dialect``."""
        ladder = [(Dialect.EXTENDED, Option.EXTENDED_HEADERS), (Dialect.STRUCTURED, Option.STRUCTURED_REPLY)]
        if dialect is Dialect.STRUCTURED:
            ladder.pop(0)
        for wanted, option in ladder if dialect is not Dialect.SIMPLE else []:
            try:
                await self._ask(option, options.request(option), option.name)
            except ExportError:
                continue
            return wanted
        return Dialect.SIMPLE

    async def select(self, name: str, contexts: Sequence[str]) -> dict[int, str]:
        """Select metadata contexts of the export ``name``: those that it has, by id."""
        if not contexts:
            return {}
        option = Option.SET_META_CONTEXT
        found = await self._ask(option, options.context_request(option, name, contexts), name)
        return dict([client_codec.parse_context(data) for kind, data in found if kind == Reply.META_CONTEXT])

    async def open(self, name: str) -> ExportInfo:
        """GO: open the export and end the option phase. ExportError if the server refuses."""
        info = ExportInfo(name=name)
        request = options.export_request(Option.GO, name, _WANTED)
        for kind, data in await self._ask(Option.GO, request, name or "the export"):
            if kind == Reply.INFO:
                info = client_codec.learn(info, data)
        return info

    async def list_exports(self) -> list[tuple[str, str]]:
        """(name, description) of everything that the server shows; ends the session with ABORT."""
        found = await self._ask(Option.LIST, options.request(Option.LIST), "LIST")
        listed = [client_codec.parse_listed(data) for kind, data in found if kind == Reply.SERVER]
        await self._ask(Option.ABORT, options.request(Option.ABORT), "ABORT")
        return listed

    async def _ask(self, option: Option, request: bytes, what: str) -> list[tuple[int, bytes]]:
        """Send an option; its replies up to the ACK. ExportError when it is refused."""
        self._connection.wire.send([request])
        replies: list[tuple[int, bytes]] = []
        while True:
            header = client_codec.parse_option_reply(await self._connection.take(OPTION_REPLY_HEADER.size), option)
            data = await self._connection.take(header.length)
            if header.kind == Reply.ACK:
                return replies
            if header.kind & REPLY_ERROR_BIT:
                raise client_codec.option_error(header.kind, data, what)
            replies.append((header.kind, data))
            if len(replies) > _REPLIES_MAX:
                raise ProtocolError("the server answers without end")
