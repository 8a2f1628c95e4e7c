"""The command of a bisection: what is replaced in its words, and when it has succeeded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from revolume.cli.bisect_command import BisectCommand, bisect_command
from revolume.errors import UsageError


def succeeds(command: BisectCommand) -> bool:
    return asyncio.run(command.succeeds(uri="nbd://x", moment="cp7", file="/tmp/f"))


def test_it_must_look_at_the_moment() -> None:
    with pytest.raises(UsageError) as refused:
        bisect_command(["true", "{moment}"], None, verbose=False)
    assert refused.value.code == "no-placeholder"
    assert bisect_command(["test", "{file}"], None, verbose=False).needs_file
    assert not bisect_command(["test", "{uri}"], None, verbose=False).needs_file


def test_its_exit_status_decides() -> None:
    assert succeeds(BisectCommand(("test", "{uri}", "=", "nbd://x")))
    assert not succeeds(BisectCommand(("test", "{uri}", "=", "nbd://y")))


def test_only_the_three_words_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert succeeds(BisectCommand(("sh", "-c", f"echo '{{moment}} {{file}} {{other}}' > {out}")))
    assert out.read_text() == "cp7 /tmp/f {other}\n"


def test_one_that_takes_too_long_has_failed() -> None:
    assert not succeeds(BisectCommand(("sleep", "60"), timeout_s=0.1))


def test_one_that_cannot_be_started_ends_the_search() -> None:
    with pytest.raises(UsageError) as refused:
        succeeds(BisectCommand(("/nowhere/program",)))
    assert refused.value.code == "bad-command"
