"""What can go wrong in NBD, by what the session does next.

    ExportError     this one request, or this one opening of an export, fails; the connection goes on
    ProtocolError   the other side broke the protocol and the stream cannot be trusted any further: close
    Disconnected    (client) the connection ended before the answer came: the outcome is unknown

``errno`` is always a number of the protocol, whatever the machine calls its own errors.
"""

from __future__ import annotations

import errno as machine
from typing import Final

from revolume.errors import GaveWay, NoSpace, Refused, RevolumeError
from revolume.nbd.wire.constants import Errno

_FROM_MACHINE: Final = {
    machine.EPERM: Errno.EPERM,
    machine.EACCES: Errno.EPERM,
    machine.EROFS: Errno.EPERM,
    machine.EINVAL: Errno.EINVAL,
    machine.ENOSPC: Errno.ENOSPC,
    machine.EDQUOT: Errno.ENOSPC,
    machine.EFBIG: Errno.ENOSPC,
    machine.ESHUTDOWN: Errno.ESHUTDOWN,
}


class ExportError(RevolumeError):
    """An export refuses, or fails at, one request or its opening."""

    def __init__(self, code: str, cause: str, hint: str = "", *, errno: Errno = Errno.EIO) -> None:
        super().__init__(code, cause, hint)
        self.errno = errno


class ProtocolError(RevolumeError):
    """The peer sent what the protocol does not allow; nothing after it can be understood."""

    def __init__(self, cause: str) -> None:
        super().__init__("nbd-protocol", cause)


class Disconnected(RevolumeError):
    """The connection ended; unanswered requests may or may not have been done."""

    def __init__(self, cause: str) -> None:
        super().__init__("nbd-disconnected", cause, "Look whether the server still runs, and try again.")


def wire_errno(error: BaseException) -> Errno:
    """The number that tells a client about ``error``. Whatever is not known is an I/O error."""
    if isinstance(error, ExportError):
        return error.errno
    if isinstance(error, OSError):
        return _FROM_MACHINE.get(error.errno or 0, Errno.EIO)
    if isinstance(error, MemoryError):
        return Errno.ENOMEM
    if isinstance(error, NoSpace):
        return Errno.ENOSPC
    if isinstance(error, GaveWay):
        return Errno.ESHUTDOWN
    if isinstance(error, Refused):
        return Errno.EPERM
    return Errno.EIO


def sentence(error: BaseException) -> str:
    """The error in words for the client: ours are meant to be read, the machine's are named shortly."""
    if isinstance(error, RevolumeError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or "input/output error"
    if isinstance(error, MemoryError):
        return "the server has no memory for it"
    return "internal error"
