"""The body of the manifest's edit IDENTITY: Q blocks of a segment, Q time of creation, the name in UTF-8."""

from __future__ import annotations

import struct
from typing import Final

_IDENTITY: Final = struct.Struct("<QQ")


def pack_identity(segment_blocks: int, created_ns: int, name: str) -> bytes:
    """IDENTITY."""
    return _IDENTITY.pack(segment_blocks, created_ns) + name.encode()


def unpack_identity(body: bytes) -> tuple[int, int, str]:
    """Blocks of a segment, time of creation, name."""
    blocks, created_ns = _IDENTITY.unpack_from(body)
    return blocks, created_ns, body[_IDENTITY.size :].decode()
