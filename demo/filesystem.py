"""Changing files through the file system, by the best way that this machine has.

1. nbdfuse and a loop device: the kernel's own ext4 on the live volume, mounted, as a user would have it.
2. nbdfuse and debugfs -w: the file system's own library, on the live volume.
3. debugfs -w on a local copy; the blocks that it changed are written back over NBD.

Each takes the same orders: files to delete and files to overwrite.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from demo.remote import write_differences
from demo.stage import Stage, missing


class Edits:
    """What is done to the files."""

    def __init__(self, deleted: Sequence[str], overwritten: Mapping[str, Path]) -> None:
        self.deleted = deleted
        self.overwritten = overwritten

    def debugfs_script(self) -> str:
        lines = [f"rm {name}" for name in self.deleted]
        for name, source in self.overwritten.items():
            lines += [f"rm {name}", f"write {source} {name}"]
        return "\n".join(lines) + "\n"


def apply(stage: Stage, uri: str, pulled: Path, edits: Edits) -> str:
    """Do it; how it was done. ``pulled`` is a copy of the volume as it is."""
    if not missing("nbdfuse", "fusermount3") and os.path.exists("/dev/fuse"):
        with _fused(stage, uri) as disk:
            if disk is not None:
                device = _loop_device(disk)
                if device is not None:
                    _mounted(stage, device, edits)
                    return "mounted through nbdfuse and a loop device"
                _debugfs(stage, disk, edits)
                return "with debugfs on the live volume, through nbdfuse"
    _debugfs(stage, pulled, edits)
    stage.say("(the blocks that debugfs changed go back over NBD)")
    write_differences(uri, pulled)
    return "with debugfs on a copy, written back over NBD"


def listed(stage: Stage, image: Path, name: str) -> bool:
    """Does the file system in ``image`` have this file?"""
    ended = stage.run("debugfs", "-R", f"stat /{name}", image, expect=None, show=False)
    return "Inode:" in ended.stdout


@contextlib.contextmanager
def _fused(stage: Stage, uri: str) -> Iterator[Path | None]:
    """The volume as a file, if FUSE works here."""
    mountpoint = stage.directory / "fuse"
    mountpoint.mkdir()
    process = stage.start("nbdfuse", mountpoint, uri, name="nbdfuse")
    disk = mountpoint / "nbd"
    try:
        yield disk if _appears(disk, process) else None
    finally:
        subprocess.run(["fusermount3", "-u", mountpoint], capture_output=True, check=False)
        stage.stop(process)


def _appears(path: Path, process: subprocess.Popen[str]) -> bool:
    deadline = time.monotonic() + 10
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _loop_device(disk: Path) -> str | None:
    if missing("losetup", "mount", "umount") or os.geteuid() != 0:
        return None
    ended = subprocess.run(
        ["losetup", "--direct-io=on", "--show", "-f", disk], capture_output=True, text=True, check=False
    )
    return ended.stdout.strip() if ended.returncode == 0 else None


def _mounted(stage: Stage, device: str, edits: Edits) -> None:
    mountpoint = stage.directory / "mnt"
    mountpoint.mkdir()
    try:
        stage.run("mount", device, mountpoint)
        try:
            for name in edits.deleted:
                stage.run("rm", mountpoint / name)
            for name, source in edits.overwritten.items():
                stage.run("cp", source, mountpoint / name)
            stage.run("sync", "-f", mountpoint)
        finally:
            stage.run("umount", mountpoint)
    finally:
        subprocess.run(["losetup", "-d", device], check=False)


def _debugfs(stage: Stage, image: Path, edits: Edits) -> None:
    script = stage.directory / "debugfs.script"
    script.write_text(edits.debugfs_script())
    stage.run("debugfs", "-w", "-f", script, image)
