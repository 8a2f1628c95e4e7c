"""The bytes of a member: the same in a fact of the log, in an edit of the manifest, and where a base is begun.

 0  B   0 the primary, 1 a sync mirror, 2 an async one
 1  B   1: it has joined, 2: it is required, 4: it was detached by deadline
 2  H   what becomes of answers when it is lost: 0, they wait; 1, it is detached after a deadline
 4 16s  node id, zero if no copy has joined     20 H bytes of the name     22 H bytes of the address
24      name, address, UTF-8
        I deadline in ms, if it is detached when it is lost

A record of before this has neither flag 4 nor policy 1. A version that does not know them refuses a record that
has: it can't tell what the copy proves.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from revolume.volume.metadata.manifest_state import Member, MirrorMode, State
from revolume.volume.metadata.resync_point import ResyncPoint

MEMBER: Final = struct.Struct("<BBH16sHH")
_PRIMARY: Final = 0
_JOINED, _REQUIRED, _DETACHED = 1, 2, 4
_BLOCK, _DETACH = 0, 1
_DEADLINE: Final = struct.Struct("<I")

assert MEMBER.size == 24


def pack_membership(member: Member) -> bytes:
    """A member."""
    name, address = member.name.encode(), member.address.encode()
    flags = _JOINED * member.joined | _REQUIRED * member.required | _DETACHED * member.detached
    mode = _PRIMARY if member.mode is None else member.mode
    policy = _DETACH if member.deadline_ms else _BLOCK
    head = MEMBER.pack(mode, flags, policy, member.node, len(name), len(address))
    return head + name + address + (_DEADLINE.pack(member.deadline_ms) if member.deadline_ms else b"")


def unpack_membership(data: bytes) -> Member:
    """A member that fills ``data``. ValueError, struct.error: it is none."""
    member, end = membership_at(data, 0)
    if end != len(data):
        raise ValueError(f"{len(data)} bytes instead of {end}")
    return member


def membership_at(data: bytes, at: int) -> tuple[Member, int]:
    """The member that begins there, and where it ends. ValueError, struct.error: there is none."""
    mode, flags, policy, node, name_size, address_size = MEMBER.unpack_from(data, at)
    begin = at + MEMBER.size
    end = begin + name_size + address_size
    if end > len(data) or policy > _DETACH or flags & ~(_JOINED | _REQUIRED | _DETACHED):
        raise ValueError("a member that is cut off, or of a kind that is not known")
    name, address = data[begin : begin + name_size].decode(), data[begin + name_size : end].decode()
    if not name or not (name + address).isprintable():
        raise ValueError("a name that nobody can read")
    known = None if mode == _PRIMARY else MirrorMode(mode)
    deadline_ms = 0
    if policy == _DETACH:
        (deadline_ms,) = _DEADLINE.unpack_from(data, end)
        end += _DEADLINE.size
        if not deadline_ms:
            raise ValueError("a deadline that is none")
    joined, detached = bool(flags & _JOINED), bool(flags & _DETACHED)
    return Member(name, node, address, known, joined, deadline_ms, detached), end


def other_members(state: State, name: str) -> tuple[Member, ...]:
    """All but the one of this name."""
    return tuple(member for member in state.members if member.name != name)


def with_member(state: State, member: Member) -> dict[str, Any]:
    """What changes in a state with this member: another copy of the same name stands elsewhere, and nobody feeds a
    primary."""
    mirror = member.mode is not None
    points = tuple(p for p in state.resync_points if p.name != member.name or (mirror and p.node == member.node))
    detached = 0 if member.node == state.node else state.detached
    members = (*other_members(state, member.name), member)
    return {"members": members, "resync_points": points, "detached": detached}


def other_points(state: State, name: str) -> tuple[ResyncPoint, ...]:
    """All resync points but that of the member of this name."""
    return tuple(resync for resync in state.resync_points if resync.name != name)
