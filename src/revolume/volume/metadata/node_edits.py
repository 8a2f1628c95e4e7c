"""The bodies of the edits about other nodes: a primary's mirrors, a mirror's source, where this node listens."""

from __future__ import annotations

import struct

from revolume.errors import Damaged
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.kept import Kept
from revolume.volume.metadata.manifest_state import Listener, MirrorMode, MirrorState
from revolume.volume.metadata.on_lost import (
    BLOCK_WHEN_LOST,
    ON_LOST_BYTES,
    OnLost,
    pack_on_lost,
    unpack_on_lost,
)
from revolume.volume.metadata.resync_order import NO_ORDER, ResyncOrder, pack_order, unpack_order

_MIRROR = struct.Struct("<BB6xQQ")
_MEMBER = struct.Struct("<BBHIQQQ16sHHHHQ")
_KEPT = struct.Struct("<QQQ")
_FROM_CREATION, _SINCE, _BASED, _MOMENTS, _PIN, _CUT, _JUMP, _ON_LOST = 1, 2, 4, 8, 16, 32, 64, 128
_ORDER = 256
_KNOWN = 511
_SOURCE = struct.Struct("<HHI")
_LISTENER = struct.Struct("<HHI")
_HISTORIES = (History.NAMED, History.ALL, History.NONE)
"""By the number that MEMBER has for each."""


def newer_format(cause: str) -> Damaged:
    """What is told of a manifest that a later version wrote."""
    return Damaged("newer-format", cause, "Open the volume with the version that wrote it, or a newer one.")


def pack_member(mirror: MirrorState) -> bytes:
    """MEMBER, 64 bytes and four texts in UTF-8: B mode, B joined, H flags (1: the log is kept from point 0 on,
    2: the last number is known, 4: its base is complete, 8: with the pinned moments before it, 16, 32 and 64:
    it has a pin, a cut, a jump, 128: what ``on_lost.py`` has follows them, 256: what ``resync_order.py`` has comes
    last), I how much of the past its base begins
    with (0 named, 1 all, 2 none), Q point, Q write number, Q durable position, 16s node id, H bytes of the name,
    H bytes of the certificate name, H bytes of the address, H bytes of the address that it advertises, Q write
    number at which its history begins;
    name, certificate name, address, advertised address; of pin, cut and jump those that it has: Q point, Q
    write number, Q time."""
    flags = _FROM_CREATION * mirror.from_creation | _SINCE * (mirror.since is not None) | _BASED * mirror.based
    flags |= _MOMENTS * mirror.moments | _PIN * (mirror.pin is not None) | _CUT * (mirror.cut is not None)
    flags |= _JUMP * (mirror.jump is not None) | _ON_LOST * (mirror.on_lost != BLOCK_WHEN_LOST)
    flags |= _ORDER * (mirror.order != NO_ORDER)
    texts = [text.encode() for text in (mirror.name, mirror.peer, mirror.address, mirror.advertised)]
    head = _MEMBER.pack(
        mirror.mode, mirror.joined, flags, _HISTORIES.index(mirror.history), mirror.point, mirror.write,
        mirror.durable, mirror.node, *map(len, texts), mirror.since or 0,
    )  # fmt: skip
    pinned = [_KEPT.pack(kept.point, kept.write, kept.time_ns) for kept in mirror.pinned]
    lost = pack_on_lost(mirror.on_lost) if flags & _ON_LOST else b""
    order = pack_order(mirror.order) if flags & _ORDER else b""
    return head + b"".join(texts) + b"".join(pinned) + lost + order


def unpack_member(body: bytes) -> MirrorState:
    (
        mode, joined, flags, history, point, write, durable, node, *sizes, since,
    ) = _MEMBER.unpack_from(body)  # fmt: skip
    if flags & ~_KNOWN:
        raise newer_format(f"A mirror has flags {flags:#x}, which this version does not know.")
    if history >= len(_HISTORIES):
        raise newer_format(f"A mirror has history {history}, which this version does not know.")
    name, peer, address, advertised = _texts(body[_MEMBER.size :], *sizes)
    pin, cut, jump = _kept(body, _MEMBER.size + sum(sizes), flags)
    on_lost, order = _last(body, _MEMBER.size + sum(sizes), flags)
    return MirrorState(
        name=name,
        mode=MirrorMode(mode),
        joined=bool(joined),
        point=point,
        write=write,
        node=node,
        durable=durable,
        peer=peer,
        since=since if flags & _SINCE else None,
        from_creation=bool(flags & _FROM_CREATION),
        based=bool(flags & _BASED),
        moments=bool(flags & _MOMENTS),
        address=address,
        advertised=advertised,
        history=_HISTORIES[history],
        pin=pin,
        cut=cut,
        jump=jump,
        on_lost=on_lost,
        order=order,
    )


def _kept(body: bytes, at: int, flags: int) -> list[Kept | None]:
    """Pin, cut and jump, of which those that there are lie one behind the other."""
    found = list[Kept | None]()
    for flag in (_PIN, _CUT, _JUMP):
        found.append(Kept(*_KEPT.unpack_from(body, at)) if flags & flag else None)
        at += _KEPT.size * bool(flags & flag)
    return found


def _last(body: bytes, at: int, flags: int) -> tuple[OnLost, ResyncOrder]:
    """What becomes of answers when it is lost, and what was ordered, which stand behind pin, cut and jump."""
    lost, order = BLOCK_WHEN_LOST, NO_ORDER
    at += _KEPT.size * sum(bool(flags & flag) for flag in (_PIN, _CUT, _JUMP))
    try:
        if flags & _ON_LOST:
            lost, at = unpack_on_lost(body, at), at + ON_LOST_BYTES
        if flags & _ORDER:
            order = unpack_order(body, at)
    except ValueError as error:
        raise newer_format(f"A mirror has {error}, which this version does not know.") from None
    return lost, order


def _texts(data: bytes, *sizes: int) -> list[str]:
    """Texts of these sizes, one behind the other."""
    found, at = list[str](), 0
    for size in sizes:
        found.append(data[at : at + size].decode())
        at += size
    return found


def unpack_mirror(body: bytes) -> MirrorState:
    """MIRROR, as it was written before MEMBER: B mode, B joined, 6x zero, Q point, Q write number, name."""
    mode, joined, point, write = _MIRROR.unpack_from(body)
    return MirrorState(body[_MIRROR.size :].decode(), MirrorMode(mode), bool(joined), point, write)


def pack_source(name: str) -> bytes:
    """SOURCE: H bytes of the certificate name, H and I zero, the name in UTF-8; an empty name: any."""
    return _SOURCE.pack(len(name.encode()), 0, 0) + name.encode()


def unpack_source(body: bytes) -> str:
    size, _, _ = _SOURCE.unpack_from(body)
    return body[_SOURCE.size : _SOURCE.size + size].decode()


def pack_listener(listener: Listener) -> bytes:
    """LISTENER: H bytes of the address, H bytes of the advertised one, I zero; both in UTF-8."""
    address, advertised = listener.address.encode(), listener.advertised.encode()
    return _LISTENER.pack(len(address), len(advertised), 0) + address + advertised


def unpack_listener(body: bytes) -> Listener:
    address_size, advertised_size, _ = _LISTENER.unpack_from(body)
    return Listener(*_texts(body[_LISTENER.size :], address_size, advertised_size))


def other_mirrors(mirrors: tuple[MirrorState, ...], name: str) -> tuple[MirrorState, ...]:
    """All mirrors but the one of this name."""
    return tuple(mirror for mirror in mirrors if mirror.name != name)
