"""The helper process without its own start: a fork of a process that has imported what jobs need.

It costs 0.15 s of CPU less than an interpreter that imports all that, and otherwise keeps what helpers promise:
it has no file of its parent's open but its end of the socket pair, and the kernel kills it with its parent. The
start in earnest, ``revolume.host.real.work.spawned``, stays in servers that are started as they are installed, and
in the tests of ``host/``.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Final, NoReturn

from revolume.host.real import helper

_FD: Final = 3
_FDS: Final = 1 << 16


class Child:
    """A child of this process, as much of ``subprocess.Popen`` as who has a helper asks for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._reaped(os.WNOHANG)

    def wait(self) -> int | None:
        return self._reaped(0)

    def _reaped(self, options: int) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, options)
            if ended:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def fork_helper(fd: int, niceness: int) -> Child:
    """A helper that is a fork of this process, with this end of its socket pair."""
    parent = os.getpid()
    return Child(os.fork() or become_helper(fd, parent, niceness))


def become_helper(fd: int, parent_pid: int, niceness: int) -> NoReturn:
    """In a process that was just forked: run jobs to the end, and end. Nothing that the parent had may be taken
    down here: its objects stay as they are, only its files are closed."""
    status = 1
    try:
        gc.freeze()
        signal.set_wakeup_fd(-1)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):
            os.dup2(nothing, stream)
        os.dup2(fd, _FD)
        os.closerange(_FD + 1, _FDS)
        helper.main(_FD, parent_pid, niceness)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
