"""A library that stands before libc in a process and makes every sync a lie: it says yes, and does nothing.

Compiled when it is wanted; where there is no C compiler, libeatmydata is the same if it is installed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import find, missing, run

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/types.h>
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
int sync_file_range(int fd, off64_t from, off64_t count, unsigned int flags)
{ (void)fd; (void)from; (void)count; (void)flags; return 0; }
int msync(void *address, size_t length, int flags) { (void)address; (void)length; (void)flags; return 0; }
int syncfs(int fd) { (void)fd; return 0; }
void sync(void) {}
"""
_INSTALLED = ("/usr/lib/x86_64-linux-gnu/libeatmydata.so", "/usr/lib/aarch64-linux-gnu/libeatmydata.so",
              "/usr/lib/libeatmydata.so", "/usr/lib64/libeatmydata.so")  # fmt: skip


@contextlib.contextmanager
def no_sync(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of a process in which nothing is synced."""
    yield {"LD_PRELOAD": str(_library(folder))}


def _library(folder: Path) -> Path:
    compiler = next(filter(find, ("cc", "gcc", "clang")), None)
    if compiler is not None:
        source, made = folder / "no_sync.c", folder / "no_sync.so"
        source.write_text(_SOURCE)
        run(compiler, "-shared", "-fPIC", "-O1", "-o", made, source)
        return made
    for place in map(Path, _INSTALLED):
        if place.exists():
            return place
    missing("there is no C compiler (package gcc), and no libeatmydata (package libeatmydata1)")
    raise AssertionError("unreachable")
