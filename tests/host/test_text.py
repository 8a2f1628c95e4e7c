"""Text from elsewhere is harmless on a terminal: one line, without what a terminal obeys."""

from __future__ import annotations

import pytest

from revolume.host.text import harmless, one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("disk 1 – ü", "disk 1 – ü"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred", "?[31mred"),
        ("\x9b31m", "?31m"),
        ("abc\u202edcba", "abc?dcba"),
        ("\u2028", "?"),
        ("\ud800", "?"),
        ("\r\x00\x7f", "???"),
    ],
)
def test_control_characters_are_replaced(text: str, shown: str) -> None:
    assert one_line(text) == shown


def test_a_json_value_is_harmless_throughout() -> None:
    value = {"na\x1bme": ["a\x07", {"b": "c\n"}], "count": 3, "none": None}
    assert harmless(value) == {"na?me": ["a?", {"b": "c "}], "count": 3, "none": None}
