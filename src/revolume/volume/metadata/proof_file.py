"""The file ``proofs``: on which moments a command was run, and whether it passed. The newest ones, oldest first.

    0  8s magic "RVPROOF\\0"      8 Q format 1     16 Q rows
   24  rows: Q write   Q point at or before it   Q when it ended, ns   Q how long it took, ms
             I verdict   I bytes of the command   the command, UTF-8
   at the end Q XXH3-64 over all of it before

It says nothing of the volume itself: without it, or where it is not whole, there are no proofs. It is replaced
as a whole, in one step.
"""

from __future__ import annotations

import struct
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from revolume.blocks.digest import fragment_digest
from revolume.blocks.numbers import WriteNumber
from revolume.host.disk import Directory
from revolume.volume.metadata import layout

PROOFS_MAX: Final = 64
COMMAND_BYTES_MAX: Final = 512
_MAGIC: Final = b"RVPROOF\0"
_HEAD = struct.Struct("<8sQQ")
_ROW = struct.Struct("<QQQQII")
_SUM = struct.Struct("<Q")
_BYTES_MAX: Final = _HEAD.size + PROOFS_MAX * (_ROW.size + COMMAND_BYTES_MAX) + _SUM.size


class Verdict(IntEnum):
    """How the command ended."""

    FAILED = 0
    PASSED = 1
    TIMED_OUT = 2


@dataclass(frozen=True, slots=True)
class Proof:
    """The moment after ``write`` was tried by ``command``, which ended at ``time_ns`` by the wall clock."""

    write: WriteNumber
    point: int
    time_ns: int
    duration_ms: int
    verdict: Verdict
    command: str


def read_proofs(directory: Directory) -> tuple[Proof, ...]:
    """Those that the volume in ``directory`` has, oldest first; none where the file is not whole."""
    try:
        with closing(directory.open(layout.PROOFS, write=False)) as file:
            body = bytearray(min(file.size(), _BYTES_MAX))
            file.preadv([body], 0)
    except OSError:
        return ()
    with suppress(ValueError, struct.error):
        return _unpacked(bytes(body))
    return ()


def add_proof(directory: Directory, proof: Proof) -> None:
    """One more, durably; of more than ``PROOFS_MAX`` the oldest goes. One caller at a time. OSError."""
    proofs = (*read_proofs(directory), proof)[-PROOFS_MAX:]
    new = f"{layout.PROOFS}.new"
    with closing(directory.open(new, create=True)) as file:
        file.truncate(0)
        file.pwritev([_packed(proofs)], 0)
        file.datasync()
    directory.rename(new, layout.PROOFS)
    directory.sync()


def _packed(proofs: tuple[Proof, ...]) -> bytes:
    body = _HEAD.pack(_MAGIC, 1, len(proofs))
    for each in proofs:
        command = each.command.encode()[:COMMAND_BYTES_MAX]
        body += _ROW.pack(
            each.write, each.point, each.time_ns, each.duration_ms, each.verdict, len(command)
        ) + command  # fmt: skip
    return body + _SUM.pack(fragment_digest(body))


def _unpacked(body: bytes) -> tuple[Proof, ...]:
    magic, version, count = _HEAD.unpack_from(body)
    stated = _SUM.unpack_from(body, len(body) - _SUM.size)[0]
    if magic != _MAGIC or version != 1 or stated != fragment_digest(body[: -_SUM.size]):
        raise ValueError("not a whole file of proofs")
    found, at = [], _HEAD.size
    for _ in range(count):
        write, point, time_ns, duration, verdict, length = _ROW.unpack_from(body, at)
        at += _ROW.size
        command = body[at : at + length].decode(errors="replace")
        at += length
        found.append(Proof(WriteNumber(write), point, time_ns, duration, Verdict(verdict), command))
    return tuple(found)
