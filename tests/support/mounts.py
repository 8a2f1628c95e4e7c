"""A file system of the kernel on an NBD export, without a kernel module for NBD.

nbdfuse shows the export as a file, a loop device makes that file a disk, and the disk is mounted.
Everything is undone in reverse order, whatever happened above; what cannot be undone politely is detached
lazily, so that one stuck test does not leave a machine full of dead mounts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import SYSTEM_PATH, run


def _try_until(what: str, *command: str, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while run(*command, check=False).returncode != 0:
        if time.monotonic() > deadline:
            print(f"could not {what}")
            return False
        time.sleep(0.2)
    return True


@contextlib.contextmanager
def export_as_file(uri: str, folder: Path) -> Iterator[Path]:
    """The export as an ordinary file."""
    place = folder / "fuse"
    place.mkdir(exist_ok=True)
    env = {**os.environ, "PATH": SYSTEM_PATH}
    process = subprocess.Popen(["nbdfuse", str(place), uri], env=env)
    try:
        file = place / "nbd"
        deadline = time.monotonic() + 20
        while not file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"nbdfuse did not mount {uri}")
            time.sleep(0.05)
        yield file
    finally:
        # nbdfuse that lost its server has ended, and left a dead mount
        if process.poll() is not None or not _try_until("unmount fuse", "fusermount3", "-u", str(place)):
            run("fusermount3", "-uz", str(place), check=False)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def file_as_disk(file: Path) -> Iterator[Path]:
    """The file as a block device."""
    device = run("losetup", "--direct-io=on", "--show", "-f", file).stdout.strip()
    try:
        yield Path(device)
    finally:
        _try_until("free the loop device", "losetup", "-d", device)
        _try_until("see it freed", "sh", "-c", f"! losetup {device} 2>/dev/null", seconds=5)


@contextlib.contextmanager
def disk(uri: str, folder: Path) -> Iterator[Path]:
    """The export as a block device."""
    with export_as_file(uri, folder) as file, file_as_disk(file) as device:
        yield device


@contextlib.contextmanager
def mounted(device: Path, folder: Path, *options: str) -> Iterator[Path]:
    place = folder / "mnt"
    place.mkdir(exist_ok=True)
    run("mount", *options, device, place)
    try:
        yield place
    finally:
        if not _try_until("unmount", "umount", str(place)):
            run("umount", "-l", place, check=False)


def write_tree(place: Path, seed: int, files: int = 60) -> None:
    """Files of all sizes, most of them small, every third synced by itself."""
    chance = random.Random(seed)
    for number in range(files):
        folder = place / f"d{chance.randrange(8)}"
        folder.mkdir(exist_ok=True)
        size = int(2 ** chance.uniform(0, 21))
        with (folder / f"f{seed}-{number}").open("wb") as file:
            file.write(chance.randbytes(size))
            if number % 3 == 0:
                file.flush()
                os.fsync(file.fileno())


def tree_digest(place: Path) -> dict[str, str]:
    """Path to checksum of every file."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def sync(place: Path) -> None:
    run("sync", "-f", place)
