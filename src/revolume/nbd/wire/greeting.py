"""The greeting: what both sides say before the options.

server  u64 NBDMAGIC  u64 IHAVEOPT  u16 handshake flags
client  u32 handshake flags, a subset of the server's
"""

from __future__ import annotations

import struct
from typing import Final

from revolume.nbd.wire.constants import GREETING_MAGIC, OPTION_MAGIC, HandshakeFlag
from revolume.nbd.wire.errors import ProtocolError

GREETING: Final = struct.Struct(">QQH")
CLIENT_FLAGS: Final = struct.Struct(">I")
assert GREETING.size == 18

OFFERED_FLAGS: Final = int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)  # int: ~ means all bits


def server_greeting() -> bytes:
    """The first bytes on a connection."""
    return GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, OFFERED_FLAGS)


def check_greeting(data: bytes) -> None:
    """Check a server's greeting. ProtocolError unless it is a fixed newstyle server."""
    magic, style, flags = GREETING.unpack(data)
    if magic != GREETING_MAGIC or style != OPTION_MAGIC:
        raise ProtocolError("this is no NBD server that speaks the newstyle protocol")
    if not flags & HandshakeFlag.FIXED_NEWSTYLE or not flags & HandshakeFlag.NO_ZEROES:
        raise ProtocolError("the server does not speak the fixed newstyle protocol")


def parse_client_flags(data: bytes | bytearray | memoryview) -> HandshakeFlag:
    """The client's answer to the greeting. ProtocolError for flags that the server did not offer."""
    flags = int(CLIENT_FLAGS.unpack_from(data)[0])
    if flags & ~OFFERED_FLAGS:
        raise ProtocolError(f"unknown client flags {flags:#x}")
    return HandshakeFlag(flags)
