"""A fold ends with a new ``image.pages`` under the old one's name. What the old one names must not be written over
before that is on the disk."""

from __future__ import annotations

from dataclasses import replace

from revolume.blocks.geometry import BLOCK
from revolume.log.write.operations import OP_WRITE
from revolume.offline.check.check import check
from revolume.sim.kernel.disk_faults import io_error
from revolume.sim.kernel.simulated_fs import NOTHING, Platter
from revolume.sim.oracle.model import Model
from revolume.sim.oracle.sample_volume import OPTIONS, PATH, SIZE, SimProcess, append, payload
from revolume.volume.open.open import open_volume


class NamesNotSynced:
    """The directory's sync fails, whenever the digests have got their new name."""

    def __init__(self) -> None:
        self.failed = 0
        self._renamed = False

    def __call__(self, call: str, name: str, offset: int, length: int) -> None:
        if call == "dirsync" and self._renamed and name == PATH:
            self.failed += 1
            self._renamed = False
            raise io_error(name)
        self._renamed = self._renamed or (call == "rename" and name.startswith("image.pages"))


def test_two_folds_whose_names_were_not_synced_and_a_power_cut() -> None:
    model, watch = Model(SIZE), NamesNotSynced()

    async def folded(life: SimProcess) -> None:
        volume = await open_volume(life.host, PATH, replace(OPTIONS, size=SIZE, name="folded"))
        for number in range(4):
            await append(volume, model, (OP_WRITE, number * 20 * BLOCK, payload(number, 20 * BLOCK)))
            await volume.point_maker.cut()
            if number == 1:
                assert await volume.folder.step(True), "the old digests are of something"
        await volume.durable(volume.position)
        life.watch(watch)
        for _ in range(2):
            assert not await volume.folder.step(True)
        assert watch.failed == 2

    with SimProcess(Platter(64 << 20), 1) as life:
        life.run(folded(life))
    with SimProcess(life.platter.after(NOTHING), 1) as looker:
        assert check(looker.host, PATH).problems == ()

    async def opened(life: SimProcess) -> None:
        volume = await open_volume(life.host, PATH, OPTIONS)
        content = bytearray(SIZE)
        await volume.read(0, memoryview(content))
        assert not model.differs(model.newest, content)
        assert await volume.folder.step(True)
        await volume.close()

    with SimProcess(life.platter.after(NOTHING), 1) as life:
        life.run(opened(life))
        assert check(SimProcess(life.platter.copy(), 1).host, PATH).problems == ()
