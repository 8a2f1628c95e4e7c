"""The bench's own arithmetic: a target is judged by medians of one run; the chart is well-formed."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from bench.chart import chart
from bench.load import Fio
from bench.plan import QUICK, Row, Target, rows, targets
from bench.report import judge, save, table, verdicts
from bench.run import Result

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
    keys = {row.key for row in rows(QUICK)} | {"memory-sparse", "memory-full", "crash-open", "new-mirror"}
    for target in targets(QUICK):
        for side in (target.left, target.right):
            assert side is None or side[0] in keys


def test_table_json_and_chart(tmp_path: Path) -> None:
    found = results([100, 120], [80, 90])
    assert "110 (100–120)" in table([ROW], ["revolume", "nbdkit file"], found)
    told = save(tmp_path / "results.json", QUICK, [ROW], found, judge([RATIO], found), [])
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["peers"]["revolume"]["rate"] == [
        100,
        120,
    ]
    assert ElementTree.fromstring(chart(told)).tag.endswith("svg")
