"""Whether a process is stopped by a signal (SIGSTOP, Ctrl-Z, a debugger), as the kernel says."""

from __future__ import annotations

from typing import Final

_STOPPED: Final = (b"T", b"t")


def is_stopped(pid: int) -> bool:
    """Also False for what can't be looked at: a process that is gone, or of another namespace (pid 0)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return False
    return stat.rpartition(b") ")[2][:1] in _STOPPED
