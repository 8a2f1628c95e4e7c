"""The files that hold blocks, as what heals them sees them."""

from __future__ import annotations

from typing import Protocol

from revolume.host.disk import Buffer


class Files(Protocol):
    """Log, rescue files and image of a volume; the real one is ``livemap/reader.py``."""

    def pread(self, kind: int, address: int, buffers: list[Buffer], nowait: bool) -> bool:
        """Fill ``buffers`` from log or rescue file (DATA) or the image (else). False: it ends before, or would
        have to wait. KeyError: the file is not there any more."""
