"""The client's view of the wire: a server's greeting, option replies and reply headers, as pure functions.

The layouts are those of ``options.py`` and ``replies.py``. What a server sends is trusted no more than what
a client sends: lengths have bounds, and what does not fit is a ``ProtocolError``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final

from revolume.nbd.wire.constants import (
    CHUNK_DONE,
    EXTENDED_REPLY_MAGIC,
    OPTION_REPLY_MAGIC,
    REPLY_ERROR_BIT,
    SIMPLE_REPLY_MAGIC,
    STATUS_EXTENTS_MAX,
    STRING_BYTES_MAX,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Info,
    Option,
    Reply,
)
from revolume.nbd.wire.errors import ExportError, ProtocolError
from revolume.nbd.wire.options import OPTION_REPLY_HEADER

OPTION_REPLY_BYTES_MAX: Final = 64 << 10
CHUNK_BYTES_MAX: Final = 16 * STATUS_EXTENTS_MAX + 8  # of chunks that are no data

SIMPLE: Final = struct.Struct(">IIQ")
STRUCTURED: Final = struct.Struct(">IHHQI")
EXTENDED: Final = struct.Struct(">IHHQQQ")
_MAGIC: Final = struct.Struct(">I")
_ERROR: Final = struct.Struct(">IH")


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What a server told of an export."""

    name: str = ""
    description: str = ""
    size: int = 0
    flags: int = 0
    block_size_min: int = 1
    block_size_preferred: int = 4096
    payload_bytes_max: int = 32 << 20


@dataclass(frozen=True, slots=True)
class OptionReply:
    """One reply to an option; ``data`` is not read yet."""

    kind: int
    length: int


@dataclass(frozen=True, slots=True)
class ReplyHeader:
    """One reply or chunk of a reply. A simple reply is the chunk NONE, or ERROR with its errno."""

    cookie: int
    kind: int
    length: int
    last: bool
    simple: bool
    errno: int = 0


def parse_option_reply(data: bytes, option: Option) -> OptionReply:
    """The header of a reply to ``option``."""
    magic, answered, kind, length = OPTION_REPLY_HEADER.unpack(data)
    if magic != OPTION_REPLY_MAGIC or answered != option or length > OPTION_REPLY_BYTES_MAX:
        raise ProtocolError("the server answers something that was not asked")
    return OptionReply(kind, length)


def option_error(kind: int, data: bytes, what: str) -> ExportError:
    """An option that was refused, as an error with the server's own sentence."""
    assert kind & REPLY_ERROR_BIT
    words = {
        Reply.ERR_UNSUP: "the server does not know the option",
        Reply.ERR_POLICY: "the server does not allow it",
        Reply.ERR_TLS_REQD: "the server wants TLS",
        Reply.ERR_UNKNOWN: "there is no such export",
        Reply.ERR_SHUTDOWN: "the server is stopping",
    }
    said = data[:STRING_BYTES_MAX].decode(errors="replace")
    known = Reply(kind) if kind in set(Reply) else None
    cause = said or words.get(known or Reply.ACK, f"the server refuses (reply {kind:#x})")
    name = known.name.removeprefix("ERR_").lower().replace("_", "-") if known else "refused"
    return ExportError(f"nbd-{name}", f"{what}: {cause}")


def learn(info: ExportInfo, data: bytes) -> ExportInfo:
    """``info`` with what one INFO reply says."""
    try:
        kind = int.from_bytes(data[:2], "big")
        if kind == Info.EXPORT:
            size, flags = struct.unpack_from(">QH", data, 2)
            return replace(info, size=size, flags=flags)
        if kind == Info.NAME:
            return replace(info, name=data[2:].decode())
        if kind == Info.DESCRIPTION:
            return replace(info, description=data[2:].decode())
        if kind == Info.BLOCK_SIZE:
            least, preferred, payload = struct.unpack_from(">III", data, 2)
            return replace(info, block_size_min=least, block_size_preferred=preferred, payload_bytes_max=payload)
    except (struct.error, UnicodeDecodeError):
        raise ProtocolError("an information reply makes no sense") from None
    return info


def parse_listed(data: bytes) -> tuple[str, str]:
    """(name, description) of a LIST entry."""
    length = int.from_bytes(data[:4], "big")
    if len(data) < 4 or length > len(data) - 4:
        raise ProtocolError("a listed export makes no sense")
    return data[4 : 4 + length].decode(errors="replace"), data[4 + length :].decode(errors="replace")


def parse_context(data: bytes) -> tuple[int, str]:
    """(id, name) of a metadata context."""
    if len(data) < 4:
        raise ProtocolError("a metadata context makes no sense")
    return int.from_bytes(data[:4], "big"), data[4:].decode(errors="replace")


def parse_reply(buffer: bytearray, start: int, end: int) -> tuple[ReplyHeader, int] | None:
    """The reply header at ``start`` and where it ends, or None: more bytes are needed."""
    if end - start < _MAGIC.size:
        return None
    (magic,) = _MAGIC.unpack_from(buffer, start)
    layout = {SIMPLE_REPLY_MAGIC: SIMPLE, STRUCTURED_REPLY_MAGIC: STRUCTURED, EXTENDED_REPLY_MAGIC: EXTENDED}
    if magic not in layout:
        raise ProtocolError("a reply without its magic")
    if end - start < layout[magic].size:
        return None
    fields = layout[magic].unpack_from(buffer, start)
    at = start + layout[magic].size
    if magic == SIMPLE_REPLY_MAGIC:
        kind = Chunk.ERROR if fields[1] else Chunk.NONE
        return ReplyHeader(fields[2], kind, 0, True, True, fields[1]), at
    return ReplyHeader(fields[3], fields[2], fields[-1], bool(fields[1] & CHUNK_DONE), False), at


def parse_error(data: bytes) -> tuple[int, str]:
    """(errno, sentence) of an error chunk."""
    if len(data) < _ERROR.size:
        raise ProtocolError("an error chunk makes no sense")
    errno, length = _ERROR.unpack_from(data)
    return errno, data[_ERROR.size : _ERROR.size + length].decode(errors="replace")


def parse_extents(data: bytes, extended: bool) -> tuple[int, list[tuple[int, int]]]:
    """(context id, extents) of a block status chunk."""
    head, width, letter = (8, 8, "Q") if extended else (4, 4, "I")
    count, rest = divmod(len(data) - head, 2 * width)
    if count < 1 or rest:
        raise ProtocolError("a block status chunk makes no sense")
    numbers = struct.unpack_from(f">{2 * count}{letter}", data, head)
    extents = list(zip(numbers[::2], numbers[1::2], strict=True))
    if not all(length for length, _ in extents):
        raise ProtocolError("an extent of no length")
    return int.from_bytes(data[:4], "big"), extents
