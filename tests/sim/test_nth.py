"""A slice of the cases in which the n-th call fails; and that the oracle sees what it is for."""

from __future__ import annotations

import os

import pytest

from revolume.log.write.group_commit import GroupCommit
from revolume.sim.campaigns.call_failures.case import ONCE, Case, Found
from revolume.sim.campaigns.call_failures.injector import LONE
from revolume.sim.campaigns.call_failures.mirrored import Mirrored
from revolume.sim.campaigns.call_failures.single import Alone
from revolume.sim.campaigns.call_failures.summary import STAGES, run
from revolume.volume.members.mirrors import Mirrors
from revolume.volume.metadata.manifest import Manifest

EVERY = {"alone": 53, "mirror": 139, "source": 139}


def test_the_history_without_a_fault_does_everything() -> None:
    found = Alone(None).play()
    assert not found.said and not found.wrong
    names = {"open", "create", "mkdir", "rename", "remove", "list", "lock", "stat", "statfs", "dirsync"}
    assert names | {"read", "write", "datasync", "truncate", "allocate", "punch", "size"} <= set(found.calls)
    assert len(found.sites) > 80


def test_a_pair_without_a_fault_does_everything() -> None:
    mirror, source = Mirrored(None, "b").play(), Mirrored(None, "a").play()
    for found in (mirror, source):
        assert not found.said and not found.wrong
    done = {site.split(":")[0] for site in mirror.sites}
    assert {
        "write volume/image/base_receiver.py",
        "write volume/image/image_writer.py",
        "read mirror/log_sender.py",
    } <= done
    assert {"open chain/map_builder.py", "read log/read/recovery.py", "write log/write/appender.py"} <= done
    assert len(mirror.sites) > 90 and len(source.sites) > 80


@pytest.mark.parametrize("stage", STAGES)
def test_a_slice_of_all_failures(stage: str) -> None:
    (total,) = run([stage], int(os.environ.get("REVOLUME_EVERY", EVERY[stage])))
    assert not total.failures, "\n".join(total.failures[:10])
    assert total.judged == total.planned >= 4


def test_an_answer_that_does_not_wait_for_the_mirror_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mirrors, "released", lambda self, position: True)
    assert any("its mirror has not received it" in wrong for wrong in Mirrored(None, "b").play().wrong)


def test_a_mirror_that_tries_a_sync_again_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was flushed is not on its disk, although the sync after that one succeeded."""
    first = Mirrored(None, "b").play().first["datasync"]
    monkeypatch.setattr(GroupCommit, "_sync_once", tried_again)
    syncs = sorted(number for place, number in first.items() if place.startswith(LONE))
    seen = ("mirror's log ends", "was durable")
    assert any(words in wrong for n in syncs for wrong in _mirror("datasync", n).wrong for words in seen)


def _mirror(call: str, number: int) -> Found:
    return Mirrored(Case("mirror", call, number, "EIO", ONCE), "b").play()


async def tried_again(self: GroupCommit) -> None:
    """Not what to do when a sync fails."""
    target, files, self._dirty, self.unsynced_bytes = self._position(), list(self._dirty.values()), {}, 0
    for file in files:
        try:
            await self._work.call_sync(file.datasync)
        except OSError:
            await self._work.call_sync(file.datasync)
    self._advance(target)


def test_a_sync_that_is_tried_again_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one succeeds and proves nothing: what the first has lost is gone after a power cut."""

    monkeypatch.setattr(GroupCommit, "_sync_once", tried_again)
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
