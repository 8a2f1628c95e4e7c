"""The bench's own arithmetic: a target is judged by medians of one run; the chart is well-formed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import memory
from bench.chart import chart
from bench.load import Fio
from bench.memory import Filler
from bench.peers import NbdkitFile, QemuNbd, Revolume
from bench.plan import QUICK, SCALES, Row, Target, rows, targets
from bench.report import beside, judge, ratios, save, table, verdicts
from bench.run import Result, rotated

ROW = Row("r", "a row <&>", Fio("randwrite", 4096, 32, 1), "iops")


def results(ours: list[float], theirs: list[float]) -> dict[tuple[str, str], Result]:
    return {
        ("r", "revolume"): Result("r", "revolume", {"rate": ours, "p50": [10.0]}),
        ("r", "nbdkit file"): Result("r", "nbdkit file", {"rate": theirs, "p50": [5.0]}),
    }


RATIO = Target("ours / theirs", ("r", "revolume", "rate"), ("r", "nbdkit file", "rate"), 1.4)


def test_a_target_compares_medians() -> None:
    (met,) = judge([RATIO], results([100, 141, 900], [100, 100, 1]))
    assert (met["value"], met["met"]) == (1.41, True)
    (missed,) = judge([RATIO], results([139], [100]))
    assert missed["met"] is False
    assert "NOT met" in verdicts([missed])


def test_a_target_from_above() -> None:
    bound = Target("p50", ("r", "revolume", "p50"), ("r", "nbdkit file", "p50"), 1.6, at_least=False)
    (missed,) = judge([bound], results([1], [1]))
    assert (missed["value"], missed["met"]) == (2.0, False)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    (unknown,) = judge([RATIO], {})
    assert unknown["met"] is None
    assert "not measured" in verdicts([unknown])


def test_every_target_speaks_of_a_row_that_exists() -> None:
    keys = {row.key for row in rows(QUICK)} | {"memory-sparse", "memory-full", "crash-open", "new-mirror", "scrub"}
    for target in targets(QUICK):
        for side in (target.left, target.right):
            assert side is None or side[0] in keys


def test_a_figure_may_be_weighed_by_another() -> None:
    weighed = Target("by p50", RATIO.left, RATIO.right, 1.0, times=("r", "nbdkit file", "p50"))
    (one,) = judge([weighed], results([40], [100]))
    assert (one["value"], one["met"]) == (2.0, True)
    (unknown,) = judge([replace(weighed, times=("r", "qemu-nbd", "p50"))], results([40], [100]))
    assert unknown["met"] is None


def test_every_row_is_told_also_where_it_is_lost() -> None:
    (lost,) = ratios([ROW], results([50], [100]))
    assert (lost["right"], lost["value"], lost["verdict"]) == ("nbdkit file", 0.5, "lost")
    assert "lost" in beside([lost])


def test_the_rows_that_must_be_there() -> None:
    for scale in SCALES.values():
        keys = {row.key: row for row in rows(scale)}
        assert len(keys) == len(rows(scale))
        for key in (
            "sustained", "recycled", "randwrite-1", "randread-1", "fua-1", "ingest", "seqwrite", "freshwrite-32",
            "sectorwrite-32", "unaligned-32", "mixed-32", "fourwrite-8", "coldread-32", "momentread",
        ):  # fmt: skip
            assert key in keys
        for key in ("randwrite-1", "fua-1", "seqwrite"):
            assert {"revolume sync", "qemu mirror job"} <= set(keys[key].peers)
        for row in keys.values():
            assert row.key == "ingest" or not isinstance(row.load, Fio) or row.load.time_based
            assert scale is QUICK or row.load.seconds >= 5


def test_the_order_is_rotated() -> None:
    kinds = [Revolume, NbdkitFile, QemuNbd]
    assert {next(iter(rotated(kinds, repetition))) for repetition in range(3)} == set(kinds)
    assert rotated([], 1) == []


def test_memory_is_filled_and_what_a_touch_costs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([1 << 30, 1 << 30, 1 << 30, 0, 0])
    monkeypatch.setattr(memory, "meminfo", lambda name: 1 << 30 if name == "MemTotal" else next(free))
    filler = Filler(tmp_path / "filler")
    filler.fill(60.0)
    told = filler.told()
    assert filler.filled_bytes == 1 << 30
    assert told["first_us_per_page"] is not None and told["again_us_per_page"] is not None
    filler.remove()
    assert not list(tmp_path.iterdir())


def test_table_json_and_chart(tmp_path: Path) -> None:
    found = results([100, 120], [80, 90])
    assert "110 (100–120)" in table([ROW], ["revolume", "nbdkit file"], found)
    told = save(tmp_path / "results.json", QUICK, [ROW], found, judge([RATIO], found), [])
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["peers"]["revolume"]["rate"] == [
        100,
        120,
    ]
    assert ElementTree.fromstring(chart(told)).tag.endswith("svg")
