"""ext4, xfs and btrfs of this kernel on a mirrored volume: the mirror has the same file system, at a moment taken
under load (whose journal replays there in a throw-away view), and as its primary once the other is dead.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.foreign.test_filesystems import ALL, EXT4, FileSystem, fresh_kernel_state, ready
from tests.support.mounts import disk, export_as_file, mounted, sync, tree_digest, write_tree
from tests.support.pairs import Pair, pair
from tests.support.programs import run
from tests.support.servers import revolume, revolume_only
from tests.support.wire import digest

pytestmark = [pytest.mark.foreign, pytest.mark.kernel, pytest.mark.slow, revolume_only]
MiB = 1 << 20
SIZE = 320 * MiB  # xfs wants 300
ROUNDS = 8 if os.environ.get("REVOLUME_SOAK") else 1


@contextmanager
def busy(place: Path) -> Iterator[None]:
    """Files are written, synced and thrown away until the end of the context."""
    enough = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        seed = 1000
        try:
            while not enough.is_set():
                write_tree(place, seed, files=10)
                for path in sorted(place.rglob(f"f{seed - 2}-*")):
                    path.unlink()
                seed += 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join(60)
    assert not thread.is_alive() and not failed, failed


def fill(both: Pair, folder: Path, system: FileSystem, round_: int) -> tuple[dict[str, str], dict[str, str]]:
    """What was synced before the moment ``busy``, and what is there in the end."""
    fresh_kernel_state(system)
    with disk(both.primary.uri(), folder) as device:
        run(*system.make, device)
        with mounted(device, folder) as place:
            write_tree(place, seed=100 + round_)
            sync(place)
            synced = tree_digest(place)
            with busy(place):
                time.sleep(0.7)
                revolume("snapshot", both.primary.directory, "busy")
                time.sleep(0.5)
            for path in sorted(place.rglob(f"f{100 + round_}-*"))[::2]:
                path.unlink()
            write_tree(place, seed=200 + round_)
            sync(place)
            run("fstrim", place)
            return synced, tree_digest(place)


def clean(system: FileSystem, uri: str, folder: Path) -> None:
    fresh_kernel_state(system)
    with export_as_file(uri, folder) as file:
        run(*system.check, file)


@pytest.mark.soak
@pytest.mark.timeout(300)
@ALL
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_mirror_has_the_file_system(folder: Path, system: FileSystem, round_: int) -> None:
    ready(system)
    with pair(folder, size=SIZE, mode="async" if round_ % 2 else "sync") as both:
        synced, content = fill(both, folder, system, round_)
        clean(system, both.primary.uri(), folder)
        both.until_equal()
        clean(system, both.mirror.uri("vol"), folder)
        the_moment_is_the_same(both, folder, system, synced)

        both.lose_primary()
        both.promote()
        clean(system, both.mirror.uri("vol"), folder)
        fresh_kernel_state(system)
        with disk(both.mirror.uri("vol"), folder) as device:
            with mounted(device, folder) as place:
                assert tree_digest(place) == content, "on the promoted mirror"
                write_tree(place, seed=300)
                sync(place)
                run("fstrim", place)
                content = tree_digest(place)
            run(*system.check, device)
        assert both.mirror.stop() == 0
        revolume("check", both.mirror.directory)


def the_moment_is_the_same(both: Pair, folder: Path, system: FileSystem, synced: dict[str, str]) -> None:
    before = digest(both.primary.uri("vol@busy"))
    assert digest(both.mirror.uri("vol@busy")) == before
    fresh_kernel_state(system)
    with disk(both.mirror.uri("vol@busy,rw"), folder) as device:
        if system is EXT4:
            features = run("dumpe2fs", "-h", device).stdout
            assert "needs_recovery" in features, "the moment was taken from a mounted file system"
        with mounted(device, folder) as place:
            found = tree_digest(place)
            assert {path: found.get(path) for path in synced} == synced, "synced before the moment"
            write_tree(place, seed=400, files=10)
            sync(place)
        run(*system.check, device)
    assert digest(both.mirror.uri("vol@busy")) == before, "what was written to the view is gone"
