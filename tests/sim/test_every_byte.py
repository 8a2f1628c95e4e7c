"""A slice of the campaign that spoils every byte of a little store; and that it sees what it is for."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from typing import Any

import pytest

from revolume.sim.campaigns.every_byte import PAYLOAD, EveryByte, chosen
from revolume.sim.campaigns.every_byte_result import Case
from revolume.sim.oracle.corruption_oracle import Verdict, judged
from revolume.sim.oracle.regions import IDLE, TOLD

EVERY = 263


@pytest.fixture(scope="module")
def campaign() -> EveryByte:
    return EveryByte()


def test_the_store_has_everything_in_it_and_the_judge_lets_it_pass(campaign: EveryByte) -> None:
    store = campaign.store
    assert {region.kind for region in store.regions} == TOLD | IDLE
    for name, content in store.files.items():
        assert sum(r.end - r.start for r in store.regions if r.name == name) == len(content)
    segments = {r.name for r in store.regions if r.kind == "node header"}
    assert len(segments) >= 2 and len(store.contents) >= 5
    assert judged(store, store.platter) == Verdict()


def test_every_byte_is_in_a_case(campaign: EveryByte) -> None:
    """Alone, in a round in which each byte is judged by itself, or, where nobody needs it, with its sector."""
    covered = Counter[tuple[str, int]]()
    for case in campaign.cases():
        if case.what in ("blocks", "fragments", "payloads"):
            for unit in campaign._units(case.what):
                if case.at < unit.end - unit.start:
                    covered[case.phase, unit.name, unit.start + case.at] += 1  # type: ignore[index]
        elif case.what == "spoil":
            covered.update((case.phase, case.name, at) for at in range(case.at, case.more))  # type: ignore[misc]
        elif case.phase in ("meta", "payload"):
            covered[case.phase, case.name, case.at] += 1  # type: ignore[index]
    for region in campaign.store.regions:
        phases = ["payload", "named"] if region.kind in PAYLOAD else ["idle" if region.kind in IDLE else "meta"]
        for phase in phases:
            assert all(covered[phase, region.name, at] == 1 for at in range(region.start, region.end)), region  # type: ignore[index]


def test_a_slice_of_all_cases(campaign: EveryByte) -> None:
    wrong, outcomes = [], Counter[str]()
    for case in chosen(campaign, int(os.environ.get("REVOLUME_EVERY", EVERY)), None):
        found = campaign.judge(case)
        wrong += [f"python -m revolume.sim.campaigns.every_byte --case '{case}'  # {one}" for one in found.wrong]
        for (_, _, outcome), count in found.counts.items():
            outcomes[outcome] += count
    assert not wrong, "\n".join(wrong[:20])
    assert min(outcomes[one] for one in ("refused", "an error of reads", "all right, and check tells")) > 20


def anything(*_: object) -> Any:
    class Agrees(int):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    return Agrees()


LEFT_OUT = {
    "volume.livemap.reader.block_digests": (anything, ["image block"], "payload"),
    "offline.walk.log_walk.payload_holds": (lambda found: True, ["whole block", "fragments"], "payloads"),
    "offline.walk.tolerant_read.block_digests": (anything, ["image block"], "payloads"),
    "chain.page_cache.checksums": (lambda table, *_: table[:, 0], ["map page", "map ranges", "sums page"], "meta"),
    "volume.image.digest_pages._tags_checksum": (anything, ["tags header"], "meta"),
    "log.read.scan.node_header_holds": (lambda *_: True, ["node header"], "meta"),
}


@pytest.mark.parametrize("where", LEFT_OUT)
def test_a_checksum_that_is_left_out_is_missed(
    campaign: EveryByte, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without, kinds, phase = LEFT_OUT[where]
    module, name = f"revolume.{where}".rsplit(".", 1)
    assert hasattr(importlib.import_module(module), name)
    monkeypatch.setattr(f"{module}.{name}", without)
    for kind in kinds:
        assert any(campaign.judge(case).wrong for case in some_of(campaign, kind, phase)), kind


def some_of(campaign: EveryByte, kind: str, phase: str) -> list[Case]:
    """A few bytes of such a region, or a few rounds in which one of its bytes is spoilt."""
    found = [region for region in campaign.store.regions if region.kind == kind]
    if phase == "payloads":
        return [Case("named", "payloads", "*", at) for at in (0, 99)]
    what = "byte" if phase == "payload" else "flip"
    places = [(region.name, at) for region in found for at in range(region.start, region.end)]
    return [Case(phase, what, name, at) for name, at in places[:: max(1, len(places) // 80)]]
