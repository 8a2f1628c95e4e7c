"""What moments mean, over a history of plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.chain.point import Point
from revolume.errors import NotFound, Refused
from revolume.history.label_scale import LabelSearch, LabelStretch, label_stretches
from revolume.history.moments import Ago, AtPoint, AtSnapshot, AtTime, AtWrite, Now, parse_export
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.resolver import MomentResolver
from revolume.log.format.columns import ROW, Columns
from revolume.log.format.transfer import Kind
from revolume.volume.state.status import OldestMoment, Snapshot
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.suspect.suspect_rows import OPEN
from revolume.volume.suspect.suspect_rows import ROW as MARK

S = 10**9
OLDEST = OldestMoment(1, 10, 10 * S)


@dataclass(frozen=True)
class Made:
    """Writes 10, 20 … 50, labelled with as many seconds; the oldest moment is w10."""

    name: str = "vm"
    oldest: OldestMoment = OLDEST
    newest: tuple[int, int] = (50, 50 * S)
    wall_ns: int = 60 * S
    suspect: SuspectPeriods = field(default_factory=SuspectPeriods)
    elsewhere: str = "The primary has it."

    def branch_write(self, branch: str, moment: str) -> WriteNumber:
        return WriteNumber(45)

    def points(self) -> list[Point]:
        return [cast(Point, SimpleNamespace(number=3, write=30, time_ns=30 * S))]

    def snapshots(self) -> list[Snapshot]:
        return [Snapshot("before", 20, 2, 20 * S)]

    def stretches(self) -> list[LabelStretch]:
        return label_stretches((), self.oldest, self.wall_ns)

    def last_write(self, number: int) -> ResolvedMoment:
        write = number // 10 * 10
        return ResolvedMoment(write, write * S)

    def columns_for(self, search: LabelSearch) -> tuple[int, list[Columns]]:
        return search.stretch.after, [columns(10, 20, 30), columns(40, 50)]


def columns(*writes: int) -> Columns:
    rows = np.zeros(len(writes), ROW)
    rows["kind"], rows["entries"] = Kind.WRITES, 1
    rows["write"] = writes
    rows["time_ns"] = np.array(writes, np.uint64) * np.uint64(S)
    return cast(Columns, SimpleNamespace(rows=rows))


def write_of(moment: Any, history: Made | None = None) -> int:
    return MomentResolver(history or Made()).resolve(moment).write


def test_each_way_to_name_a_moment() -> None:
    assert write_of(Now()) == 50
    assert write_of(AtPoint(3)) == 30
    assert write_of(AtSnapshot("before")) == 20
    assert [write_of(AtWrite(number)) for number in (10, 40, 45)] == [10, 40, 40]
    assert [write_of(AtTime(seconds * S)) for seconds in (10, 29, 30, 55)] == [10, 20, 30, 50]
    assert [write_of(Ago(seconds)) for seconds in (0, 15, 50)] == [50, 40, 10]


@pytest.mark.parametrize("moment", [AtPoint(1), AtWrite(9), AtWrite(51), AtTime(9 * S), Ago(51)])
def test_what_is_not_retained_names_what_is(moment: Any) -> None:
    with pytest.raises(NotFound) as refused:
        write_of(moment)
    assert refused.value.code == "moment-not-retained"
    assert "w10" in refused.value.hint and "w50" in refused.value.hint


def test_no_snapshot_and_no_future() -> None:
    with pytest.raises(NotFound, match="no snapshot other"):
        write_of(AtSnapshot("other"))
    with pytest.raises(NotFound, match="not happened yet"):
        write_of(AtTime(61 * S))


def test_a_mirror_shows_nothing_behind_its_newest() -> None:
    mirror = replace(Made(), newest=(30, 30 * S))
    assert write_of(AtTime(55 * S), mirror) == 30
    with pytest.raises(NotFound):
        write_of(AtWrite(40), mirror)


def marked(*rows: tuple[int, int, int, int], branch: str = "") -> SuspectPeriods:
    return SuspectPeriods([Marks(bytes(16), 9, 0, "it was compared", np.array(list(rows), MARK), branch)])


class Several(Made):
    """With points at each of its writes, and a branch."""

    def points(self) -> list[Point]:
        return [cast(Point, SimpleNamespace(number=w // 10, write=w, time_ns=w * S)) for w in range(10, 60, 10)]

    def snapshots(self) -> list[Snapshot]:
        return [*super().snapshots(), Snapshot("branch:b", 30, 3, 45 * S, branch="b")]


@pytest.mark.parametrize("name", ["vm@w30", "vm@cp3", "vm@cp4", "vm@-25s", "vm@1970-01-01T00:00:30Z", "vm@w39,rw"])
def test_b11_a_suspect_moment_is_not_opened_without_saying_so(name: str) -> None:
    asked = replace(parse_export("vm@now"), moment=AtTime(30 * S)) if "1970" in name else parse_export(name)
    resolver = MomentResolver(Several(suspect=marked((7, 2, 30, 50))))
    with pytest.raises(Refused) as refused:
        resolver.opened(asked)
    assert refused.value.code == "suspect-moment" and "suspect in 2 blocks: it was compared" in refused.value.cause
    hint = refused.value.hint
    assert "before it cp2 (w20)" in hint and "behind it cp5 (w50)" in hint and "The primary has it." in hint
    assert ",suspect" in hint
    said = replace(asked, options=asked.options | {"suspect"})
    suspicion = resolver.opened(said).suspicion
    assert suspicion is not None and (suspicion.since, suspicion.until, suspicion.blocks) == (30, 50, 2)


def test_b11_good_moments_are_opened_as_ever() -> None:
    resolver = MomentResolver(Several(suspect=marked((7, 2, 30, 50))))
    for name in ("vm@w20", "vm@w29", "vm@w50", "vm@before", "vm@now", "vm@w20,suspect"):
        assert resolver.opened(parse_export(name)).suspicion is None, name


def test_b11_what_is_not_repaired_has_no_good_moment_behind_it() -> None:
    resolver = MomentResolver(Several(suspect=marked((7, 2, 0, OPEN))))
    with pytest.raises(Refused) as refused:
        resolver.opened(parse_export("vm@now"))
    assert "No point here is good." in refused.value.hint


def test_b11_a_branch_rests_on_what_was_suspect_where_it_begins() -> None:
    for suspect, bad in (
        (marked((7, 2, 30, 50)), True),  # the point that it begins at
        (marked((7, 2, 40, 50)), False),  # the volume, later on
        (marked((7, 2, 40, 50), branch="b"), True),  # the branch's own end
        (marked((7, 2, 40, 44), branch="b"), False),  # repaired on the branch
        (marked((7, 2, 40, 50), branch="other"), False),
    ):
        resolver = MomentResolver(Several(suspect=suspect))
        if bad:
            with pytest.raises(Refused, match="suspect"):
                resolver.opened(parse_export("vm@branch:b"))
        else:
            assert resolver.opened(parse_export("vm@branch:b")).suspicion is None
