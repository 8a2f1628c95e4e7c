"""The volume made for the bench is one that opens, reads right and takes writes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.populated import BLOCK, populate
from revolume.host import real_host
from revolume.log.write.operations import OP_WRITE, Op
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.primary import Volume

SIZE = 2 << 30
GiB = 1 << 30
CONTENT = bytes(range(256)) * 16


async def block(volume: Volume, offset: int) -> bytes:
    view = memoryview(bytearray(BLOCK))
    await volume.read(offset, view)
    return bytes(view)


async def written_over(volume: Volume, offset: int) -> bytes:
    ops: list[Op] = [(OP_WRITE, offset, BLOCK, memoryview(b"n" * BLOCK))]
    await volume.room(ops)
    volume.append(ops)
    await volume.cut()
    return await block(volume, offset)


async def made_and_opened(path: Path) -> None:
    entries = await populate(path, "vol", SIZE)
    assert entries == GiB // BLOCK  # the first GiB is the image's
    host = real_host()
    volume = await open_volume(host, str(path), OpenOptions(spare_bytes=128 << 20))
    volume.start()
    try:
        base = volume.live.base
        assert base is not None and len(base) == base.verify() == entries
        assert volume.image.digests.verify() == -(-SIZE // BLOCK // 511)
        for offset in (0, GiB - BLOCK):
            assert await block(volume, offset) == bytes(BLOCK)
        for offset in (GiB, SIZE - BLOCK):
            assert await block(volume, offset) == CONTENT
        for offset in (BLOCK, GiB + BLOCK):
            assert await written_over(volume, offset) == b"n" * BLOCK
    finally:
        await volume.close()
        await host.work.close()


def test_every_block_is_mapped_and_reads_right(tmp_path: Path) -> None:
    asyncio.run(made_and_opened(tmp_path / "vol"))
