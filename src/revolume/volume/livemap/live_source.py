"""The live volume as something to read: the live map, with the partial buffer beside it."""

from __future__ import annotations

from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.partial_blocks import PartialBlocks
from revolume.volume.livemap.reader import ReadVersion


class WholeVersions:
    """The whole versions that the live map names: what partially modified blocks stand on, never those blocks
    themselves."""

    def __init__(self, live: LiveMap, image: VolumeImage) -> None:
        self._image = image
        self.lookup = live.lookup
        self.settle = live.settle

    @property
    def generation(self) -> int:
        """Counts folds and new bases."""
        return self._image.generation

    def partial(self, block: int) -> bytes | bytearray | None:
        """Not at hand here."""
        return None

    async def merge_partial(self, block: int, read_version: ReadVersion) -> None:
        """Nothing is merged here."""

    async def mended(self) -> bool:
        """A base map that is damaged is renewed by the volume's upkeep."""
        return False


class LiveSource(WholeVersions):
    """The newest version of every block."""

    def __init__(self, live: LiveMap, image: VolumeImage, partials: PartialBlocks) -> None:
        super().__init__(live, image)
        self._partials = partials

    def partial(self, block: int) -> bytes | bytearray | None:
        """The content of a block in the partial buffer; None while its base is still to be read."""
        partial = self._partials.blocks.get(block)
        return None if partial is None else partial.data

    async def merge_partial(self, block: int, read_version: ReadVersion) -> None:
        """Read the base of a block in the partial buffer, if that is still to be done."""
        partial = self._partials.blocks.get(block)
        if partial is not None and partial.data is None:
            base = await read_version(block, partial.base_word, partial.base_digest)
            partial.merge(base)
