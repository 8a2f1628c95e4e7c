"""Faults at chosen system calls of a real process: strace answers in the kernel's place, or kills.

`when` counts the calls of each thread by itself: 3 is the third, 3+ the third and all that follow.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.programs import kernel_lacks, need, run

WRITES = "pwritev2,pwritev,pwrite64"
RENAMES = "rename,renameat,renameat2"


def need_strace() -> None:
    need("strace")
    if run("strace", "-qq", "-e", "trace=none", "true", check=False).returncode != 0:
        kernel_lacks("it does not let strace trace")


def _injection(told: Path, calls: str, what: str, when: str) -> list[str]:
    return ["-f", "-qq", "-o", str(told), "-e", f"trace={calls}", "-e", f"inject={calls}:{what}:when={when}"]


def wrapper(told: Path, calls: str, what: str, when: str) -> tuple[str, ...]:
    """What runs a program with that fault, as a process of its own; `told` is strace's output."""
    quick = () if what.startswith("signal") else ("--seccomp-bpf",)  # with which no signal can be sent
    return ("strace", "-D", *quick, *_injection(told, calls, what, when))


@contextlib.contextmanager
def reads_counted(pid: int, told: Path, paths: Sequence[Path]) -> Iterator[Callable[[], int]]:
    """What a running process and its threads read of these files; the bytes may be asked for afterwards."""
    command = ["strace", "-f", "-qq", "-o", str(told), "-e", "trace=pread64,preadv,preadv2"]
    for path in paths:
        command += ["-P", str(path)]
    tracer = subprocess.Popen([*command, "-p", str(pid)])
    try:
        while not told.exists():
            time.sleep(0.05)
        time.sleep(0.5)  # until it is attached to each thread
        yield lambda: sum(int(found) for found in re.findall(r"= (\d+)$", told.read_text(), re.MULTILINE))
    finally:
        tracer.terminate()
        tracer.wait()


@contextlib.contextmanager
def attached(pid: int, told: Path, calls: str, what: str, when: str = "1+") -> Iterator[None]:
    """A running process and its threads have the fault until the end of the context."""
    tracer = subprocess.Popen(["strace", *_injection(told, calls, what, when), "-p", str(pid)])
    try:
        deadline = time.monotonic() + 20
        while not _all_traced(pid):
            assert time.monotonic() < deadline and tracer.poll() is None, "strace did not attach"
            time.sleep(0.02)
        yield
    finally:
        tracer.terminate()
        tracer.wait(60)


def _all_traced(pid: int) -> bool:
    try:
        return all(
            "TracerPid:\t0\n" not in (thread / "status").read_text()
            for thread in Path(f"/proc/{pid}/task").iterdir()
        )
    except OSError:  # a thread that has just ended
        return False


def injected(told: Path) -> int:
    """How often a call was answered in the kernel's place."""
    return told.read_text(errors="replace").count("(INJECTED)") if told.exists() else 0
