"""The file at the other end of a copy: whole under its name, or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from revolume.cli.copy_files import refuse_overwriting, source_file, target_file
from revolume.errors import NotFound, Refused, UsageError


def test_it_has_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with target_file(str(path), 4) as target:
        os.pwrite(target.descriptor, b"data", 0)
        assert target.sparse
        assert not path.exists()
    assert path.read_bytes() == b"data"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_interrupted_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), target_file(str(path), 4) as target:
        os.pwrite(target.descriptor, b"half", 0)
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_is_overwritten_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "out"
    refuse_overwriting(str(path), force=False)
    path.write_bytes(b"before")
    with pytest.raises(Refused):
        refuse_overwriting(str(path), force=False)
    refuse_overwriting(str(path), force=True)
    with pytest.raises(UsageError):
        refuse_overwriting(str(tmp_path), force=True)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"), target_file(str(tmp_path / "nowhere" / "out"), 4):
        pass


def test_a_source_tells_its_size(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"12345")
    with source_file(str(path)) as (descriptor, size):
        assert (os.pread(descriptor, 9, 0), size) == (b"12345", 5)
