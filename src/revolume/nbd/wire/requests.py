"""Requests: bytes in, whole requests out, many at a time; and which requests make sense.

    compact header   u32 25609513  u16 flags  u16 command  u64 cookie  u64 offset  u32 length
    extended header  u32 21e41c71  u16 flags  u16 command  u64 cookie  u64 offset  u64 length

A compact WRITE, and an extended request with PAYLOAD_LEN, is followed by ``length`` bytes.

Work is done per batch, not per request: ``parse`` walks over everything that lies in the receive buffer
and returns plain tuples, the payload as its place in that buffer. ``kind`` is flags and command in one
number, so that one look into a table (``LEGAL``) tells whether flags and command fit together. ``token``
is what the reply must carry back: the cookie, under extended headers followed by the offset.

What would break it: losing step with the stream. So a payload is consumed whatever is wrong with its
request: one that is longer than we keep (``payload_bytes_max``) is passed over as it comes. Only a
header without its magic, or an extended payload beyond all bounds, ends the connection; the requests
before it are still returned.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from revolume.nbd.wire.constants import (
    EXTENDED_REQUEST_MAGIC,
    REQUEST_MAGIC,
    Command,
    CommandFlag,
    Errno,
)

COMPACT_HEADER: Final = struct.Struct(">II8sQI")
EXTENDED_HEADER: Final = struct.Struct(">II8sQQ")
assert COMPACT_HEADER.size == 28
assert EXTENDED_HEADER.size == 32

Request = tuple[int, bytes, int, int, int]  # kind, token, offset, length, place of the payload
NO_PAYLOAD: Final = 0
PASSED_OVER: Final = -1  # the payload was longer than we keep

BATCH_REQUESTS_MAX: Final = 1024  # so that a buffer full of headers is looked at in portions


def kind_of(command: Command, flags: int = 0) -> int:
    """Flags and command as they stand in a header, in one number."""
    return flags << 16 | command


def _variants(command: Command, *flags: CommandFlag) -> dict[int, Command]:
    """All combinations of ``flags`` for a command. FUA is legal on every one."""
    kinds = [kind_of(command), kind_of(command, CommandFlag.FUA)]
    for flag in flags:
        kinds += [kind | flag << 16 for kind in kinds]
    return dict.fromkeys(kinds, command)


LEGAL: Final[dict[int, Command]] = {
    **_variants(Command.READ, CommandFlag.DF),
    **_variants(Command.WRITE),
    **_variants(Command.DISC),
    **_variants(Command.FLUSH),
    **_variants(Command.TRIM),
    **_variants(Command.CACHE),
    **_variants(Command.WRITE_ZEROES, CommandFlag.NO_HOLE, CommandFlag.FAST_ZERO),
    **_variants(Command.BLOCK_STATUS, CommandFlag.REQ_ONE),
}

FUA_BIT: Final = CommandFlag.FUA << 16
DF_BIT: Final = CommandFlag.DF << 16
REQ_ONE_BIT: Final = CommandFlag.REQ_ONE << 16
_PAYLOAD_BIT: Final = CommandFlag.PAYLOAD_LEN << 16

_CHANGES: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES, Command.TRIM})
_GROWS: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES})
_RANGELESS: Final = frozenset({Command.FLUSH, Command.DISC})


def fault(request: Request, size: int, read_only: bool, payload_bytes_max: int) -> tuple[Errno, str] | None:
    """What is wrong with a request, or None. Every rule about errors and the end of the export is here."""
    kind, _, offset, length, place = request
    command = LEGAL.get(kind)
    if command is None:
        return Errno.EINVAL, "unknown command, or a flag that it does not have"
    if read_only and command in _CHANGES:
        return Errno.EPERM, "the export is read-only"
    if place == PASSED_OVER or (command is Command.READ and length > payload_bytes_max):
        return Errno.EINVAL, f"a request carries at most {payload_bytes_max} bytes"
    if command in _RANGELESS:
        return (Errno.EINVAL, "a flush has no range") if offset or length else None
    if offset + length > size:
        return (Errno.ENOSPC if command in _GROWS else Errno.EINVAL), "the range ends past the end"
    if command is Command.BLOCK_STATUS and not length:
        return Errno.EINVAL, "an empty range has no status"
    return None


class Parser(Protocol):
    """Turns the bytes of a receive buffer into requests."""

    consumed: int  # bytes of the last ``parse`` that need not be shown again
    needed: int  # bytes from there that make the next request whole, so far as is known; 0: it is not begun
    broken: bool  # the stream makes no sense any more: close

    def parse(self, buffer: bytearray | memoryview, start: int, end: int) -> list[Request]:
        """The whole requests in ``buffer[start:end]``, at most ``BATCH_REQUESTS_MAX``."""


class CompactParser:
    """Requests with 28-byte headers."""

    __slots__ = ("_pass_over", "_payload_bytes_max", "broken", "consumed", "needed")

    def __init__(self, payload_bytes_max: int) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._pass_over = 0  # bytes of a payload still to be thrown away
        self.consumed = 0
        self.needed = 0
        self.broken = False

    def parse(self, buffer: bytearray | memoryview, start: int, end: int) -> list[Request]:
        requests: list[Request] = []
        self.needed = 0
        unpack = COMPACT_HEADER.unpack_from
        at = start
        if self._pass_over:
            at = self._skip(at, end)
        while end - at >= 28 and len(requests) < BATCH_REQUESTS_MAX:
            magic, kind, token, offset, length = unpack(buffer, at)
            if magic != REQUEST_MAGIC:
                self.broken = True
                break
            place = at + 28
            if kind & 0xFFFF != 1:  # all but WRITE
                requests.append((kind, token, offset, length, NO_PAYLOAD))
                at = place
            elif length > self._payload_bytes_max:
                requests.append((kind, token, offset, length, PASSED_OVER))
                self._pass_over = length
                at = self._skip(place, end)
            elif place + length > end:
                self.needed = 28 + length
                break
            else:
                requests.append((kind, token, offset, length, place))
                at = place + length
        self.consumed = at - start
        return requests

    def _skip(self, at: int, end: int) -> int:
        skipped = min(self._pass_over, end - at)
        self._pass_over -= skipped
        return at + skipped


class ExtendedParser:
    """Requests with 32-byte headers.

    Their kinds come out as compact ones: PAYLOAD_LEN is set only where it is wrong.
    """

    __slots__ = ("_payload_bytes_max", "broken", "consumed", "needed")

    def __init__(self, payload_bytes_max: int) -> None:
        self._payload_bytes_max = payload_bytes_max
        self.consumed = 0
        self.needed = 0
        self.broken = False

    def parse(self, buffer: bytearray | memoryview, start: int, end: int) -> list[Request]:
        requests: list[Request] = []
        self.needed = 0
        at = start
        while end - at >= 32 and len(requests) < BATCH_REQUESTS_MAX:
            magic, kind, cookie, offset, length = EXTENDED_HEADER.unpack_from(buffer, at)
            payload = length if kind & _PAYLOAD_BIT else 0
            if magic != EXTENDED_REQUEST_MAGIC or payload > self._payload_bytes_max:
                self.broken = True
                break
            place = at + 32
            if place + payload > end:
                self.needed = 32 + payload
                break
            if kind & 0xFFFF == Command.WRITE:
                kind ^= _PAYLOAD_BIT  # mandatory here; where it was missing it is set now, and so illegal
            token = cookie + offset.to_bytes(8, "big")
            requests.append((kind, token, offset, length, place if payload else NO_PAYLOAD))
            at = place + payload
        self.consumed = at - start
        return requests
