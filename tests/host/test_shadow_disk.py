"""A disk over another: whatever is done to files on it reads as on a plain disk, and below nothing changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from revolume.host.shadow_disk import ShadowDisk

SIZE = 40_000


@pytest.fixture
def below(tmp_path: Path) -> Path:
    made = tmp_path / "below"
    (made / "log").mkdir(parents=True)
    (made / "log" / "one").write_bytes(random.Random(1).randbytes(SIZE))
    (made / "two").write_bytes(b"two")
    (tmp_path / "room").mkdir()
    return made


@pytest.mark.parametrize("seed", range(8))
def test_any_changes_read_as_on_a_plain_file(below: Path, tmp_path: Path, seed: int) -> None:
    chance, original = random.Random(seed), (below / "log" / "one").read_bytes()
    model = bytearray(original)
    log = ShadowDisk(str(tmp_path / "room")).open(str(below)).child("log")
    file = log.open("one")
    for _ in range(150):
        at, length = chance.randrange(SIZE + 9000), chance.choice((1, 700, 4096, 9000))
        match chance.randrange(6):
            case 0 | 1:
                data = chance.randbytes(length) if chance.random() < 0.7 else bytes(length)
                file.pwritev([data[: length // 3], data[length // 3 :]], at)
                model.extend(bytes(max(0, at + length - len(model))))
                model[at : at + length] = data
            case 2:
                file.punch(at, length)
                end = min(at + length, len(model))
                model[at:end] = bytes(max(0, end - at))
            case 3:
                file.truncate(at)
                model = (model + bytes(max(0, at - len(model))))[:at]
            case 4:
                file.close()
                file = log.open("one")
            case _:
                buffers = [bytearray(length), bytearray(50)]
                nowait = [bytearray(length), bytearray(50)]
                read = file.preadv(buffers, at)
                assert not file.preadv_nowait(nowait, at) or nowait == buffers
                want = bytes(model[at : at + length + 50])
                assert read == len(want) and b"".join(buffers)[:read] == want
        assert file.size() == len(model)
    whole = bytearray(len(model))
    assert file.preadv([whole], 0) == len(model) and whole == model
    assert (below / "log" / "one").read_bytes() == original


def test_names(below: Path, tmp_path: Path) -> None:
    disk = ShadowDisk(str(tmp_path / "room"))
    there = disk.open(str(below))
    there.open("three", create=True).pwritev([b"three"], 0)
    there.rename("three", "two")
    with pytest.raises(FileNotFoundError):
        there.open("three")
    got = bytearray(5)
    assert there.open("two").preadv([got], 0) == 5 and got == b"three"
    there.remove("two")
    assert not there.exists("two") and there.names() == ["log"]
    with pytest.raises(FileNotFoundError):
        there.remove("two")
    assert there.open("two", create=True).size() == 0
    with pytest.raises(FileExistsError):
        there.open("two", create=True, exclusive=True)
    disk.open(str(below / "log")).remove("one")
    assert not there.child("log").exists("one"), "the same directory by another way"
    there.child("maps", create=True).open("map", create=True)
    assert sorted(path.name for path in below.iterdir()) == ["log", "two"]
    assert (below / "two").read_bytes() == b"two" and (below / "log" / "one").exists()
    disk.close()
