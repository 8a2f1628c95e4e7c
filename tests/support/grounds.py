"""A file system of this kernel for a store to lie on, whose power can be cut.

The file system lies in an image file behind a loop device. The cut is its shutdown ioctl without a flush of its
journal: from that instant nothing more reaches the image, neither data nor the file system's own; whatever had not
been synced by then is gone with the page cache when it is unmounted. Mounting it again replays the journal, as the
machine would do that came back. The image lies in memory where there is room: a sync costs little then, and is as
necessary as ever, because what it has to bring to the image is in the page cache of the file system above.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.programs import kernel_lacks, need, run

_SHUTDOWN = 0x8004587D
_WITHOUT_LOG_FLUSH = 2
SHARED_MEMORY = Path("/dev/shm")
GiB = 1 << 30
KINDS = ("ext4", "xfs")


def need_grounds(kind: str) -> None:
    """Skip where this machine cannot give us such a file system."""
    need("losetup", f"mkfs.{kind}")
    if os.geteuid() != 0:
        kernel_lacks("mounting takes root")
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC))
        if run("losetup", "-f", check=False).returncode == 0:
            return
    kernel_lacks("it gives us no loop device")


def _room(folder: Path, size: int) -> Path:
    """Where the image lies: in memory if that has twice the room."""
    with contextlib.suppress(OSError):
        state = os.statvfs(SHARED_MEMORY)
        if state.f_bavail * state.f_frsize > 2 * size and os.access(SHARED_MEMORY, os.W_OK):
            return SHARED_MEMORY
    return folder


class Ground:
    """One file system, mounted at `place`."""

    def __init__(self, kind: str, folder: Path, size: int = GiB, name: str = "ground") -> None:
        self.kind = kind
        self.place = folder / name
        self.image = _room(folder, size) / f"{folder.name}-{name}.{kind}"
        self.size = size
        self.cuts = 0

    def make(self) -> None:
        self.place.mkdir()
        with self.image.open("wb") as made:
            made.truncate(self.size)
        run(f"mkfs.{self.kind}", "-q", self.image)
        self._mount()
        self.place.chmod(0o755)

    def _mount(self) -> None:
        mounting = run("mount", "-o", "loop", self.image, self.place, check=False)
        if mounting.returncode and not self.cuts:
            kernel_lacks(f"it does not mount {self.kind} on a loop device: {mounting.stderr.strip()}")
        assert mounting.returncode == 0, f"after {self.cuts} cuts: {mounting.stderr}"

    def cut(self) -> None:
        """The power is gone. Processes still see the page cache, and errors."""
        place = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(place, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
        finally:
            os.close(place)
        self.cuts += 1

    def restore(self) -> None:
        """The power is back. Nobody may have a file open there any more."""
        assert self._unmount(), f"{self.place} stays busy"
        self._mount()

    def _unmount(self, seconds: float = 60) -> bool:
        deadline = time.monotonic() + seconds
        while (told := run("umount", self.place, check=False)).returncode:
            if "not mounted" in told.stderr or "no mount point" in told.stderr:
                return True
            if time.monotonic() > deadline:
                print(told.stderr)
                return False
            time.sleep(0.05)
        return True

    def close(self) -> None:
        """Always: no mount, no loop device, no image may outlive a test."""
        if not self._unmount(5):
            run("umount", "-l", self.place, check=False)
        self.image.unlink(missing_ok=True)


@contextlib.contextmanager
def ground(kind: str, folder: Path, **more: object) -> Iterator[Ground]:
    """A fresh one, taken away whatever happens."""
    need_grounds(kind)
    made = Ground(kind, folder, **more)  # type: ignore[arg-type]
    try:
        made.make()
        yield made
    finally:
        made.close()
