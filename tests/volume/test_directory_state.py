"""What a directory holds before anything is opened in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from revolume.errors import NotFound, Refused
from revolume.host.real.disk import RealDisk
from revolume.volume.open.directory_state import claim_empty, holds_volume, stated

DISK = RealDisk()


def test_a_manifest_makes_a_volume_whatever_is_in_it(tmp_path: Path) -> None:
    assert not holds_volume(DISK, str(tmp_path / "nowhere"))
    assert not holds_volume(DISK, str(tmp_path))
    (tmp_path / "manifest.b").write_bytes(b"not one that can be read")
    assert holds_volume(DISK, str(tmp_path))
    assert not holds_volume(DISK, str(tmp_path / "manifest.b"))


def test_an_empty_directory_is_made_and_held_until_it_is_closed(tmp_path: Path) -> None:
    path = str(tmp_path / "new")
    held = claim_empty(DISK, path)
    with pytest.raises(Refused, match="in use by another process"):
        claim_empty(DISK, path)
    held.close()
    claim_empty(DISK, path).close()
    with pytest.raises(NotFound):
        stated(DISK, path)


def test_a_directory_with_other_things_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "letters").touch()
    with pytest.raises(Refused, match="holds other things"):
        claim_empty(DISK, str(tmp_path))
    with pytest.raises(Refused, match="is not a directory"):
        claim_empty(DISK, str(tmp_path / "letters"))
