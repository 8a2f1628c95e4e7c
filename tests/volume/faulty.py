"""The disk seam with faults: an operation on a file or a directory fails when a test says so, and the real one
does the rest. The test sees every call, by operation and name, in order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from revolume.host.real.disk import RealDisk


def io_error(number: int = errno.EIO) -> OSError:
    return OSError(number, os.strerror(number))


class Faults:
    """``fail(operation, name)`` returns the error that this call meets, or None."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.fail: Callable[[str, str], OSError | None] = lambda operation, name: None

    def once(self, operation: str, ending: str, number: int = errno.EIO) -> None:
        """The next such call on a file whose name ends so fails, and no other."""
        left = [1]

        def fail(called: str, name: str) -> OSError | None:
            if called == operation and name.endswith(ending) and left:
                left.pop()
                return io_error(number)
            return None

        self.fail = fail

    def always(self, operations: set[str], ending: str, number: int) -> None:
        """Every such call fails, until told otherwise."""
        hit = lambda called, name: called in operations and name.endswith(ending)  # noqa: E731
        self.fail = lambda called, name: io_error(number) if hit(called, name) else None

    def never(self) -> None:
        self.fail = lambda operation, name: None

    def meet(self, operation: str, name: str) -> None:
        self.calls.append((operation, name))
        error = self.fail(operation, name)
        if error is not None:
            raise error

    def count(self, operation: str, ending: str) -> int:
        return sum(called == operation and name.endswith(ending) for called, name in self.calls)


class _Wrapped:
    """Passes everything on, the operations named in ``WATCHED`` through the faults."""

    WATCHED: frozenset[str] = frozenset()

    def __init__(self, real: Any, name: str, faults: Faults) -> None:
        self._real = real
        self._name = name
        self._faults = faults

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._real, attribute)
        if attribute not in self.WATCHED:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._faults.meet(attribute, self._name)
            return found(*arguments, **options)

        return call


class FaultyFile(_Wrapped):
    WATCHED = frozenset(
        {"pwritev", "preadv", "preadv_nowait", "datasync", "truncate", "allocate", "prewrite", "punch"}
    )


class FaultyDirectory(_Wrapped):
    WATCHED = frozenset({"sync", "rename"})

    def open(self, name: str, **options: Any) -> FaultyFile:
        self._faults.meet("open", name)
        return FaultyFile(self._real.open(name, **options), name, self._faults)

    def child(self, name: str, **options: Any) -> FaultyDirectory:
        return FaultyDirectory(self._real.child(name, **options), name, self._faults)


class FaultyDisk:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def open(self, path: str, **options: Any) -> FaultyDirectory:
        return FaultyDirectory(RealDisk().open(path, **options), os.path.basename(path), self._faults)
