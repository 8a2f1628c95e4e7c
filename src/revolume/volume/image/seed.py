"""A seed: a raw image, of a shipped disk for example, that a new copy begins with in place of zeroes.

Its blocks become the image, each with its digest, before the copy's manifest is made: what is cut short leaves no
volume. It is nobody's state, as any base that has not come; what differs from its source's point is sent.

Runs in the helper process. Holes stay holes, and blocks of zeroes become some.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Final

import numpy as np

from revolume.blocks.digest import ZERO_DIGEST, digest_array
from revolume.blocks.extents import contiguous
from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, WriteNumber
from revolume.errors import Refused
from revolume.host.disk import Disk, File
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.digest_writer import DigestWriter
from revolume.volume.metadata import layout

PIECE: Final = 8 << 20
GENERATION: Final = 1
"""Of the digests, when the seed has been taken."""


@dataclass(frozen=True, slots=True)
class SeedSpec:
    """Take the image ``seed`` as that of the copy in ``path``, of a volume of ``size`` bytes."""

    path: str
    seed: str
    volume: bytes
    size: int


def seed_bytes(disk: Disk, seed: str) -> int:
    """The size of the image. OSError: it can't be read."""
    folder, name = split(seed)
    with closing(disk.open(folder)) as directory, closing(directory.open(name, write=False)) as image:
        return image.size()


def check_seed(disk: Disk, seed: str, volume: str, size: int) -> None:
    """Refused: it can't be the beginning of a copy of a volume of ``size`` bytes."""
    try:
        found = seed_bytes(disk, seed)
    except OSError as error:
        cause = f"The seed {seed} can't be read: {error.strerror}."
        raise Refused("seed-unreadable", cause, "Name a raw image that the node may read.") from error
    if found != size:
        raise Refused(
            "seed-size", f"The seed {seed} has {found} bytes, and the volume {volume} has {size}.",
            "Name an image of the same size; or begin without a seed.",
        )  # fmt: skip


def take_seed(disk: Disk, spec: SeedSpec) -> int:
    """Blocks that are not zero. OSError: it could not be read, or the disk has no room: there is no volume."""
    with ExitStack() as held:
        folder, name = split(spec.seed)
        source = held.enter_context(closing(disk.open(folder)))
        seed = held.enter_context(closing(source.open(name, write=False)))
        directory = held.enter_context(closing(disk.open(spec.path)))
        image = held.enter_context(closing(directory.open(layout.IMAGE, create=True)))
        image.truncate(0)
        image.truncate(spec.size)
        BlockDigests.create(directory, spec.volume, -(-spec.size // BLOCK)).close()
        digests = held.enter_context(closing(DigestWriter.open_to_change(directory, spec.volume, 0)))
        taken = 0
        for begin, length in seed.data_extents(0, spec.size):
            first, end = begin - begin % BLOCK, min(spec.size, -(-(begin + length) // BLOCK) * BLOCK)
            for at in range(first, end, PIECE):
                taken += _take(seed, image, digests, at, min(PIECE, end - at))
        image.datasync()
        digests.commit(WriteNumber(0), Address(0), 0, GENERATION)
        directory.sync()
        return taken


def _take(seed: File, image: File, digests: DigestWriter, at: int, length: int) -> int:
    """Some blocks, the last of which may be the volume's, and short."""
    count = -(-length // BLOCK)
    content = memoryview(bytearray(count * BLOCK))
    seed.preadv([content], at)
    found = digest_array(content, count)
    held = np.flatnonzero(found != ZERO_DIGEST).astype(np.uint64)
    first = at // BLOCK
    _, counts, firsts = contiguous(held)
    for run, begin in zip(counts.tolist(), firsts.tolist(), strict=True):
        piece = content[begin * BLOCK : min((begin + run) * BLOCK, length)]
        image.pwritev([piece], (first + begin) * BLOCK)
    digests.put(held + np.uint64(first), found[held.astype(np.int64)])
    return len(held)


def split(path: str) -> tuple[str, str]:
    """The folder and the name of a file."""
    folder, _, name = path.rpartition("/")
    return folder or ("/" if path.startswith("/") else "."), name
