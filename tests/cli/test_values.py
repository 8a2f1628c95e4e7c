"""Sizes, spans and addresses: exact both ways, and a sentence for what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revolume.cli.values import (
    SIZE_MAX,
    format_size,
    parse_seconds,
    parse_size,
    show_seconds,
    show_size,
)
from revolume.errors import UsageError
from revolume.node.addresses import leaves_the_machine, normalised


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512B", 512),
        ("1K", 1024),
        ("10G", 10 << 30),
        ("10g", 10 << 30),
        ("512MiB", 512 << 20),
        ("1.5T", 3 << 39),
        ("0.5K", 512),
        ("1P", 1 << 50),
    ],
)
def test_sizes_are_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "10GB", "10 G", "0.3K", "1e9", "１０G", "9" * 30, "9999999999P", "1.G"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_size(text)
    assert refused.value.code == "bad-size"


@given(st.integers(0, SIZE_MAX))
def test_sizes_parse_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (4096, "4.00 KiB"), (10 << 30, "10.0 GiB"), (1 << 40, "1.00 TiB")],
)
def test_sizes_are_shown_short(size: int, shown: str) -> None:
    assert show_size(size) == shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("500ms", 0.5), ("5s", 5), ("24h", 86400), ("1h30m", 5400), ("2w", 1209600)],
)
def test_spans(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5x", "-5s", "1m1h", "ms"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.05, "50 ms"),
        (5, "5.0 s"),
        (65, "1m5s"),
        (3 * 3600 + 61, "3h1m"),
        (90000, "1d1h"),
        (15 * 86400 + 7, "2w1d"),
    ],
)
def test_spans_are_shown_short(seconds: float, shown: str) -> None:
    assert show_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("text", "leaves"),
    [
        ("unix:/run/x.sock", False),
        ("localhost:10809", False),
        ("127.0.0.2:0", False),
        ("[::1]:10809", False),
        ("0.0.0.0:10809", True),
        (":10809", True),
        ("[::]:10809", True),
        ("192.0.2.1:10809", True),
        ("store-7.example:65535", True),
    ],
)
def test_addresses_that_others_can_reach_are_known(text: str, leaves: bool) -> None:
    assert normalised(text) == text
    assert leaves_the_machine(text) is leaves


@given(
    st.text()
    | st.lists(st.sampled_from(["unix:", "[", "]", ":", "1", "::1", "a", "/", "\0", "G", "iB", ".", "m"])).map(
        "".join
    )
)
def test_no_text_does_harm(text: str) -> None:
    for parse in (parse_size, parse_seconds, normalised):
        try:
            parse(text)
        except UsageError as refused:
            assert len(refused.cause) < 400
