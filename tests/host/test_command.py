"""A program that is run on an operator's order: what it is given, and what is said of how it ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from revolume.host.command import run_command
from revolume.host.stopped_process import is_stopped
from tests.support.until import until


def run(*argv: str, given: bytes = b"", seconds: float = 60.0) -> str:
    return asyncio.run(run_command(argv, {"GIVEN": "yes"}, given, seconds))


def test_it_gets_its_environment_and_its_input(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    assert run("sh", "-c", f'{{ echo "$GIVEN"; cat; }} > {seen}', given=b"line\n") == ""
    assert seen.read_text() == "yes\nline\n"


def test_its_failure_is_said_in_words() -> None:
    assert run("sh", "-c", "exit 3") == "it exited with status 3"
    assert run("/nowhere/program").startswith("it can't be started: No such file")
    assert run("a\0b").startswith("it can't be started: ")


def test_it_ends_when_its_time_is_over_with_what_it_started(tmp_path: Path) -> None:
    begun = tmp_path / "pid"
    assert run("sh", "-c", f"sleep 60 & echo $! > {begun}; wait", seconds=1.0) == "it did not end within 1 seconds"
    state = Path(f"/proc/{int(begun.read_text())}/stat")
    until("it ends, when it is scheduled next", lambda: not is_alive(state))


def is_alive(state: Path) -> bool:
    try:
        return b") Z" not in state.read_bytes()
    except OSError:
        return False


def test_whether_a_process_is_stopped() -> None:
    assert not is_stopped(os.getpid())
    assert not is_stopped(0)
