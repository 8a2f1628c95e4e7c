"""What the demo does to the volume itself, over NBD with revolume's own client."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from revolume.host import real_host
from revolume.nbd.client import Client

BLOCK = 4096
GROUP_BLOCKS = 32768  # of an ext4 with 4 KiB blocks
STEP = 1 << 20


def write_differences(uri: str, changed: Path) -> None:
    """Make the volume equal to the file ``changed``, writing only the blocks that differ."""
    asyncio.run(_write_differences(uri, changed))


def scribble(uri: str) -> int:
    """Overwrite the superblock, then descriptors and inode tables, one block a write; how many writes."""
    return asyncio.run(_scribble(uri))


async def _write_differences(uri: str, changed: Path) -> None:
    host = real_host()
    client = await Client.connect(host, uri)
    with changed.open("rb") as file:
        for offset in range(0, client.size, STEP):
            wanted = file.read(STEP)
            there = await client.read(offset, len(wanted))
            for at in range(0, len(wanted), BLOCK):
                block = wanted[at : at + BLOCK]
                if there[at : at + BLOCK] != block:
                    await client.write(offset + at, block)
    await client.flush()
    await client.close()
    await host.work.close()


async def _scribble(uri: str) -> int:
    """The superblock goes first, so the very first of these writes is the one that breaks it."""
    chance = random.Random("scribble")
    host = real_host()
    client = await Client.connect(host, uri)
    last = client.size // BLOCK
    blocks = [0, *chance.sample(range(1, min(600, last)), 150)]
    blocks += range(GROUP_BLOCKS, last, GROUP_BLOCKS)
    for block in blocks:
        await client.write(block * BLOCK, chance.randbytes(BLOCK))
    await client.flush()
    await client.close()
    await host.work.close()
    return len(blocks)


def churn(uri: str, writes: int, answered: list[int]) -> None:
    """Write blocks behind the file system's reach one after the other, each again when the link fails; the number
    of each is noted once it is answered."""
    asyncio.run(_churn(uri, writes, answered))


async def _churn(uri: str, writes: int, answered: list[int]) -> None:
    """The last blocks of the volume are unused by the file system: each is written back as it was."""
    host = real_host()
    client = await Client.connect(host, uri)
    last = client.size // BLOCK
    for number in range(writes):
        offset = (last - 1 - number % 64) * BLOCK
        content = await client.read(offset, BLOCK)
        await client.write(offset, content)
        answered.append(number)
        await asyncio.sleep(0.002)
    await client.flush()
    await client.close()
    await host.work.close()
