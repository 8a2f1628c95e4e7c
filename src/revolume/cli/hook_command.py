"""Programs that a verb runs on an operator's order, as an option names them."""

from __future__ import annotations

import shlex
import shutil

from revolume.errors import RevolumeError, UsageError


def parse_command(option: str, text: str) -> tuple[str, ...]:
    """The words of an option, as a shell has them. UsageError if it has none, or no program of that name is
    there."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError("bad-command", f"{option} {text[:80]!a}: {error}.", "Quote it as for a shell.") from None
    if not words:
        raise UsageError("bad-command", f"{option} names no command.", "Give a program and its arguments.")
    if shutil.which(words[0]) is None:
        cause = f"{option}: there is no program {words[0][:80]!a} that may be run."
        raise UsageError("bad-command", cause, "Give its path, or look at PATH.")
    return words


def run_hook(option: str, words: tuple[str, ...], name: str, seconds: float) -> None:
    """Run it to its end, with the snapshot's name in REVOLUME_SNAPSHOT. RevolumeError: it failed, or took longer
    than ``seconds`` and was killed."""
    import asyncio

    from revolume.host.command import run_command

    wrong = asyncio.run(run_command(words, {"REVOLUME_SNAPSHOT": name}, b"", seconds))
    if wrong:
        raise RevolumeError("command-failed", f"{option} {words[0]}: {wrong}.", "See what it says itself.")
