"""A slice of the cases in which the n-th call fails; and that the oracle sees what it is for."""

from __future__ import annotations

import os

import pytest

from revolume.log.commit import Commit
from revolume.sim.nth.alone import Alone
from revolume.sim.nth.case import ONCE, Case
from revolume.sim.nth.total import run
from revolume.volume.manifest import Manifest

EVERY = 23


def test_the_history_without_a_fault_does_everything() -> None:
    found = Alone(None).play()
    assert not found.said and not found.wrong
    names = {"open", "create", "mkdir", "rename", "remove", "list", "lock", "stat", "statfs", "dirsync"}
    assert names | {"read", "write", "datasync", "truncate", "allocate", "punch", "size"} <= set(found.calls)
    assert len(found.sites) > 80


def test_a_slice_of_all_failures() -> None:
    (total,) = run(["alone"], int(os.environ.get("REVOLUME_EVERY", EVERY)), None, 0, None, lambda line: None)
    assert not total.failures, "\n".join(total.failures[:10])
    assert total.judged == total.planned > 50


def test_a_sync_that_is_tried_again_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one succeeds and proves nothing: what the first has lost is gone after a power cut."""

    async def careless(self: Commit) -> None:
        target, files, self._dirty = self._position(), list(self._dirty.values()), {}
        for file in files:
            try:
                await self._work.call_sync(file.datasync)
            except OSError:
                await self._work.call_sync(file.datasync)
        self._advance(target)

    monkeypatch.setattr(Commit, "_sync_once", careless)
    calls = Alone(None).play().calls["datasync"]
    assert any(Alone(Case("alone", "datasync", n, "EIO", ONCE)).play().wrong for n in range(1, calls + 1, 3))


def test_a_manifest_that_swallows_errors_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its edits are said to be durable and are not."""
    record = Manifest.record

    def careless(self: Manifest, *edits: object) -> None:
        state = self.state
        try:
            record(self, *edits)  # type: ignore[arg-type]
        except OSError:
            self.state, self.failure = state, None

    monkeypatch.setattr(Manifest, "record", careless)
    calls = Alone(None).play().calls
    assert any(Alone(Case("alone", "write", n, "EIO", ONCE)).play().wrong for n in range(1, calls["write"] + 1))
