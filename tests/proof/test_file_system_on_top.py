"""ext4 of this kernel on a volume whose server is killed, or whose own ground loses its power, while it is in use.

The file system sees its disk vanish, as a machine would that loses a remote disk, and is thrown away with the page
cache above it. On the reopened volume its journal is replayed, `e2fsck -fn` finds nothing, and every file that was
fsynced, whole with its name, is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proof.conftest import Tallied
from tests.support.geometry import geometry
from tests.support.grounds import Ground, ground
from tests.support.mounts import disk, mounted
from tests.support.programs import need, need_kernel, run
from tests.support.servers import Server, revolume, revolume_only
from tests.support.tally import SEED, SOAK, rounds

pytestmark = [revolume_only, pytest.mark.foreign, pytest.mark.kernel, pytest.mark.slow]
MiB = 1 << 20
SIZE = 64 * MiB
ROUNDS = rounds(12, 2)
LIFE = 4
KEPT = 120
"""Files there are at most; the oldest makes room."""


class Activity(threading.Thread):
    """Files written, some synced, some renamed over others, some removed, until the disk is gone. `synced`: name
    to checksum of those that were fsynced, with their folder, and not touched since."""

    def __init__(self, place: Path, synced: dict[str, str], seed: int) -> None:
        super().__init__(daemon=True)
        self.place, self.synced = place, synced
        self.chance = random.Random(seed)
        self.seed = seed
        self.enough = threading.Event()
        self.files = self.fsyncs = 0

    def run(self) -> None:
        with contextlib.suppress(OSError):  # the disk is gone
            while not self.enough.is_set():
                self._one(f"f{self.seed}-{self.files}")
                self.files += 1

    def _one(self, name: str) -> None:
        data = self.chance.randbytes(int(2 ** self.chance.uniform(0, 17)))
        if len(self.synced) > KEPT:
            oldest = next(iter(self.synced))
            del self.synced[oldest]  # before it goes: its end is not certain from here on
            (self.place / oldest).unlink()
        fresh = self.place / f"{name}.fresh"
        with fresh.open("wb") as file:
            file.write(data)
            if self.chance.random() < 0.3:
                return
            file.flush()
            os.fsync(file.fileno())
        if self.chance.random() < 0.5 and self.synced:
            name = self.chance.choice(list(self.synced))  # over one that is there
            del self.synced[name]
        fresh.rename(self.place / name)
        self._sync_folder()
        self.synced[name] = hashlib.sha256(data).hexdigest()
        self.fsyncs += 1

    def _sync_folder(self) -> None:
        folder = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def in_use(server: Server, folder: Path, synced: dict[str, str], seed: int) -> Iterator[Activity]:
    """The file system mounted, and busy."""
    with disk(server.uri(), folder) as device, mounted(device, folder) as place:
        activity = Activity(place, synced, seed)
        activity.start()
        yield activity
        activity.enough.set()
        activity.join(60)
        assert not activity.is_alive(), "file activity hangs"
        assert activity.fsyncs, "nothing was synced"


def whole(server: Server, folder: Path, synced: dict[str, str]) -> None:
    """Journal replayed, checked, and every synced file there."""
    with disk(server.uri(), folder) as device:
        with mounted(device, folder) as place:
            found = {
                name: hashlib.sha256((place / name).read_bytes()).hexdigest()
                for name in synced
                if (place / name).exists()
            }
            for left in place.glob("*.fresh"):
                left.unlink()
        run("e2fsck", "-fn", device)
    missing = {name for name in synced if name not in found}
    changed = {name for name in found if found[name] != synced[name]}
    assert not missing and not changed, f"missing: {missing}, changed: {changed}"


def ready() -> None:
    need("nbdfuse", "fusermount3", "losetup", "mkfs.ext4")
    need_kernel()


def _made(place: Path, chance: random.Random, folder: Path) -> Server:
    """A volume with a fresh ext4 on it."""
    place.mkdir(mode=0o755)
    server = Server(place, SIZE, options=geometry(chance), persistent=True)
    server.start()
    with disk(server.uri(), folder) as device:
        run("mkfs.ext4", "-q", device)
    return server


def _round(server: Server, folder: Path, synced: dict[str, str], seed: int, under: Ground | None) -> int:
    """Busy, then gone, then whole again; how many syncs there were."""
    chance = random.Random(seed)
    with in_use(server, folder, synced, seed) as activity:
        time.sleep(chance.uniform(0.7, 2.0))
        if under is not None:
            under.cut()
            time.sleep(chance.uniform(0, 0.2))
        server.kill()
        activity.join(60)
    if under is not None:
        under.restore()
    revolume("check", server.directory)
    server.start()
    whole(server, folder, synced)
    return activity.fsyncs


@pytest.mark.soak
@pytest.mark.timeout(120 + 40 * ROUNDS)
@pytest.mark.parametrize("how", ["killed", "cut"])
def test_ext4_on_a_volume_outlives_its_server(folder: Path, tally: Tallied, how: str) -> None:
    ready()
    counted = tally(f"real-ext4-on-top-{how}", f"ext4 on a volume under file activity, its server {how}", 65)
    chance = random.Random(f"{SEED}-{how}")
    total = ROUNDS if SOAK else ROUNDS // 2
    number = 0
    while number < total:
        with ground("xfs", folder, name=f"g{number}") if how == "cut" else contextlib.nullcontext() as under:
            server = _made((under.place if under else folder) / f"s{number}", chance, folder)
            synced: dict[str, str] = {}
            try:
                for _ in range(min(LIFE, total - number)):
                    number += 1
                    syncs = _round(server, folder, synced, SEED * 1000 + number, under)
                    counted.add(**({"power_cuts_xfs": 1} if under else {"kills": 1}))
                    counted.add(clean_file_system_checks=1, files_synced=syncs, files_found_again=len(synced))
                    counted.round(number, total)
            finally:
                if server.process is not None:
                    server.kill()
                print(server.said())
