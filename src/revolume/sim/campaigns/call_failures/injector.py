"""Counts the calls to a machine's disk, through all lives of its process, and lets those of a case fail."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from revolume.host import Host
from revolume.sim.campaigns.call_failures.case import ON, Found
from revolume.sim.kernel.disk_faults import failure
from revolume.sim.kernel.machine import Machine

LONE = "of its own"


class Failing:
    """Injects the fault of one case. ``over``: the fault is gone, and nothing is counted any more; ``during``: the
    step of the history that it is in."""

    def __init__(self, machine: Machine, found: Found) -> None:
        self._case = found.case
        self._machine = machine
        self._found = found
        self.over = False
        self.during = ""
        machine.faults.not_in_memory = 0.5

    def boot(self) -> Host:
        """A new process on this machine, whose calls count."""
        host = self._machine.boot()
        host.disk.watch = self  # type: ignore[attr-defined]
        return host

    @property
    def met(self) -> bool:
        """A call has failed."""
        case = self._case
        return case is not None and self._found.calls[case.call] >= case.number

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For the oracle: nothing is counted, nothing fails."""
        was, self.over = self.over, True
        try:
            yield
        finally:
            self.over = was

    def __call__(self, call: str, name: str, offset: int, length: int) -> None:
        faults = self._machine.faults
        faults.write_error = faults.sync_error = 0.0
        if self.over:
            return
        self._found.calls[call] += 1
        if self._case is None:
            site, number = _site(), self._found.calls[call]
            self._found.sites.add(f"{call} {site}")
            self._found.first.setdefault(call, {}).setdefault(f"{site} {self.during}", number)
        elif call == self._case.call and self._due(self._found.calls[call]):
            self._found.sites.add(f"{call} {_site()}")
            self._fail(call, name)

    def _due(self, number: int) -> bool:
        assert self._case is not None
        return number == self._case.number or (self._case.how == ON and number > self._case.number)

    def _fail(self, call: str, name: str) -> None:
        assert self._case is not None
        if call == "datasync":
            self._machine.faults.sync_error = 1.0
        elif self._case.error == "PART":
            self._machine.faults.write_error = 1.0
        else:
            raise failure(getattr(errno, self._case.error), name)


def _site() -> str:
    """Who called: the nearest frame that is not the simulator's, nor of a file that is opened at its use; a lone
    sync ends without anybody."""
    frame = sys._getframe(2)
    while "/sim/" in frame.f_code.co_filename or frame.f_code.co_filename.endswith("/open_files.py"):
        assert frame.f_back is not None
        frame = frame.f_back
    _, ours, name = frame.f_code.co_filename.rpartition("/revolume/")
    return f"{name}:{frame.f_lineno}" if ours else LONE
