"""What is left of a volume whose manifests are gone is not overwritten by a new one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.errors import Refused
from revolume.log.write.operations import OP_WRITE
from revolume.volume.metadata.manifest import NAMES
from revolume.volume.open.directory_state import claim_empty
from revolume.volume.open.open import open_volume

from .driver import BLOCK, Driver
from .store import TINY, inline_host, payload


def test_a_log_without_a_manifest_is_no_place_for_a_new_volume(tmp_path: Path) -> None:
    async def run() -> None:
        driver = Driver(inline_host(), tmp_path / "v", 64 * BLOCK, TINY)
        await driver.open()
        await driver.change([(OP_WRITE, 0, payload(1, BLOCK))])
        await driver.volume.close()
        for name in NAMES:
            (driver.path / name).unlink()
        before = {path.name: path.read_bytes() for path in (driver.path / "log").iterdir()}
        again = Driver(inline_host(), tmp_path / "v", 64 * BLOCK, TINY)
        with pytest.raises(Refused, match="holds the log of a volume whose manifest is missing") as refused:
            await open_volume(again.host, str(again.path), replace(TINY, size=64 * BLOCK))
        assert "salvage" in refused.value.hint
        with pytest.raises(Refused, match="holds the log of a volume"):
            claim_empty(again.host.disk, str(again.path))
        assert {path.name: path.read_bytes() for path in (driver.path / "log").iterdir()} == before

    asyncio.run(run())
