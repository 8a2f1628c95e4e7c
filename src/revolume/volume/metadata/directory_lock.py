"""The directory of a volume that does not run, for those who look at it or change its manifest meanwhile."""

from __future__ import annotations

from revolume.errors import NotFound, Refused
from revolume.host import Host
from revolume.host.disk import Directory


def locked(host: Host, path: str, hint: str) -> Directory:
    """Open, and nobody else's until it is closed. NotFound; Refused, with ``hint``, while somebody has it."""
    try:
        directory = host.disk.open(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound("no-directory", f"{path} is not a directory.", "Name a volume's directory.") from None
    try:
        directory.lock()
    except BaseException as error:
        directory.close()
        if not isinstance(error, BlockingIOError):
            raise
        raise Refused("dir-in-use", f"{path} is in use by another process.", hint) from None
    return directory
