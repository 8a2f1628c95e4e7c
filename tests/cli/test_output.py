"""What a verb prints: aligned, in JSON, and never with control characters of somebody else's."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from revolume.cli.output import (
    paint_state,
    print_error,
    print_fields,
    print_json,
    print_json_line,
    print_line,
    print_note,
    print_table,
    shown,
)
from revolume.errors import Refused


@dataclass(frozen=True)
class Value:
    name: str
    digest: bytes
    kinds: frozenset[str]


def test_json_has_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    value = Value("ü", b"\x01\xff", frozenset({"b", "a"}))
    print_json(value)
    assert json.loads(capsys.readouterr().out) == {"name": "ü", "digest": "01ff", "kinds": ["a", "b"]}
    print_json_line([value])
    assert capsys.readouterr().out.count("\n") == 1
    with pytest.raises(TypeError):
        print_json(object())


def test_columns_and_fields_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "SIZE>"], [["a", "1"], ["long name", "12345"]])
    assert capsys.readouterr().out == "NAME        SIZE\na              1\nlong name  12345\n"
    print_fields([("name", "a"), ("", "more")])
    assert capsys.readouterr().out == "name: a\n    : more\n"


def test_control_characters_are_taken_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("a\x1b[2Jb\nc")
    print_table(["N"], [["x\x07"]])
    assert capsys.readouterr().out == "a?[2Jb\nc\nN\nx?\n"
    print_note("\x9bn")
    assert capsys.readouterr().err == "?n\n"
    assert shown("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"


def test_an_error_has_its_three_parts(capsys: pytest.CaptureFixture[str]) -> None:
    error = Refused("locked", "It is\x1b open.", "Stop it.")
    print_error(error, as_json=False)
    assert capsys.readouterr().err == "error[locked]: It is? open.\ntry: Stop it.\n"
    print_error(error, as_json=True)
    told = json.loads(capsys.readouterr().err)["error"]
    assert (told["code"], told["try"], told["exit_status"]) == ("locked", "Stop it.", error.exit_status)


def test_colours_are_for_terminals_alone() -> None:
    assert paint_state("full") == "full"
