"""The stage: says what happens, runs what is said, and holds every claim to its proof.

A claim that fails ends the demo with a sentence and a status that is not zero. Everything lives below one
directory, which is emptied at the start and removed at the end, and every process started is stopped
however the demo ends.
"""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

Ended = subprocess.CompletedProcess[str]


class ClaimFailed(Exception):
    """Something shown is not so."""


class Stage:
    """One performance."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started = time.monotonic()
        self._chapters = 0
        self._last: list[Callable[[], object]] = []

    # --- saying ---

    def chapter(self, title: str) -> None:
        self._chapters += 1
        print(f"\n{self._chapters}. {title}  [{time.monotonic() - self._started:.0f} s]", flush=True)

    def say(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def claim(self, text: str, holds: bool) -> None:
        """Show that it is so, or end."""
        if not holds:
            raise ClaimFailed(text)
        self.say(f"✓ {text}")

    # --- doing ---

    def run(self, *words: str | Path, expect: int | None = 0, show: bool = True) -> Ended:
        """Run a command to its end. ``expect`` is the status it must have; None takes any."""
        text = [str(word) for word in words]
        if show:
            self.say("$ " + shlex.join(self._short(text)))
        ended = subprocess.run(text, capture_output=True, text=True, errors="replace", check=False)
        if expect is not None and ended.returncode != expect:
            told = f"{ended.stdout}{ended.stderr}"
            raise ClaimFailed(f"{shlex.join(text)} ended with {ended.returncode}:\n{told}")
        return ended

    def start(self, *words: str | Path, name: str) -> subprocess.Popen[str]:
        """Start a program that stays; its log goes to a file. It is stopped with the stage."""
        text = [str(word) for word in words]
        self.say("$ " + shlex.join(self._short(text)) + " &")
        with (self.directory / f"{name}.log").open("a") as log:
            process = subprocess.Popen(text, stdout=subprocess.PIPE, stderr=log, text=True)
        self.at_the_end(lambda: self.stop(process))
        return process

    def stop(self, process: subprocess.Popen[str], how: int = signal.SIGTERM) -> int:
        """Signal a program, once, and wait for it."""
        if process.poll() is None:
            process.send_signal(how)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def at_the_end(self, deed: Callable[[], object]) -> None:
        """Whatever happens, do this at the end; the latest first."""
        self._last.append(deed)

    def close(self) -> None:
        while self._last:
            with contextlib.suppress(Exception):
                self._last.pop()()

    def _short(self, words: Sequence[str]) -> list[str]:
        return [os.path.basename(words[0]), *(word.replace(f"{self.directory}/", "") for word in words[1:])]


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """An empty stage, cleared afterwards."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    performance = Stage(directory)
    try:
        yield performance
    except ClaimFailed as failed:
        _end(f"\n✗ NOT SO: {failed}")
    finally:
        performance.close()
        if "--keep" not in sys.argv:
            shutil.rmtree(directory, ignore_errors=True)


def _end(text: str) -> NoReturn:
    print(text, file=sys.stderr, flush=True)
    sys.exit(1)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same(one: Path, other: Path) -> bool:
    """Are the two files equal, byte for byte?"""
    return filecmp.cmp(one, other, shallow=False)


def missing(*programs: str) -> list[str]:
    return [program for program in programs if shutil.which(program) is None]
