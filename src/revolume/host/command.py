"""A program that is run on an operator's order: no shell, no terminal, a bounded time.

It gets a process group of its own, so that what it has started ends with it when its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence


async def run_command(argv: Sequence[str], extra: Mapping[str, str], given: bytes, seconds: float) -> str:
    """Run ``argv`` with ``extra`` in its environment and ``given`` on its standard input. What went wrong, in
    words; empty: it exited with 0. What it prints goes nowhere. Cancelling kills it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, env={**os.environ, **extra}, start_new_session=True, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return f"it can't be started: {getattr(error, 'strerror', None) or error}"
    try:
        async with asyncio.timeout(seconds):
            await process.communicate(given)
    except TimeoutError:
        return f"it did not end within {seconds:.0f} seconds"
    finally:
        await _ended(process)
    code = process.returncode
    return "" if code == 0 else f"it exited with status {code}"


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())
