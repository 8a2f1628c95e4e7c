"""What each option does: one function an option, in a table by the option's number.

A handler changes what is agreed, or returns the event that the option leads to. None: the option is done and is
acknowledged. ``BadOption``: it is refused, and the options go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from revolume.nbd.bounds.limits import OptionLimits
from revolume.nbd.server.handshake_events import Event, Leave, StartTls, WantContexts, WantExport, WantList
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import Dialect, Option, Reply
from revolume.nbd.wire.errors import ProtocolError
from revolume.nbd.wire.options import BadOption


class Tls(Enum):
    """What the server makes of encryption on this connection."""

    NONE = "not offered"
    OFFERED = "the client may ask for it"
    REQUIRED = "every option but STARTTLS and ABORT is refused until it is in use"
    ACTIVE = "in use"


@dataclass(slots=True)
class Agreement:
    """What client and server have agreed on so far."""

    tls: Tls
    dialect: Dialect = Dialect.SIMPLE
    contexts: tuple[str, ...] = ()  # selected metadata contexts, by context id
    contexts_of: str | None = None  # the export name that they were selected for

    def must_secure(self, option: int) -> bool:
        """Whether ``option`` is refused until the connection is encrypted."""
        return self.tls is Tls.REQUIRED and option not in (Option.STARTTLS, Option.ABORT)

    def select(self, contexts: tuple[str, ...], name: str) -> None:
        """Select metadata contexts for the export ``name``."""
        self.contexts, self.contexts_of = contexts, name

    def unselect(self) -> None:
        """No metadata context is selected."""
        self.contexts, self.contexts_of = (), None

    def begin_tls(self) -> None:
        """The connection is encrypted. What was agreed in plaintext may come from anybody: it is dropped."""
        self.tls = Tls.ACTIVE
        self.dialect = Dialect.SIMPLE
        self.unselect()


Handler = Callable[[Agreement, OptionLimits, bytes], Event | None]


def _export_name(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    if agreed.dialect is Dialect.EXTENDED:
        raise ProtocolError("EXPORT_NAME after extended headers")
    name = options.decode_text(data)
    _check_export_name(limits, name)
    return WantExport(Option.EXPORT_NAME, name, frozenset())


def _abort(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    return Leave()


def _list(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    _check_no_data(data)
    return WantList()


def _starttls(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    _check_no_data(data)
    if agreed.tls is Tls.ACTIVE:
        raise BadOption(Reply.ERR_INVALID, "TLS is already in use")
    if agreed.tls is Tls.NONE:
        raise BadOption(Reply.ERR_POLICY, "this server has no TLS")
    return StartTls()


def _info(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    return _want_export(Option.INFO, limits, data)


def _go(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    return _want_export(Option.GO, limits, data)


def _want_export(option: Option, limits: OptionLimits, data: bytes) -> Event | None:
    request = options.parse_export_request(data)
    _check_export_name(limits, request.name)
    return WantExport(option, request.name, request.wanted)


def _structured_reply(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    _check_no_data(data)
    if agreed.dialect is Dialect.EXTENDED:
        raise BadOption(Reply.ERR_EXT_HEADER_REQD, "extended headers are already in use")
    agreed.dialect = Dialect.STRUCTURED
    return None


def _extended_headers(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    _check_no_data(data)
    agreed.dialect = Dialect.EXTENDED
    return None


def _list_contexts(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    return _want_contexts(Option.LIST_META_CONTEXT, agreed, limits, data)


def _set_contexts(agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    agreed.unselect()  # also when it fails
    return _want_contexts(Option.SET_META_CONTEXT, agreed, limits, data)


def _want_contexts(option: Option, agreed: Agreement, limits: OptionLimits, data: bytes) -> Event | None:
    if agreed.dialect is Dialect.SIMPLE:
        raise BadOption(Reply.ERR_INVALID, "metadata contexts need structured replies")
    request = options.parse_context_request(data, limits.queries_max)
    _check_export_name(limits, request.name)
    return WantContexts(option, request.name, request.queries)


def _check_export_name(limits: OptionLimits, name: str) -> None:
    if len(name.encode()) > limits.export_name_bytes_max:
        raise BadOption(Reply.ERR_UNKNOWN, "no export has so long a name")


def _check_no_data(data: bytes) -> None:
    if data:
        raise BadOption(Reply.ERR_INVALID, "this option has no data")


OPTION_HANDLERS: Final[dict[int, Handler]] = {
    Option.EXPORT_NAME: _export_name,
    Option.ABORT: _abort,
    Option.LIST: _list,
    Option.STARTTLS: _starttls,
    Option.INFO: _info,
    Option.GO: _go,
    Option.STRUCTURED_REPLY: _structured_reply,
    Option.LIST_META_CONTEXT: _list_contexts,
    Option.SET_META_CONTEXT: _set_contexts,
    Option.EXTENDED_HEADERS: _extended_headers,
}
