"""The JSON of points, named moments and moments that were asked for."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.api.moment_schemas import (
    moment_schema,
    point_schema,
    snapshot_schema,
)
from revolume.history.resolved_moment import ResolvedMoment

SECOND = 1_000_000_000


@dataclass
class Point:
    number: int
    write: int
    time_ns: int = SECOND
    epoch: int = 2
    digest: int = 0xAB
    root: tuple[int, int] = (1, 2)
    changed_blocks: int = 9


@dataclass
class Snapshot:
    name: str = "before"
    write: int = 5
    point: int = 3
    time_ns: int = SECOND
    rescued_bytes: int = 0
    holder: str = ""
    expires_in_s: float | None = None
    held: bool = False


def test_a_point_has_its_export_and_digests_as_text() -> None:
    point = point_schema("vm", Point(7, 70))
    assert (point.number, point.write, point.time_ns, point.changed_blocks) == (7, 70, SECOND, 9)
    assert (point.digest, point.root) == ("00000000000000ab", "00000000000000010000000000000002")
    assert point.export == "vm@cp7"
    assert point.time.startswith("1970-01-01T00:00:01")


def test_a_named_moment_is_opened_by_its_name() -> None:
    snapshot = snapshot_schema("vm", Snapshot())
    assert (snapshot.name, snapshot.point, snapshot.write) == ("before", 3, 5)
    assert "before" in snapshot.export


def test_a_moment_lies_between_two_points() -> None:
    points = [point_schema("vm", Point(number, number * 10)) for number in (1, 2, 3)]
    between = moment_schema("vm", "w25", ResolvedMoment(25, SECOND, "twice"), points)
    assert (between.point_before, between.point_after, between.note) == (points[1], points[2], "twice")
    at = moment_schema("vm", "w20", ResolvedMoment(20, SECOND), points)
    assert (at.point_before, at.point_after) == (points[1], points[2])
    assert moment_schema("vm", "w5", ResolvedMoment(5, SECOND), points).point_before is None
    assert moment_schema("vm", "w99", ResolvedMoment(99, SECOND), points).point_after is None
