"""The marks of one comparison: which moments it proved suspect, where, and why; as a file.

A file is written once, synced before the manifest names it (``metadata/suspect_edits.py``), and replaced by
another where a mark changes. It lies in ``suspect/``.

     0  8s  magic "RVSUSPC1"     8 I format 1     12 H bytes of the cause     14 H bytes of the branch's name
    16  16s volume id
    32  16s reign id of the opening whose write numbers these are     48 Q point at which the comparison began
    56  Q   wall time at which it was stored, ns     64 Q rows
    72      the cause, then the branch's name, UTF-8, zeroes up to a multiple of 8
     …      rows x (Q first block, Q blocks, Q since write, Q until write); until 2 to 63 - 1: not repaired yet
     …  Q   XXH3-64 of everything before, seeded by the volume
All numbers are little endian.
"""

from __future__ import annotations

import struct
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
import xxhash

from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.log.format.transfer import volume_seed
from revolume.volume.metadata import layout
from revolume.volume.suspect.suspect_rows import ROW, Rows, sound

_HEAD: Final = struct.Struct("<8sIHH16s16sQQQ")
_MAGIC: Final = b"RVSUSPC1"
_FORMAT: Final = 1
_CHECK: Final = struct.Struct("<Q")
CAUSE_BYTES_MAX: Final = 200

assert _HEAD.size == 72


@dataclass(frozen=True, slots=True)
class Marks:
    """``reign``: the opening whose write numbers ``rows`` have. ``point``: at which the comparison began; 0: none
    was made. ``made_ns``: wall time. ``cause``: why, for people. ``branch``: they are of what this copy has taken
    back, under that name; "": of the volume."""

    reign: bytes
    point: int
    made_ns: int
    cause: str
    rows: Rows
    branch: str = ""


def pack_marks(volume: bytes, marks: Marks) -> bytes:
    """The whole file."""
    cause, branch = marks.cause.encode()[:CAUSE_BYTES_MAX], marks.branch.encode()
    head = _HEAD.pack(
        _MAGIC, _FORMAT, len(cause), len(branch), volume, marks.reign, marks.point, marks.made_ns, len(marks.rows)
    )  # fmt: skip
    texts = cause + branch
    data = head + texts.ljust(_padded(len(texts)), b"\0") + marks.rows.tobytes()
    return data + _CHECK.pack(xxhash.xxh3_64_intdigest(data, volume_seed(volume)))


def unpack_marks(volume: bytes, data: bytes) -> Marks | None:
    """The marks in a file; None: it is not what was written."""
    end = len(data) - _CHECK.size
    if (
        end < _HEAD.size
        or xxhash.xxh3_64_intdigest(data[:end], volume_seed(volume)) != _CHECK.unpack(data[end:])[0]
    ):
        return None
    magic, version, size, named, held, reign, point, made_ns, count = _HEAD.unpack_from(data)
    at = _HEAD.size + _padded(size + named)
    if magic != _MAGIC or version != _FORMAT or held != volume or at + count * ROW.itemsize != end:
        return None
    rows = np.frombuffer(data, ROW, count, at)
    texts = data[_HEAD.size : _HEAD.size + size + named]
    cause, branch = texts[:size].decode(errors="replace"), texts[size:].decode(errors="replace")
    return Marks(reign, point, made_ns, cause, rows, branch) if sound(rows) else None


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def write_marks(volume_directory: Directory, volume: bytes, number: int, marks: Marks) -> None:
    """Write the file of this number; it and its name are durable when it returns. What an earlier attempt left
    under the name is thrown away."""
    name = layout.marks_name(number)
    with closing(volume_directory.child(layout.SUSPECT, create=True)) as directory:
        if directory.exists(name):
            directory.remove(name)
        with closing(directory.open(name, create=True, exclusive=True)) as file:
            file.pwritev([pack_marks(volume, marks)], 0)
            file.datasync()
        directory.sync()
    volume_directory.sync()


def read_marks(volume_directory: Directory, volume: bytes, number: int) -> Marks:
    """The marks in the file of this number. Damaged: it is missing, can't be read, or is not what was written."""
    name = layout.marks_name(number)
    try:
        with (
            closing(volume_directory.child(layout.SUSPECT)) as directory,
            closing(directory.open(name, write=False)) as file,
        ):
            data = bytearray(file.size())
            got = file.preadv([data], 0) if data else 0
    except OSError:  # a copy is opened whatever has become of this file
        got, data = 0, bytearray()
    marks = unpack_marks(volume, bytes(data[:got]))
    if marks is None:
        raise Damaged(
            "marks-damaged",
            f"The file {layout.SUSPECT}/{name}, which says which blocks of the history are suspect, is damaged.",
            "The period is known, and all of it counts as suspect.",
        )
    return marks


def sweep_marks(volume_directory: Directory, numbers: set[int]) -> None:
    """Remove the files that nothing names any more."""
    if not volume_directory.exists(layout.SUSPECT):
        return
    kept = {layout.marks_name(number) for number in numbers}
    with closing(volume_directory.child(layout.SUSPECT)) as directory:
        for name in directory.names():
            if name not in kept:
                with suppress(OSError):  # what the disk does not let go of now goes another time
                    directory.remove(name)
