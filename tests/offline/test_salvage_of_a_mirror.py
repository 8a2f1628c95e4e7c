"""What ``salvage`` makes of a mirror's directory: whose image is half there, whose source has lied."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.digest import fragment_digest
from revolume.host import real_host
from revolume.offline.salvage.salvage import salvage
from revolume.offline.walk.report import SalvageReport
from revolume.volume.metadata.manifest import NAMES
from tests.mirror.scripted import SIZE, Stage, content
from tests.mirror.test_claims_d_lies import history, omitted
from tests.volume.driver import Model, assert_equal


@pytest.fixture(params=[False, True], ids=["whole", "bare"])
def salvaged(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], tuple[SalvageReport, bytes]]:
    def run() -> tuple[SalvageReport, bytes]:
        if request.param:
            for name in NAMES:
                (tmp_path / "m" / name).unlink(missing_ok=True)
            shutil.rmtree(tmp_path / "m" / "maps", ignore_errors=True)
        report = salvage(real_host(), str(tmp_path / "m"), str(tmp_path / "out"))
        return report, (tmp_path / "out").read_bytes()

    return run


def test_half_a_base_is_not_taken_for_the_whole(
    tmp_path: Path, salvaged: Callable[[], tuple[SalvageReport, bytes]]
) -> None:
    async def half() -> Stage:
        made = Stage(real_host(), tmp_path / "m")
        await made.open(made.script.birth())
        blocks = sorted(made.script.base)[:4]
        data = [made.script.base[block] for block in blocks]
        digests = np.array([fragment_digest(one) for one in data], np.uint64)
        await made.secondary.put_base(np.array(blocks, np.uint64), digests, b"".join(data), 4)
        made.script.whole(20, 3)
        made.script.point()
        await made.ship()
        await made.close()
        return made

    asyncio.run(half())
    report, _ = salvaged()
    assert any("is not complete" in p.what or "is missing; so may be" in p.what for p in report.problems)
    assert not report.good


def test_what_a_source_answered_wrongly_is_no_version_of_a_block(
    tmp_path: Path, salvaged: Callable[[], tuple[SalvageReport, bytes]]
) -> None:
    """The mirror refused that point, and has the answer in its log all the same."""

    async def refused() -> Stage:
        made = Stage(real_host(), tmp_path / "m")
        await made.begin()
        history(made)
        await made.agreed()
        history(made)
        made.answer = lambda point, blocks: {11: content(4321)}
        made.script.point(omitted)
        await made.ship()
        await made.settle()
        assert made.secondary.failure is not None
        await made.close()
        return made

    made = asyncio.run(refused())
    report, found = salvaged()
    assert not report.lost and not report.unproved
    assert_equal(found, Model.content(SIZE, made.script.content), "salvaged")
