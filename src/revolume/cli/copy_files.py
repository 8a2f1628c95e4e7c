"""The file at the other end of a copy: never overwritten by accident, never left half written.

What is copied out of a volume is for its owner alone (mode 0600): it holds what the disk held. A new file is
written under a passing name beside its own and takes its own only when it is whole and synced, so an interrupted
copy leaves nothing that looks like a result. A block device is written in place.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from revolume.errors import NotFound, Refused, UsageError


@dataclass(frozen=True, slots=True)
class OpenTarget:
    """Where content goes: a descriptor, and whether holes may stay holes in it."""

    descriptor: int
    sparse: bool


def refuse_overwriting(path: str, *, force: bool) -> None:
    """Raises Refused if there is something at ``path``, UsageError if it can never be a target."""
    if not os.path.lexists(path):
        return
    mode = os.stat(path).st_mode if os.path.exists(path) else stat.S_IFREG
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise UsageError("not-a-file", f"{path} is neither a file nor a block device.", "Name a file.")
    if not force:
        raise Refused("file-exists", f"{path} exists already.", "Choose another name, or --force to overwrite it.")


@contextlib.contextmanager
def target_file(path: str, size: int) -> Iterator[OpenTarget]:
    """``path`` for writing ``size`` bytes. Whole and under its name when the context ends well."""
    if os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode):
        with _device(path, size) as descriptor:
            yield OpenTarget(descriptor, sparse=False)
    else:
        with _new_file(path) as descriptor:
            yield OpenTarget(descriptor, sparse=True)


@contextlib.contextmanager
def source_file(path: str) -> Iterator[tuple[int, int]]:
    """``path`` for reading: its descriptor and its size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor, os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _device(path: str, size: int) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC)
    try:
        room = os.lseek(descriptor, 0, os.SEEK_END)
        if room < size:
            raise UsageError(
                "device-too-small", f"{path} has {room} bytes; {size} are needed.", "Name a larger one."
            )
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[int]:
    with passing_name(path) as passing:
        try:
            descriptor = os.open(passing, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except (FileNotFoundError, NotADirectoryError):
            parent = os.path.dirname(passing)
            raise NotFound("no-directory", f"{parent} is not a directory.", "Name a file in one.") from None
        try:
            yield descriptor
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def passing_name(path: str) -> Iterator[str]:
    """A free name beside ``path``; what is made there becomes ``path`` when the context ends well."""
    directory, name = os.path.split(os.path.abspath(path))
    passing = os.path.join(directory, f".{name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        yield passing
        os.replace(passing, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(passing)
        raise
