"""``revolume`` as a process: forked where the start itself is not what is tested (``fork_server.py``), else
executed as it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.support.fork_server import Forked, forked, may_fork, run_forked

REVOLUME = Path(sys.executable).with_name("revolume")
Process = subprocess.Popen[str] | Forked


def start_program(
    command: Sequence[str], environment: Mapping[str, str], stderr: IO[Any] | None = None
) -> Process:
    """Start it; ``stdout`` can be read, ``stderr`` goes into it or apart. ``environment``: beside this one's."""
    if command[0] == str(REVOLUME) and may_fork(environment):
        return forked(command[1:], environment, stderr)
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if stderr is None else stderr,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )


def run_revolume(
    words: Sequence[str], environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, whatever its status."""
    if may_fork(environment):
        return run_forked(words, environment, timeout)
    env = {**os.environ, **environment}
    return subprocess.run(
        [str(REVOLUME), *words], capture_output=True, text=True, timeout=timeout, check=False, env=env
    )
