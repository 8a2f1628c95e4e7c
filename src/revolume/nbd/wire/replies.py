"""Replies as bytes: one encoder for each dialect, all with the same methods.

    simple      u32 67446698  u32 error  u64 cookie                                   then a read's data
    structured  u32 668e33ef  u16 flags  u16 type  u64 cookie  u32 length             then the chunk
    extended    u32 6e8a278c  u16 flags  u16 type  u64 cookie  u64 offset  u64 length then the chunk

    chunk OFFSET_DATA       u64 offset, data
    chunk BLOCK_STATUS      u32 context id, n × (u32 length, u32 flags)
    chunk BLOCK_STATUS_EXT  u32 context id, u32 n, n × (u64 length, u64 flags)
    chunk ERROR             u32 error, u16 message length, message

A ``token`` is the part of the request header that goes back (see ``requests.py``), so one join makes
the replies of a whole batch. Once structured replies are agreed a READ is never answered by a simple
reply; everything else that succeeds still is, being shorter.
"""

from __future__ import annotations

import struct
from itertools import chain
from typing import Final, Protocol

from revolume.nbd.wire.constants import (
    CHUNK_DONE,
    EXTENDED_REPLY_MAGIC,
    SIMPLE_REPLY_MAGIC,
    STATUS_EXTENTS_MAX,
    STRING_BYTES_MAX,
    STRUCTURED_REPLY_MAGIC,
    Chunk,
    Dialect,
    Errno,
)

SIMPLE_HEADER: Final = struct.Struct(">II8s")
STRUCTURED_HEADER: Final = struct.Struct(">IHH8sI")
EXTENDED_HEADER: Final = struct.Struct(">IHH16sQ")
assert SIMPLE_HEADER.size == 16
assert STRUCTURED_HEADER.size == 20
assert EXTENDED_HEADER.size == 32

_STRUCTURED_DATA: Final = struct.Struct(">IHH8sIQ")
_EXTENDED_DATA: Final = struct.Struct(">IHH16sQQ")
_ERROR: Final = struct.Struct(">IH")
_STATUS: Final = struct.Struct(">I")
_STATUS_EXTENDED: Final = struct.Struct(">II")
assert _STRUCTURED_DATA.size == 28
assert _EXTENDED_DATA.size == 40

_SIMPLE_OK: Final = SIMPLE_REPLY_MAGIC.to_bytes(4, "big") + bytes(4)
_EXTENDED_OK: Final = struct.pack(">IHH", EXTENDED_REPLY_MAGIC, CHUNK_DONE, Chunk.NONE)

Extents = list[tuple[int, int]]


class Encoder(Protocol):
    """How answers look on one connection."""

    data_header_bytes: int  # what stands before the data of a read
    chunked: bool  # a read may be answered in pieces, and block status at all

    def done(self, tokens: list[bytes]) -> bytes:
        """Success of any requests but reads; ``tokens`` is not empty."""

    def empty(self, token: bytes) -> bytes:
        """Success of a read of nothing."""

    def failure(self, token: bytes, errno: Errno, cause: str) -> bytes:
        """Failure of one request."""

    def put_data_header(
        self, buffer: memoryview, at: int, token: bytes, offset: int, length: int, last: bool
    ) -> None:
        """Write what stands before ``length`` bytes of a read from ``offset``."""

    def status(self, token: bytes, context_id: int, extents: Extents, last: bool) -> bytes:
        """The extents of one context, as ``clip`` leaves them."""


class SimpleEncoder:
    """16-byte headers; reads are answered whole or not at all."""

    data_header_bytes = SIMPLE_HEADER.size
    chunked = False

    def done(self, tokens: list[bytes]) -> bytes:
        return _SIMPLE_OK + _SIMPLE_OK.join(tokens)

    def empty(self, token: bytes) -> bytes:
        return _SIMPLE_OK + token

    def failure(self, token: bytes, errno: Errno, cause: str) -> bytes:
        return SIMPLE_HEADER.pack(SIMPLE_REPLY_MAGIC, errno, token)

    def put_data_header(
        self, buffer: memoryview, at: int, token: bytes, offset: int, length: int, last: bool
    ) -> None:
        SIMPLE_HEADER.pack_into(buffer, at, SIMPLE_REPLY_MAGIC, 0, token)

    def status(self, token: bytes, context_id: int, extents: Extents, last: bool) -> bytes:
        raise AssertionError("block status needs structured replies")


class StructuredEncoder:
    """20-byte chunk headers for reads, block status and errors; simple replies for the rest."""

    data_header_bytes = _STRUCTURED_DATA.size
    chunked = True

    def done(self, tokens: list[bytes]) -> bytes:
        return _SIMPLE_OK + _SIMPLE_OK.join(tokens)

    def empty(self, token: bytes) -> bytes:
        return self._chunk(token, Chunk.NONE, b"", True)

    def failure(self, token: bytes, errno: Errno, cause: str) -> bytes:
        return self._chunk(token, Chunk.ERROR, _error_payload(errno, cause), True)

    def put_data_header(
        self, buffer: memoryview, at: int, token: bytes, offset: int, length: int, last: bool
    ) -> None:
        _STRUCTURED_DATA.pack_into(
            buffer, at, STRUCTURED_REPLY_MAGIC, last, Chunk.OFFSET_DATA, token, length + 8, offset
        )

    def status(self, token: bytes, context_id: int, extents: Extents, last: bool) -> bytes:
        payload = _STATUS.pack(context_id) + _packed(extents, "I")
        return self._chunk(token, Chunk.BLOCK_STATUS, payload, last)

    def _chunk(self, token: bytes, kind: Chunk, payload: bytes, last: bool) -> bytes:
        return STRUCTURED_HEADER.pack(STRUCTURED_REPLY_MAGIC, last, kind, token, len(payload)) + payload


class ExtendedEncoder:
    """32-byte chunk headers for everything."""

    data_header_bytes = _EXTENDED_DATA.size
    chunked = True

    def done(self, tokens: list[bytes]) -> bytes:
        return _EXTENDED_OK + (bytes(8) + _EXTENDED_OK).join(tokens) + bytes(8)

    def empty(self, token: bytes) -> bytes:
        return self.done([token])

    def failure(self, token: bytes, errno: Errno, cause: str) -> bytes:
        return self._chunk(token, Chunk.ERROR, _error_payload(errno, cause), True)

    def put_data_header(
        self, buffer: memoryview, at: int, token: bytes, offset: int, length: int, last: bool
    ) -> None:
        _EXTENDED_DATA.pack_into(
            buffer, at, EXTENDED_REPLY_MAGIC, last, Chunk.OFFSET_DATA, token, length + 8, offset
        )

    def status(self, token: bytes, context_id: int, extents: Extents, last: bool) -> bytes:
        payload = _STATUS_EXTENDED.pack(context_id, len(extents)) + _packed(extents, "Q")
        return self._chunk(token, Chunk.BLOCK_STATUS_EXT, payload, last)

    def _chunk(self, token: bytes, kind: Chunk, payload: bytes, last: bool) -> bytes:
        return EXTENDED_HEADER.pack(EXTENDED_REPLY_MAGIC, last, kind, token, len(payload)) + payload


def encoder(dialect: Dialect) -> Encoder:
    """The encoder for what was agreed."""
    if dialect is Dialect.EXTENDED:
        return ExtendedEncoder()
    return StructuredEncoder() if dialect is Dialect.STRUCTURED else SimpleEncoder()


def clip(extents: Extents, length: int, one: bool) -> Extents:
    """``extents`` as a request for ``length`` bytes may be answered: neighbours joined, not past its end.

    So a compact request, whose length has 32 bits, gets extents that fit into 32 bits.
    """
    clipped: Extents = []
    left = length
    for extent, flags in extents:
        if left <= 0:
            break
        part = min(extent, left)
        left -= part
        if clipped and clipped[-1][1] == flags:
            clipped[-1] = (clipped[-1][0] + part, flags)
        elif part:
            clipped.append((part, flags))
    return clipped[:1] if one else clipped[:STATUS_EXTENTS_MAX]


def _packed(extents: Extents, width: str) -> bytes:
    return struct.pack(f">{2 * len(extents)}{width}", *chain.from_iterable(extents))


def _error_payload(errno: Errno, cause: str) -> bytes:
    message = cause.encode()[:STRING_BYTES_MAX].decode(errors="ignore").encode()
    return _ERROR.pack(errno, len(message)) + message
