"""Unix sockets by path, whatever the path's length.

The kernel takes 107 bytes. A longer path goes through the directory's descriptor,
``/proc/self/fd/N/name``, which is the same socket under a shorter name for as long as that is open.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass

from revolume.errors import RevolumeError
from revolume.host.owner import like_directory

PATH_MAX = 107


@dataclass(frozen=True, slots=True)
class UnixPlace:
    """A name in an open directory."""

    path: str
    directory_fd: int
    name: str

    @classmethod
    def at(cls, path: str) -> UnixPlace:
        path = os.path.abspath(path)  # the whole path is what cleaners of /tmp know a socket in use by
        parent, name = os.path.split(path)
        return cls(path, os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), name)

    @property
    def short(self) -> str:
        if len(os.fsencode(self.path)) <= PATH_MAX:
            return self.path
        return f"/proc/self/fd/{self.directory_fd}/{self.name}"

    def identity(self) -> tuple[int, int] | None:
        """What lies there now: (device, inode)."""
        try:
            status = os.stat(self.name, dir_fd=self.directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def clear_stale(self) -> None:
        """Removes a socket that nobody answers on. Anything else that lies there is an error."""
        try:
            status = os.stat(self.name, dir_fd=self.directory_fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise _taken(f"{self.path} exists and is not a socket.", "Choose another path, or remove it.")
        if self._answers():
            raise _taken(f"Another process listens on {self.path}.", "Stop it, or choose another path.")
        if self.identity() == (status.st_dev, status.st_ino):
            self._unlink()

    def _answers(self) -> bool:
        """Only a refusal proves that nobody does; a full queue, for one, is somebody."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(self.short)
            except (ConnectionRefusedError, FileNotFoundError):
                return False
            except OSError:
                return True
            return True

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self.directory_fd)

    def hand_over(self, mode: int) -> None:
        """Give the socket that was made here this mode, whatever the umask, and the directory's owner."""
        os.chmod(f"/proc/self/fd/{self.directory_fd}/{self.name}", mode)
        like_directory(self.directory_fd, self.name)

    def remove(self, identity: tuple[int, int] | None) -> None:
        """Removes it if it is still what we made."""
        if identity is not None and self.identity() == identity:
            self._unlink()

    def close(self) -> None:
        os.close(self.directory_fd)


def _taken(cause: str, hint: str) -> RevolumeError:
    return RevolumeError("address-in-use", cause, hint)
