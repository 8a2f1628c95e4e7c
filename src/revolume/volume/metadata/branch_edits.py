"""The bodies of the edits about branches and the cut of the log.

BRANCH
  0      the common point as in HORIZON (88 bytes); its pages generation is of no use
 88  Q   write number of the branch's end     96 Q its time, ns     104 Q the volume's size then, bytes
112  Q   when it was taken back, ns          120 Q number of its table     128 Q number of its file of blocks
136  Q   blocks named                        144 Q of them in the file     152 Q writes
160  Q   numbers of rescue and branch files below this have been given out
168  I   openings     172 I bytes of the name     176 I bytes of the names of snapshots     180 I moments
184      openings as in EPOCH (40 bytes each), the name, then the snapshots' names with a newline between them,
         then the moments within it, oldest first, each: Q write, Q time ns, Q size in bytes, Q point, Q number of
         its table, Q blocks named, I bytes of the name, I zero, the name. Older versions wrote none

DROP_BRANCH  the name in UTF-8
CUT          Q manifest edit, Q position: what stated an edit before this one says nothing of what lies behind
             the position
TOGETHER     other edits, which stand or fall as one: each H kind, H zero, I bytes of the body, body
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from revolume.blocks.numbers import Position, WriteNumber
from revolume.errors import Damaged
from revolume.log.format.log_cut import LogCut
from revolume.volume.metadata.branch_moment import BranchMoment
from revolume.volume.metadata.manifest_state import Branch, State
from revolume.volume.metadata.moment_edits import (
    EPOCH,
    HORIZON,
    pack_epochs,
    pack_horizon,
    unpack_epochs,
    unpack_horizon,
)

_HEAD: Final = struct.Struct("<10QIIII")
_MOMENT: Final = struct.Struct("<6QII")
_CUT: Final = struct.Struct("<QQ")
_PART: Final = struct.Struct("<HHI")

assert HORIZON.size + _HEAD.size == 184


def pack_branch(branch: Branch, following: int) -> bytes:
    """BRANCH. ``following``: numbers below have been given out."""
    name, names = branch.name.encode(), "\n".join(branch.snapshots).encode()
    head = _HEAD.pack(
        branch.write, branch.time_ns, branch.size, branch.made_ns, branch.table, branch.file, branch.blocks,
        branch.data, branch.writes, following, len(branch.openings), len(name), len(names), len(branch.moments),
    )  # fmt: skip
    moments = b"".join(map(_pack_moment, branch.moments))
    return pack_horizon(branch.common) + head + pack_epochs(branch.openings) + name + names + moments


def _pack_moment(moment: BranchMoment) -> bytes:
    name = moment.name.encode()
    head = _MOMENT.pack(
        moment.write, moment.time_ns, moment.size, moment.point, moment.table, moment.blocks, len(name), 0
    )
    return head + name


def _unpack_branch(body: bytes) -> tuple[Branch, int]:
    (
        write, time_ns, size, made_ns, table, file, blocks, data, writes, following, openings, named, names,
        moments,
    ) = _HEAD.unpack_from(body, HORIZON.size)  # fmt: skip
    at = HORIZON.size + _HEAD.size
    name_at = at + openings * EPOCH.size
    names_at = name_at + named
    moments_at = names_at + names
    if len(body) < moments_at:
        raise ValueError("the counts are wrong")
    made = Branch(
        name=body[name_at:names_at].decode(),
        common=unpack_horizon(body),
        write=write,
        time_ns=time_ns,
        size=size,
        made_ns=made_ns,
        table=table,
        file=file,
        blocks=blocks,
        data=data,
        writes=writes,
        openings=unpack_epochs(body[at:name_at]),
        snapshots=tuple(body[names_at:moments_at].decode().split("\n")) if names else (),
        moments=_unpack_moments(body[moments_at:], moments),
    )
    return made, following


def _unpack_moments(body: bytes, count: int) -> tuple[BranchMoment, ...]:
    found, at = [], 0
    for _ in range(count):
        write, time_ns, size, point, table, blocks, named, _ = _MOMENT.unpack_from(body, at)
        at += _MOMENT.size
        name, at = body[at : at + named], at + named
        found.append(BranchMoment(name.decode(), WriteNumber(write), point, time_ns, size, table, blocks))
    if at != len(body):
        raise ValueError("the counts are wrong")
    return tuple(found)


def branched(state: State, body: bytes) -> tuple[tuple[Branch, ...], int]:
    """The branches after BRANCH, and the next number of a file. Damaged: it is not whole."""
    try:
        made, following = _unpack_branch(body)
    except (ValueError, struct.error) as error:
        raise Damaged(
            "manifest-damaged", "A branch in the manifest is not whole.", "Restore it from a mirror."
        ) from error
    return (*without_branch(state, made.name), made), max(state.next_rescue, following)


def without_branch(state: State, name: str) -> tuple[Branch, ...]:
    """The branches but for the one of this name."""
    return tuple(branch for branch in state.branches if branch.name != name)


def pack_cut(cut: LogCut) -> bytes:
    """CUT."""
    return _CUT.pack(cut.edit, cut.position)


def unpack_cut(body: bytes) -> LogCut:
    edit, position = _CUT.unpack_from(body)
    return LogCut(edit, Position(position))


def pack_together(edits: Iterable[tuple[int, bytes]]) -> bytes:
    """TOGETHER."""
    return b"".join(_PART.pack(kind, 0, len(body)) + body for kind, body in edits)


def unpack_together(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        kind, _, size = _PART.unpack_from(body, at)
        at += _PART.size
        if at + size > len(body):
            raise Damaged("manifest-damaged", "An edit of the manifest is not whole.", "Restore it from a mirror.")
        yield kind, body[at : at + size]
        at += size
