"""Stopped volumes on a medium that can't be written: what only reads works there, and changes nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pairs import Pair
from tests.support.programs import run
from tests.support.servers import Serve, revolume, revolume_only
from tests.support.wire import Wire

pytestmark = revolume_only
MiB = 1 << 20


@contextlib.contextmanager
def read_only(directory: Path, place: Path) -> Iterator[Path]:
    """The same directory, mounted so that nothing can be written."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    place.mkdir()
    done = run("mount", "--bind", directory, place, check=False)
    if done.returncode:
        pytest.skip(f"this kernel makes no bind mount: {done.stderr.strip()}")
    try:
        run("mount", "-o", "remount,bind,ro", place)
        with pytest.raises(OSError):
            (place / "probe").touch()
        yield place
    finally:
        run("umount", place, check=False)


def tree(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def copied(place: Path, to: Path) -> bytes:
    revolume("copy", str(place), to, "--force")
    return to.read_bytes()


def test_a_primary_and_its_mirror(folder: Path, tmp_path: Path) -> None:
    """The primary was killed and has a required mirror; the mirror stands at its last agreed point."""
    with contextlib.closing(Pair(folder, size=8 * MiB)) as both:
        both.start()
        with Wire(both.primary.uri()) as wire:
            wire.pwrite(0, b"early" * 1000)
            revolume("snapshot", both.primary.directory, "early")
            wire.pwrite(4096 + 7, b"z" * MiB)
            both.until_equal()
            at_the_mirror = wire.pread(0, 8 * MiB)
            both.cable.cut()
            both.primary.kill()
        assert both.mirror.stop() == 0
        for server, newest in ((both.primary, at_the_mirror), (both.mirror, at_the_mirror)):
            before = tree(server.directory)
            with read_only(server.directory, tmp_path / f"ro-{server.folder.name}") as place:
                assert copied(place, tmp_path / "now.img") == newest
                early = copied(Path(f"{place}@early"), tmp_path / "early.img")
                assert early == (b"early" * 1000).ljust(8 * MiB, b"\0")
                status = json.loads(revolume("status", place, "--json"))
                assert status["state"] == "stopped" and status["snapshots"][0]["name"] == "early"
                revolume("check", place)
                if server is both.mirror:
                    assert json.loads(revolume("points", place, "--json"))["points"]
                else:
                    good = "head -c 5000 {file} | tail -c 1 | grep -qv z"
                    assert json.loads(revolume("bisect", place, "--json", "--", "sh", "-c", good))
            assert tree(server.directory) == before, "nothing has changed"


def test_a_stopped_volume_that_is_read_stays_as_it_is(serve: Serve, tmp_path: Path) -> None:
    """Also where it could be written, and after a kill in the middle of things."""
    server = serve("unix", size=16 * MiB)
    content = {}
    with Wire(server.uri()) as wire:
        for at in range(12):
            content[at] = os.urandom(MiB)
            wire.pwrite(at * MiB, content[at])
            if at % 3 == 0:
                wire.flush()
        wire.pwrite(13 * MiB + 5, b"odd" * 999)
    server.kill()
    before = tree(server.directory)
    image = copied(server.directory, tmp_path / "now.img")
    assert image[: 12 * MiB] == b"".join(content[at] for at in range(12))
    assert image[13 * MiB + 5 :][:2997] == b"odd" * 999
    assert tree(server.directory) == before
