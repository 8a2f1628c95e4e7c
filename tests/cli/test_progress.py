"""Progress with ``--json``: a line at the start of a stage, and not one for each report."""

from __future__ import annotations

import json

import pytest

from revolume.cli.progress import progress


def test_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(as_json=True) as report:
        for done in range(100):
            report("copy", done, 100)
        report("copy", 100, 100)
        report("compare", 0, 7)
    lines = [json.loads(line)["progress"] for line in capsys.readouterr().err.splitlines()]
    assert lines[0] == {"stage": "copy", "done": 0, "total": 100}
    assert {"stage": "copy", "done": 100, "total": 100} in lines
    assert lines[-1] == {"stage": "compare", "done": 0, "total": 7}
    assert len(lines) < 20


def test_a_pipe_hears_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(as_json=False) as report:
        report("copy", 1, 2)
    assert capsys.readouterr() == ("", "")
