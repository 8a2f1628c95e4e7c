"""What can go wrong, shaped by what the caller does next.

One root. Every error carries a stable code (for scripts and documentation), the cause in one sentence
and what to do about it; the command line prints the three, the HTTP face sends the three, and the exit
status belongs to the class, because a shell script branches on it.
"""

from __future__ import annotations


class RevolumeError(Exception):
    """The root. ``code`` is stable kebab-case; ``cause`` and ``hint`` are sentences for a person."""

    exit_status = 1

    def __init__(self, code: str, cause: str, hint: str = "") -> None:
        super().__init__(cause if not hint else f"{cause} {hint}")
        self.code = code
        self.cause = cause
        self.hint = hint


class UsageError(RevolumeError):
    """The request makes no sense; nothing was touched."""

    exit_status = 2


class NotFound(RevolumeError):
    """The thing named does not exist or is no longer retained."""

    exit_status = 3


class Refused(RevolumeError):
    """Doing it could lose something; a person has to decide."""

    exit_status = 4


class Damaged(RevolumeError):
    """What is on disk is not what was written there. Not a torn tail: that is cut silently."""


class Unreadable(Damaged):
    """The disk answers an error. It may pass, unlike bytes that are wrong."""


class NoSpace(RevolumeError):
    """There is no room; what was accepted before stands."""


class GaveWay(RevolumeError):
    """What was opened has been ended so that clients of the live volume could go on writing."""


class TimedOut(RevolumeError):
    """It was begun, and is not known to be done."""

    exit_status = 6


class Poisoned(RevolumeError):
    """A sync failed: nothing more is promised until the volume has been opened anew."""
