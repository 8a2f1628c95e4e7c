"""The words for moments: each form means one thing, every slip gets a sentence, no text does harm."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revolume.errors import UsageError
from revolume.history.moments import (
    NUMBER_MAX,
    OPTIONS,
    SPAN_SECONDS_MAX,
    Ago,
    AtPoint,
    AtSnapshot,
    AtTime,
    AtWrite,
    ExportName,
    Moment,
    Now,
    check_snapshot_name,
    check_volume_name,
    format_export,
    format_moment,
    format_span,
    format_time,
    parse_export,
    parse_moment,
    parse_span,
    parse_time,
)
from revolume.volume.branches.names import branch_moment

FIVE = int(datetime(2026, 11, 21, 5, tzinfo=UTC).timestamp()) * 10**9


def usable_name(name: str) -> bool:
    try:
        return bool(check_snapshot_name(name))
    except UsageError:
        return False


numbers = st.integers(0, NUMBER_MAX)
times = st.integers(32 * 365 * 86400 * 10**9, 253 * 10**18)
snapshot_names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True).filter(usable_name)
moments: st.SearchStrategy[Moment] = st.one_of(
    st.just(Now()),
    st.integers(0, SPAN_SECONDS_MAX).map(Ago),
    times.map(AtTime),
    numbers.map(AtPoint),
    numbers.map(AtWrite),
    snapshot_names.map(AtSnapshot),
)
volume_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
exports = st.one_of(
    volume_names.map(ExportName),
    st.builds(ExportName, volume_names | st.just(""), moments, st.frozensets(st.sampled_from(OPTIONS))),
)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", Now()),
        ("-10m", Ago(600)),
        ("-1h30m", Ago(5400)),
        ("-2w1d", Ago(15 * 86400)),
        ("-0s", Ago(0)),
        ("2026-11-21T05:00:00Z", AtTime(FIVE)),
        ("2026-11-21t05:00:00z", AtTime(FIVE)),
        ("2026-11-21 05:00:00Z", AtTime(FIVE)),
        ("2026-11-21T06:00:00+01:00", AtTime(FIVE)),
        ("2026-11-20T23:30:00-05:30", AtTime(FIVE)),
        ("2026-11-21T05:00:00.25Z", AtTime(FIVE + 250_000_000)),
        ("2026-11-21T04:59:60Z", AtTime(FIVE)),
        ("cp42", AtPoint(42)),
        ("w123456", AtWrite(123456)),
        ("w007", AtWrite(7)),
        ("before-upgrade", AtSnapshot("before-upgrade")),
        ("w1-notes", AtSnapshot("w1-notes")),
        ("2026-11-21-before", AtSnapshot("2026-11-21-before")),
    ],
)
def test_each_form_means_one_thing(text: str, moment: Moment) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "bad-moment", "no moment after"),
        ("2026-11-21T05:00:00", "time-without-zone", "2026-11-21T05:00:00Z"),
        ("2026-11-21", "bad-time", "with its zone"),
        ("2026-13-41T05:00:00Z", "bad-time", "no such day"),
        ("2026-11-21T05:00:00+25:00", "bad-time", "offset"),
        ("0001-01-01T00:00:00Z", "bad-time", "year"),
        ("05:00", "bad-time", "with its zone"),
        ("10m", "bad-moment", "-10m"),
        ("W12", "bad-moment", "w12"),
        ("-10", "bad-moment", "-10m"),
        ("-10y", "bad-span", "24h"),
        ("-30m1h", "bad-span", "larger first"),
        ("-1h1h", "bad-span", "each unit once"),
        ("-999999999w", "bad-span", "hundred years"),
        ("w" + "9" * 5000, "bad-moment", "largest"),
        ("Before", "bad-moment", "a-z"),
        ("../etc/passwd", "bad-moment", "snapshot"),
        ("w１２", "bad-moment", "snapshot"),
    ],
)
def test_a_slip_is_answered_with_a_sentence(text: str, code: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_moment(text)
    assert refused.value.code == code
    assert said.lower() in str(refused.value).lower()
    assert refused.value.cause.endswith(".") and refused.value.hint.endswith(".")


@pytest.mark.parametrize(
    "name",
    [
        "w1",
        "cp1",
        "W1",
        "-10m",
        "10m",
        "1h30m",
        "now",
        "2026-11-21",
        "20261121",
        "20261121t050000z",
        "2026-11-21t05-00",
    ],
)
def test_a_snapshot_may_not_look_like_another_moment(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_snapshot_name(name)
    assert refused.value.code == "bad-snapshot-name"


@pytest.mark.parametrize("name", ["", ".", "-a", "a/b", "a@b", "a,b", "A", "a b", "a\n", "ä", "x" * 64])
def test_a_snapshot_name_is_plain(name: str) -> None:
    with pytest.raises(UsageError):
        check_snapshot_name(name)


@pytest.mark.parametrize("name", ["before", "a", "0", "x" * 63, "v1.2_rc-3", "cp", "w1x"])
def test_ordinary_snapshot_names_are_taken(name: str) -> None:
    assert check_snapshot_name(name) == name


@pytest.mark.parametrize("name", ["", "..", "../x", "a b", "a@b", "-x", "a\0", "x" * 64])
def test_a_volume_name_is_plain(name: str) -> None:
    with pytest.raises(UsageError):
        check_volume_name(name)


@pytest.mark.parametrize(
    ("text", "export"),
    [
        ("", ExportName("")),
        ("vm1", ExportName("vm1")),
        ("@-10m", ExportName("", Ago(600))),
        ("vm1@cp42", ExportName("vm1", AtPoint(42))),
        ("vm1@-10m,rw", ExportName("vm1", Ago(600), frozenset({"rw"}))),
        ("vm1@cp42,suspect,rw", ExportName("vm1", AtPoint(42), frozenset({"rw", "suspect"}))),
    ],
)
def test_export_names(text: str, export: ExportName) -> None:
    assert parse_export(text) == export
    assert parse_export(format_export(export)) == export


@pytest.mark.parametrize(
    "text",
    [
        "vm1@",
        "vm1,rw",
        "vm1@cp1,",
        "vm1@cp1,ro",
        "vm1@@cp1",
        "../vm1",
        "vm1@../x",
        "vm1@cp1@cp2",
        "a" * 5000,
        "\0",
        "@",
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_export(text)


@given(moments)
def test_what_is_formatted_parses_back(moment: Moment) -> None:
    assert parse_moment(format_moment(moment)) == moment


@given(exports)
def test_export_names_parse_back(export: ExportName) -> None:
    assert parse_export(format_export(export)) == export


@given(st.integers(0, SPAN_SECONDS_MAX))
def test_spans_parse_back(seconds: int) -> None:
    assert parse_span(format_span(seconds)) == seconds


@given(times)
def test_times_parse_back(time_ns: int) -> None:
    assert parse_time(format_time(time_ns)) == time_ns


shards = st.sampled_from(
    [
        "vm1",
        "@",
        ",",
        "-",
        "10",
        "m",
        "h",
        "w",
        "cp",
        "now",
        "2026",
        "11",
        "21",
        "T",
        ":",
        "05",
        ".",
        "Z",
        "+",
        "rw",
        "\0",
        "é",
        " ",
    ]
)


@given(st.text() | st.lists(shards).map("".join))
def test_no_text_does_harm(text: str) -> None:
    for parse in (parse_export, parse_moment, parse_span, parse_time, check_snapshot_name):
        try:
            parse(text)
        except UsageError as refused:
            assert refused.cause.isprintable() and "\n" not in refused.cause and len(refused.cause) < 160


@given(snapshot_names)
def test_every_snapshot_name_means_that_snapshot(name: str) -> None:
    assert parse_moment(name) == AtSnapshot(name)


@pytest.mark.parametrize("text", ["branch:alone", "branch:alone:before-upgrade", "branch:2026-11:w1"])
def test_a_branch_and_a_snapshot_on_it_are_named_like_nothing_else(text: str) -> None:
    assert parse_moment(text) == AtSnapshot(text) and format_moment(AtSnapshot(text)) == text
    assert parse_export(f"v@{text},rw").moment == AtSnapshot(text)
    _, *names = text.split(":")
    assert branch_moment(*names) == text
    with pytest.raises(UsageError):
        check_snapshot_name(text)


@pytest.mark.parametrize("text", ["branch:", "branch::a", "branch:a:", "branch:a:b:c", "branch:a:B", "branch:a/b"])
def test_what_names_no_moment_of_a_branch_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_moment(text)
