"""Options: the layouts inside the option phase, both directions, as pure functions.

    option        u64 IHAVEOPT      u32 option  u32 length  data
    option reply  u64 REPLY_MAGIC   u32 option  u32 reply   u32 length  data

    INFO, GO            u32 name length, name, u16 n, n × u16 information wanted
    *_META_CONTEXT      u32 name length, name, u32 n, n × (u32 length, query)
    REP_SERVER          u32 name length, name, description
    REP_INFO            u16 information, then by kind:
                        EXPORT u64 size u16 flags | NAME text | DESCRIPTION text
                        BLOCK_SIZE u32 minimum u32 preferred u32 payload
    REP_META_CONTEXT    u32 context id, name
    EXPORT_NAME answer  u64 size, u16 flags, 124 zeroes unless both said NO_ZEROES  (no reply header)

Lengths come from the other side and are never trusted: a ``Reader`` refuses to go past its data, and
every count is held against a limit before anything is allocated for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from revolume.nbd.wire.constants import (
    EXPORT_NAME_PADDING,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    STRING_BYTES_MAX,
    Info,
    Option,
    Reply,
)

OPTION_HEADER: Final = struct.Struct(">QII")
OPTION_REPLY_HEADER: Final = struct.Struct(">QIII")
assert OPTION_HEADER.size == 16
assert OPTION_REPLY_HEADER.size == 20

_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_EXPORT_INFO: Final = struct.Struct(">HQH")
_BLOCK_SIZE_INFO: Final = struct.Struct(">HIII")
_EXPORT_NAME_ANSWER: Final = struct.Struct(">QH")
assert _EXPORT_INFO.size == 12
assert _BLOCK_SIZE_INFO.size == 14


class BadOption(Exception):
    """An option's data does not fit its layout; ``reply`` says in which way."""

    def __init__(self, reply: Reply, cause: str) -> None:
        super().__init__(cause)
        self.reply = reply
        self.cause = cause


@dataclass(frozen=True, slots=True)
class ExportFacts:
    """What a client is told of an export when it opens it."""

    name: str
    description: str
    size: int
    flags: int
    block_size_min: int
    block_size_preferred: int
    payload_bytes_max: int


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """The data of INFO and GO."""

    name: str
    wanted: frozenset[int]


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""

    name: str
    queries: tuple[str, ...]


class Reader:
    """Walks over the data of one option."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise BadOption(Reply.ERR_INVALID, "the option's data ends too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def u16(self) -> int:
        return int(_U16.unpack(self._take(2))[0])

    def u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def text(self) -> str:
        """A length-prefixed string."""
        length = self.u32()
        if length > len(self._data) - self._at:
            raise BadOption(Reply.ERR_INVALID, "a string reaches past the option's data")
        return decode_text(self._take(length))

    def end(self) -> None:
        if self._at != len(self._data):
            raise BadOption(Reply.ERR_INVALID, "the option's data is longer than what it says")


def decode_text(data: bytes) -> str:
    """A string of the protocol: UTF-8, no NUL, at most 4096 bytes."""
    if len(data) > STRING_BYTES_MAX:
        raise BadOption(Reply.ERR_TOO_BIG, f"a string has at most {STRING_BYTES_MAX} bytes")
    if 0 in data:
        raise BadOption(Reply.ERR_INVALID, "a string may not hold NUL")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadOption(Reply.ERR_INVALID, "a string is not UTF-8") from None


def parse_export_request(data: bytes) -> ExportRequest:
    """The data of INFO and GO."""
    reader = Reader(data)
    name = reader.text()
    wanted = frozenset([reader.u16() for _ in range(reader.u16())])
    reader.end()
    return ExportRequest(name, wanted)


def parse_context_request(data: bytes, queries_max: int) -> ContextRequest:
    """The data of the META_CONTEXT options."""
    reader = Reader(data)
    name = reader.text()
    count = reader.u32()
    if count > queries_max:
        raise BadOption(Reply.ERR_TOO_BIG, f"at most {queries_max} queries are answered at once")
    queries = tuple([reader.text() for _ in range(count)])
    reader.end()
    if any(":" not in query for query in queries):
        raise BadOption(Reply.ERR_INVALID, "a metadata query starts with a namespace and a colon")
    return ContextRequest(name, queries)


# --- answers ---------------------------------------------------------------------------------------------


def reply(option: int, kind: Reply, data: bytes = b"") -> bytes:
    """One option reply."""
    return OPTION_REPLY_HEADER.pack(OPTION_REPLY_MAGIC, option, kind, len(data)) + data


def refusal(option: int, kind: Reply, cause: str) -> bytes:
    """An error reply with its sentence."""
    return reply(option, kind, _clipped(cause))


def export_replies(option: int, facts: ExportFacts, wanted: Iterable[int]) -> bytes:
    """The whole answer to INFO or GO: what was asked for, the export itself, and the ACK."""
    extra = {
        Info.NAME: _U16.pack(Info.NAME) + facts.name.encode(),
        Info.DESCRIPTION: _U16.pack(Info.DESCRIPTION) + _clipped(facts.description),
        Info.BLOCK_SIZE: _BLOCK_SIZE_INFO.pack(
            Info.BLOCK_SIZE, facts.block_size_min, facts.block_size_preferred, facts.payload_bytes_max
        ),
    }
    items = [_EXPORT_INFO.pack(Info.EXPORT, facts.size, facts.flags)]
    items += [data for kind, data in extra.items() if kind in wanted]
    return b"".join([reply(option, Reply.INFO, item) for item in items]) + reply(option, Reply.ACK)


def export_name_answer(facts: ExportFacts, *, padded: bool) -> bytes:
    """The answer to EXPORT_NAME, which has no reply header."""
    answer = _EXPORT_NAME_ANSWER.pack(facts.size, facts.flags)
    return answer + bytes(EXPORT_NAME_PADDING) if padded else answer


def list_replies(names: Iterable[tuple[str, str]]) -> bytes:
    """The answer to LIST, without its end."""
    entries = [
        reply(Option.LIST, Reply.SERVER, _U32.pack(len(name)) + name + _clipped(description))
        for name, description in [(name.encode(), description) for name, description in names]
    ]
    return b"".join(entries)


def context_replies(option: int, contexts: Iterable[tuple[int, str]]) -> bytes:
    """The whole answer to a META_CONTEXT option: (id, name) pairs and the ACK."""
    entries = [reply(option, Reply.META_CONTEXT, _U32.pack(number) + name.encode()) for number, name in contexts]
    return b"".join(entries) + reply(option, Reply.ACK)


# --- requests (the client's side) ------------------------------------------------------------------------


def request(option: Option, data: bytes = b"") -> bytes:
    """One option."""
    return OPTION_HEADER.pack(OPTION_MAGIC, option, len(data)) + data


def export_request(option: Option, name: str, wanted: Iterable[Info]) -> bytes:
    """INFO or GO."""
    kinds = list(wanted)
    data = counted(name) + _U16.pack(len(kinds)) + b"".join([_U16.pack(kind) for kind in kinds])
    return request(option, data)


def context_request(option: Option, name: str, queries: Iterable[str]) -> bytes:
    """LIST_META_CONTEXT or SET_META_CONTEXT."""
    texts = [counted(query) for query in queries]
    return request(option, counted(name) + _U32.pack(len(texts)) + b"".join(texts))


def counted(text: str) -> bytes:
    """A length-prefixed string."""
    data = text.encode()
    return _U32.pack(len(data)) + data


def _clipped(text: str) -> bytes:
    """A sentence as it may go out: cut between characters at the protocol's bound, NULs left out."""
    return text.replace("\0", "").encode()[:STRING_BYTES_MAX].decode(errors="ignore").encode()
