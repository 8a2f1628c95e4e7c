"""The budget of the log: decided at creation, kept, changed by who gives another, forgotten by nobody."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.history.offline_volume import open_offline
from revolume.host import Host
from revolume.volume.metadata import manifest
from revolume.volume.metadata.manifest import load
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.open.options import OpenOptions

from .driver import SEGMENT, SMALL, abandon
from .store import inline_host, opened

UNASKED = replace(SMALL, budget_bytes=None)
CREATED = replace(UNASKED, size=1 << 20)


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-budget-", dir="/dev/shm"))
    yield made / "v"
    shutil.rmtree(made)


def budget_of(host: Host, place: Path, options: OpenOptions, stop: bool = True) -> int:
    """What the status of a volume opened so says; and after the stop it says the same."""

    async def play() -> int:
        volume = await opened(host, place, options)
        budget = volume.status().log_budget_bytes
        await (volume.close() if stop else abandon(volume))
        return budget

    return asyncio.run(play())


def test_the_default_is_decided_once(place: Path) -> None:
    host = inline_host()
    decided = budget_of(host, place, CREATED)
    assert decided > 4 * SEGMENT
    assert open_offline(host, str(place)).status().log_budget_bytes == decided
    other = place.parent / "other"
    other.write_bytes(bytes(8 << 20))  # less is free now
    for stop in (True, False, True):
        assert budget_of(host, place, UNASKED, stop) == decided


@pytest.mark.parametrize("stop", [True, False])
def test_who_gives_another_changes_it_for_good(place: Path, stop: bool) -> None:
    host = inline_host()
    assert budget_of(host, place, replace(CREATED, budget_bytes=40 * SEGMENT)) == 40 * SEGMENT
    assert budget_of(host, place, UNASKED) == 40 * SEGMENT
    assert budget_of(host, place, replace(UNASKED, budget_bytes=50 * SEGMENT), stop) == 50 * SEGMENT
    assert budget_of(host, place, UNASKED) == 50 * SEGMENT
    assert open_offline(host, str(place)).status().log_budget_bytes == 50 * SEGMENT


def test_for_one_opening_only(place: Path) -> None:
    host = inline_host()
    lent = replace(CREATED, budget_bytes=1 << 60, budget_once=True)
    assert budget_of(host, place, lent) == 1 << 60
    kept = open_offline(host, str(place)).status().log_budget_bytes
    assert 4 * SEGMENT < kept < 1 << 60
    assert budget_of(host, place, replace(lent, size=None)) == 1 << 60
    assert budget_of(host, place, UNASKED) == kept


def test_a_volume_made_before_budgets_were_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = inline_host()
    without: Callable[[manifest.State], list[tuple[EditKind, bytes]]]
    real = manifest.state_edits
    without = lambda state: [edit for edit in real(state) if edit[0] != EditKind.BUDGET]  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(manifest, "state_edits", without)
        patched.setattr("revolume.volume.open.open_context.Ground.retention_edits", lambda self: [])
        budget_of(host, place, replace(CREATED, budget_bytes=40 * SEGMENT))
    directory = host.disk.open(str(place))
    assert load(directory).state.budget == 0
    directory.close()
    decided = budget_of(host, place, UNASKED)
    assert decided > 4 * SEGMENT and budget_of(host, place, UNASKED) == decided
