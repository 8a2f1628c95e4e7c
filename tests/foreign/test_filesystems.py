"""ext4, xfs and btrfs of this kernel on an export; and on a view of an earlier moment, which replays its
journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.mounts import disk, export_as_file, mounted, sync, tree_digest, write_tree
from tests.support.programs import kernel_lacks, need, need_kernel, run
from tests.support.servers import Serve, Server, revolume, revolume_only
from tests.support.wire import digest

pytestmark = [pytest.mark.foreign, pytest.mark.kernel, pytest.mark.slow]
MiB = 1 << 20


@dataclass(frozen=True)
class FileSystem:
    name: str
    make: tuple[str, ...]
    check: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


EXT4 = FileSystem("ext4", ("mkfs.ext4", "-q"), ("e2fsck", "-fn"))
XFS = FileSystem("xfs", ("mkfs.xfs", "-q"), ("xfs_repair", "-n"))
BTRFS = FileSystem("btrfs", ("mkfs.btrfs", "-q"), ("btrfs", "check", "--readonly"))
ALL = pytest.mark.parametrize("system", [EXT4, XFS, BTRFS], ids=str)


def ready(system: FileSystem) -> None:
    need("nbdfuse", "fusermount3", "losetup", system.make[0])
    need_kernel()
    if (
        system.name not in Path("/proc/filesystems").read_text()
        and run("modprobe", system.name, check=False).returncode
    ):
        kernel_lacks(f"it has no {system.name}")


def fresh_kernel_state(system: FileSystem) -> None:
    """btrfs remembers devices by identity; a view of a moment has that of the live volume."""
    if system is BTRFS:
        run("btrfs", "device", "scan", "--forget", check=False)


@ALL
@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_file_system_on_an_export(serve: Serve, folder: Path, system: FileSystem, transport: str) -> None:
    """Made, filled, trimmed, unmounted, mounted again with the same content, and clean."""
    ready(system)
    server: Server = serve(transport, size=512 * MiB, persistent=True)
    fresh_kernel_state(system)
    with disk(server.uri(), folder) as device:
        run(*system.make, device)
        with mounted(device, folder) as place:
            write_tree(place, seed=1)
            write_tree(place, seed=2)
            for path in sorted(place.rglob("f1-*"))[::2]:
                path.unlink()
            sync(place)
            run("fstrim", place)
            content = tree_digest(place)
        with mounted(device, folder) as place:
            assert tree_digest(place) == content
    with export_as_file(server.uri(), folder) as file:
        run(*system.check, file)

    assert server.stop() == 0
    server.start()
    fresh_kernel_state(system)
    with export_as_file(server.uri(), folder) as file:
        run(*system.check, file)
    with disk(server.uri(), folder) as device, mounted(device, folder) as place:
        assert tree_digest(place) == content, "after the server was stopped and started"


@revolume_only
@ALL
def test_view_of_an_earlier_moment_replays_its_journal(serve: Serve, folder: Path, system: FileSystem) -> None:
    """A moment taken while the file system was mounted and busy boots in a throw-away writable view."""
    ready(system)
    server: Server = serve("unix", size=512 * MiB)
    fresh_kernel_state(system)
    with disk(server.uri(), folder) as device:
        run(*system.make, device)
        with mounted(device, folder) as place:
            write_tree(place, seed=1)
            sync(place)
            synced = tree_digest(place)
            write_tree(place, seed=3, files=12)  # partly in flight at the moment
            revolume("snapshot", server.directory, "busy")
            for path in sorted(place.rglob("f1-*")):
                path.unlink()
            write_tree(place, seed=2)
            sync(place)
            later = tree_digest(place)

    moment, view = server.uri("vol@busy"), server.uri("vol@busy,rw")
    before = digest(moment)
    fresh_kernel_state(system)
    with disk(view, folder) as device:
        if system is EXT4:
            features = run("dumpe2fs", "-h", device).stdout
            assert "needs_recovery" in features, "the moment was taken from a mounted file system"
        with mounted(device, folder) as place:
            found = tree_digest(place)
            assert {path: found.get(path) for path in synced} == synced, "synced before the moment"
            write_tree(place, seed=4, files=10)  # the view takes writes …
            sync(place)
        run(*system.check, device)
    assert digest(moment) == before, "… which leave the moment as it was"
    fresh_kernel_state(system)
    with disk(server.uri(), folder) as device, mounted(device, folder) as place:
        assert tree_digest(place) == later, "the live volume does not notice"
