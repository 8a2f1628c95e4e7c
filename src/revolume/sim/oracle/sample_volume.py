"""A small volume with everything in it, stopped cleanly: what whoever damages stores begins with.

Segments of the smallest size, whole blocks and fragments, zeroes small and large, a folded image with its digests,
points whose blocks were put together, a base map with ranges, a snapshot, a moment with a block written in part,
footers, two manifests. Few writes are retained, so that all of them can be looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from revolume.blocks.geometry import BLOCK
from revolume.host import Host
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.sim.kernel.chance import Chance, SimEntropy
from revolume.sim.kernel.clock import SimClock
from revolume.sim.kernel.disk import SimDisk, Watch
from revolume.sim.kernel.disk_faults import DiskFaults
from revolume.sim.kernel.fabric import Fabric
from revolume.sim.kernel.loop import SimLoop
from revolume.sim.kernel.network import SimNetwork
from revolume.sim.kernel.process import Process
from revolume.sim.kernel.simulated_fs import Folder, Inode, Platter
from revolume.sim.kernel.trace import Trace
from revolume.sim.kernel.work import SimWork
from revolume.sim.oracle.model import Model, blocks_of
from revolume.sim.oracle.regions import Region, contents_of, regions
from revolume.volume.metadata.layout import MIN_SEGMENT_BYTES
from revolume.volume.open.open import open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.primary import Volume

PATH = "/vol"
BLOCKS = 272
SIZE = BLOCKS * BLOCK
OPTIONS = OpenOptions(
    cp_interval_s=3600.0, keep_s=3600.0, budget_bytes=1 << 30, map_memory_bytes=16 << 20,
    segment_bytes=MIN_SEGMENT_BYTES, spare_bytes=0, reserve_bytes=0, rung_versions=8,
)  # fmt: skip
Change = tuple[int, int, bytes | int]
"""Kind, offset, and what: bytes, or how many."""
Result = TypeVar("Result")


class SimProcess:
    """One process on a file system of its own, from its start until it is killed."""

    def __init__(self, platter: Platter, seed: int, not_in_memory: float = 0.0) -> None:
        chance, trace = Chance(seed, "life"), Trace()
        self.platter = platter
        self.faults = DiskFaults(not_in_memory=not_in_memory)
        self.loop = SimLoop(chance.stream("loop"), trace)
        self.process = Process("a", "a.1")
        self.disk = SimDisk(platter, self.process, self.faults, chance.stream("disk"), trace)
        fabric = Fabric(self.loop, chance.stream("network"), trace)
        self.host = Host(
            SimClock(self.loop), SimEntropy(chance.stream("entropy")), self.disk,
            SimWork(self.process, self.disk, chance.stream("work")), SimNetwork(fabric, self.process),
        )  # fmt: skip

    def __enter__(self) -> SimProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.die()
        self.loop.end_world()

    def run(self, job: Coroutine[Any, Any, Result]) -> Result:
        """Until it is done."""
        return self.loop.run_until_complete(self.loop.create_task(job, context=self.process.context.copy()))

    def watch(self, watch: Watch) -> None:
        """Tell it of every call from now on."""
        self.disk.watch = watch


@dataclass(slots=True)
class SampleVolume:
    """The store: its disk, and what each of its retained moments must be."""

    platter: Platter
    contents: dict[int, bytes]
    regions: list[Region]
    files: dict[str, bytes]
    seed: int
    interesting: list[int] = field(default_factory=list)
    """Blocks that are not zero at some moment, and one that always is."""

    @property
    def newest(self) -> int:
        """The last write."""
        return max(self.contents)


def payload(number: int, length: int) -> bytes:
    """Bytes of their own for each number."""
    return Chance(number, "payload").randbytes(length)


async def append(volume: Volume, model: Model, *changes: Change) -> None:
    """One batch; the model learns of it what the volume did."""
    ops: list[Op] = [
        (kind, offset, len(what), memoryview(what)) if isinstance(what, bytes) else (kind, offset, what, None)
        for kind, offset, what in changes
    ]
    while True:
        first = volume.log.appender.write + 1
        try:
            volume.append(ops)
            break
        except WouldBlock:
            await volume.room(ops)
    model.accepted(first, ops)


async def history(host: Host, model: Model) -> int:
    """Make the volume; the oldest write that is retained."""
    volume = await open_volume(host, PATH, replace(OPTIONS, size=SIZE, name="little"))
    await append(volume, model, (OP_WRITE, 0, payload(1, 3 * BLOCK)))
    await append(volume, model, (OP_WRITE, 50 * BLOCK + 100, payload(2, 5000)), (OP_ZERO, 2 * BLOCK + 5, 3000))
    await volume.point_maker.cut()
    await append(volume, model, (OP_WRITE, 267 * BLOCK, payload(3, 2 * BLOCK)))
    await volume.point_maker.cut()
    await volume.folder.step(True)
    await append(volume, model, (OP_WRITE, 9 * BLOCK + 512, payload(4, 2 * BLOCK)))
    await volume.snapshot("keep")
    await append(volume, model, (OP_TRIM, 5 * BLOCK, 260 * BLOCK))
    await append(volume, model, (OP_WRITE, 82 * BLOCK, payload(6, 2 * BLOCK)))
    await volume.point_maker.cut()
    await volume.base_maps.renew(force=True)
    await append(
        volume, model, (OP_WRITE, 11 * BLOCK + 7, payload(7, 700)), (OP_WRITE, 83 * BLOCK + 500, payload(8, 2000))
    )
    await volume.point_maker.cut()
    while await volume.ladder.step():
        pass
    await append(volume, model, (OP_WRITE, 84 * BLOCK, payload(9, 2 * BLOCK)))
    oldest = volume.folder.retired_write
    await volume.close()
    return oldest


def make(seed: int = 1) -> SampleVolume:
    """The store."""
    model = Model(SIZE)
    with SimProcess(Platter(64 << 20), seed) as life:
        oldest = life.run(history(life.host, model))
    contents = {number: content(blocks) for number, blocks in model.moments.items() if number >= oldest}
    blocks = sorted({block for whole in contents.values() for block in blocks_of(whole)} | {BLOCKS - 1})
    with SimProcess(life.platter.copy(), seed) as looker:
        directory = looker.disk.open(PATH)
        return SampleVolume(looker.platter, contents, regions(directory), contents_of(directory), seed, blocks)


def content(blocks: dict[int, bytes]) -> bytes:
    """All of the volume."""
    whole = bytearray(SIZE)
    for block, data in blocks.items():
        whole[block * BLOCK : (block + 1) * BLOCK] = data
    return bytes(whole)


def inode(platter: Platter, name: str) -> Inode:
    """A file of the store."""
    node: Inode | Folder = platter.root.memory[PATH.strip("/")]
    for part in name.split("/"):
        assert isinstance(node, Folder)
        node = node.memory[part]
    assert isinstance(node, Inode)
    return node


def damaged(store: SampleVolume, name: str, change: Callable[[bytearray], None]) -> Platter:
    """Its disk with one file changed."""
    platter = store.platter.copy()
    found = inode(platter, name)
    change(found.memory)
    found.disk[:] = found.memory
    return platter
