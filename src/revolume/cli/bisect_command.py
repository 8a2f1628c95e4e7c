"""One trial of a bisection: the user's command on one moment.

The command's words may hold ``{uri}`` (a read-only NBD URI of the moment), ``{file}`` (a sparse temporary
file with the moment's content, for programs that cannot speak NBD) and ``{moment}``. Only these three are
replaced: a word may hold other braces. The command succeeds if it exits 0 within its time. That it cannot
be started at all says nothing about the moment, and ends the search with an error.

The command runs in a session of its own, so that on a time-out or an interruption everything that it
started goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from revolume.errors import UsageError


@dataclass(frozen=True, slots=True)
class BisectCommand:
    """A command to try, and how."""

    words: tuple[str, ...]
    timeout_s: float | None = None
    verbose: bool = False

    @property
    def needs_file(self) -> bool:
        return any("{file}" in word for word in self.words)

    async def succeeds(self, *, uri: str, moment: str, file: str | None) -> bool:
        """Run the command on this moment. Raises UsageError if it cannot be started."""
        values = {"{uri}": uri, "{file}": file or "", "{moment}": moment}
        process = await self._start([_filled(word, values) for word in self.words])
        try:
            return await asyncio.wait_for(process.wait(), self.timeout_s) == 0
        except TimeoutError:
            return False
        finally:
            await _end(process)

    async def _start(self, words: Sequence[str]) -> asyncio.subprocess.Process:
        output = sys.stderr if self.verbose else asyncio.subprocess.DEVNULL
        try:
            return await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            cause = f"The command {words[0]!a} cannot be run: {error.strerror}."
            raise UsageError("bad-command", cause, "Name a program on PATH, or its path.") from error


def bisect_command(words: Sequence[str], timeout_s: float | None, *, verbose: bool) -> BisectCommand:
    """The command ``words``. Raises UsageError if they look at no moment."""
    if not any(place in word for word in words for place in ("{uri}", "{file}")):
        cause = "The command looks at no moment: it has neither {uri} nor {file}."
        raise UsageError("no-placeholder", cause, "revolume bisect DIR -- e2fsck -fn {file}, for instance.")
    return BisectCommand(tuple(words), timeout_s, verbose)


def _filled(word: str, values: dict[str, str]) -> str:
    for place, value in values.items():
        word = word.replace(place, value)
    return word


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing that the command started is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
