"""Each test of this folder counts what it does: `tally(part, title, order)`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.tally import SEED, Tally

_REPORT = pytest.StashKey[pytest.TestReport]()
Tallied = Callable[[str, str, int], Tally]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call":
        item.stash[_REPORT] = report
    return report


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tallied]:
    made: list[Tally] = []
    command = f"REVOLUME_SOAK=1 REVOLUME_SEED={SEED} python -m pytest -s '{request.node.nodeid}'"

    def make(part: str, title: str, order: int) -> Tally:
        print(f"\n{part}: REVOLUME_SEED={SEED}", flush=True)
        made.append(Tally(part, title, order, command))
        return made[-1]

    yield make
    report = request.node.stash.get(_REPORT, None)
    for one in made:
        if report is not None and report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            first = str(getattr(crash, "message", report.longrepr)).strip().splitlines()
            one.failures.append(f"{' '.join(first[:4])[:600]} ({command})")
        elif report is not None and report.skipped:
            one.notes.append(f"Skipped: {report.longrepr[-1]}")
        one.write()
