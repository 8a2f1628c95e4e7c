"""Marks: what they say of a moment, their files, and what becomes of them in a volume that lives on."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.blocks.block_set import BlockSet
from revolume.blocks.numbers import WriteNumber
from revolume.host import real_host
from revolume.host.real.disk import RealDisk
from revolume.volume.metadata.manifest_edits import EditKind, apply, state_edits
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.suspect_edits import Finding, MarksFile, SuspectRecord, pack_finding, pack_suspect
from revolume.volume.open.open import open_volume
from revolume.volume.suspect.marks import Marks, pack_marks, read_marks, unpack_marks, write_marks
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.suspect.suspect_history import FILES_MAX
from revolume.volume.suspect.suspect_rows import OPEN, ROW, joined, reopened_at, repaired_at
from tests.volume.driver import BLOCK, Driver, abandon

VOLUME = bytes(range(16))
REIGN = b"r" * 16


def rows(*each: tuple[int, int, int, int]) -> np.ndarray:
    return np.array(list(each), ROW)


def marks(*each: tuple[int, int, int, int], cause: str = "a comparison found differences") -> Marks:
    return Marks(REIGN, 7, 123, cause, rows(*each))


def run_of(first: int, count: int) -> BlockSet:
    return BlockSet.of_intervals(np.array([first], np.uint64), np.array([first + count], np.uint64))


some_rows = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 8), st.integers(0, 20), st.integers(1, 12) | st.just(OPEN)).map(
        lambda row: (row[0], row[1], row[2], row[3] if row[3] == OPEN else row[2] + row[3])
    ),
    max_size=6,
)


def model(of: np.ndarray) -> dict[int, set[int]]:
    """Of each write, the blocks that are suspect."""
    return {
        write: {b for first, count, since, until in of.tolist() if since <= write < until
                for b in range(first, first + count)}
        for write in range(40)
    }  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(some_rows, st.integers(0, 30), st.integers(1, 12), st.integers(0, 35))
def test_b11_rows_say_of_each_moment_which_blocks(
    each: list[tuple[int, int, int, int]], first: int, count: int, write: int
) -> None:
    found = joined([rows(*each)])
    periods = SuspectPeriods([replace(marks(), rows=found)])
    before = model(found)
    for at, blocks in before.items():
        assert periods.within(WriteNumber(at)) == bool(blocks)
        suspicion = periods.at(WriteNumber(at))
        assert (0 if suspicion is None else suspicion.blocks) == len(blocks)
        if suspicion is not None:
            assert all(before[w] for w in range(suspicion.since, min(suspicion.until, 40)))
            assert not suspicion.since or not before[suspicion.since - 1]
    repaired = set(range(first, first + count))
    opened = [row for row in found.tolist() if row[3] == OPEN]
    after = model(repaired_at(found, run_of(first, count), WriteNumber(write)))
    closed = model(rows(*[row for row in found.tolist() if row[3] != OPEN]))
    for at in range(40):
        still = model(rows(*opened))[at]
        assert after[at] == closed[at] | (still if at < write else still - repaired)


def test_going_back_opens_what_was_repaired_later() -> None:
    found = reopened_at(rows((1, 1, 5, 10), (2, 1, 5, 30), (3, 1, 25, 30), (4, 1, 5, OPEN)), WriteNumber(20))
    assert sorted(found.tolist()) == [(1, 1, 5, 10), (2, 1, 5, OPEN), (4, 1, 5, OPEN)]


def test_a_file_is_read_as_it_was_written_and_no_flipped_bit_is_believed(tmp_path: Path) -> None:
    made = marks((1, 2, 3, 4), (9, 1, 0, OPEN), cause="Grüße, odd length")
    with_disk = RealDisk().open(str(tmp_path))
    write_marks(with_disk, VOLUME, 3, made)
    again = read_marks(with_disk, VOLUME, 3)
    assert (again.reign, again.point, again.made_ns, again.cause) == (REIGN, 7, 123, made.cause)
    assert again.rows.tolist() == made.rows.tolist()
    data = pack_marks(VOLUME, made)
    assert unpack_marks(bytes(16), data) is None, "of another volume"
    for at in range(len(data)):
        assert unpack_marks(VOLUME, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]) is None
        assert unpack_marks(VOLUME, data[:at]) is None


def test_the_manifest_says_which_files_there_are() -> None:
    files = (MarksFile(3, WriteNumber(5), WriteNumber(9), 2), MarksFile(8, WriteNumber(0), OPEN, 1))
    state = apply(State(volume=VOLUME), EditKind.SUSPECT, pack_suspect(files, 9))
    finding = Finding(4, WriteNumber(44), 6)
    state = apply(state, EditKind.FINDING, pack_finding(finding))
    assert state.suspect == SuspectRecord(files, 9, finding)
    again = State(volume=VOLUME)
    for kind, body in state_edits(state):
        again = apply(again, kind, body)
    assert again.suspect == state.suspect
    assert apply(again, EditKind.FINDING, b"").suspect == SuspectRecord(files, 9)
    assert [finding.point for finding in (finding,) if state.suspect.unproved(5)] == [4]
    assert not state.suspect.unproved(3) and not state.suspect.unproved(7) and not state.suspect.differs_since
    assert SuspectRecord(finding=replace(finding, equal=0)).differs_since == 4


class Marked(Driver):
    """A volume with some writes and points."""

    async def begin(self) -> list[WriteNumber]:
        await self.open()
        return [await self.step(number) for number in range(1, 6)]

    async def step(self, number: int) -> WriteNumber:
        await self.change([(1, number * BLOCK, bytes([number]) * BLOCK)])
        await self.volume.point_maker.cut()
        return self.volume.write

    @property
    def periods(self) -> list[tuple[int, int]]:
        return list(self.volume.suspect.periods.list())


def play(folder: Path, scenario: object) -> None:
    async def whole() -> None:
        host = real_host()
        driver = Marked(host, folder / "v", 64 * BLOCK)
        try:
            await scenario(driver)  # type: ignore[operator]
            await driver.volume.close()
        finally:
            await host.work.close()

    asyncio.run(whole())


def test_b11_marks_survive_kill_and_restart_and_go_when_their_moments_have_gone(tmp_path: Path) -> None:
    async def scenario(driver: Marked) -> None:
        writes = await driver.begin()
        history = driver.volume.suspect
        await history.add(marks((1, 4, writes[0], OPEN)))
        await driver.crash()
        assert driver.periods == [(writes[0], OPEN)]
        await driver.volume.suspect.repaired(run_of(1, 4), writes[3])
        await driver.reopen()
        assert driver.periods == [(writes[0], writes[3])]
        await driver.volume.snapshot("kept")
        while await driver.fold():
            pass
        await driver.step(9)
        oldest = driver.volume.oldest.write
        assert oldest >= writes[3]
        for _ in range(6000):
            if not driver.periods:
                break
            await asyncio.sleep(0.01)
        await driver.reopen()
        assert driver.periods == []
        assert not list((driver.path / "suspect").iterdir()), "the files have gone with them"

    play(tmp_path, scenario)


def test_the_same_marks_once_more_add_nothing_and_many_become_few(tmp_path: Path) -> None:
    async def scenario(driver: Marked) -> None:
        writes = await driver.begin()
        history = driver.volume.suspect
        for _ in range(3):
            await history.add(marks((1, 4, writes[0], OPEN), (8, 1, 0, OPEN)))
        assert len(history.periods.marks) == 1
        for number in range(FILES_MAX + 5):
            await history.add(marks((100 + number, 1, writes[1], writes[2])))
        assert len(history.periods.marks) == FILES_MAX
        await driver.reopen()
        blocks = driver.volume.suspect.periods.blocks_at(writes[1])
        assert blocks.block_count() == 4 + 1 + FILES_MAX + 5
        assert len(list((driver.path / "suspect").iterdir())) == FILES_MAX

    play(tmp_path, scenario)


@pytest.mark.parametrize("how", ["a bit", "unreadable"])
def test_where_the_file_is_damaged_its_whole_period_is_suspect(tmp_path: Path, how: str) -> None:
    async def scenario(driver: Marked) -> None:
        writes = await driver.begin()
        await driver.volume.suspect.add(marks((1, 4, writes[1], writes[3])))
        await abandon(driver.volume)
        (file,) = (driver.path / "suspect").iterdir()
        data = bytearray(file.read_bytes())
        data[-20] ^= 1
        if how == "a bit":
            file.write_bytes(data)
        else:
            file.unlink()
            file.mkdir()
        driver.volume = await open_volume(driver.host, str(driver.path), driver.options)
        assert driver.periods == [(writes[1], writes[3])]
        suspicion = driver.volume.suspect.periods.at(writes[1])
        assert suspicion is not None and "damaged" in suspicion.causes[0]

    play(tmp_path, scenario)


def test_marks_that_are_no_marks_are_none() -> None:
    for bent in (rows((1, 0, 1, 2)), rows((1, 1, 2, 2)), rows((1 << 63, 1, 1, 2)), rows((1, 1, 1, 1 << 63))):
        assert unpack_marks(VOLUME, pack_marks(VOLUME, replace(marks(), rows=bent))) is None


@pytest.mark.parametrize("write", [0, 5, 10])
def test_nothing_is_suspect_without_marks(write: int) -> None:
    periods = SuspectPeriods()
    assert not periods and periods.at(WriteNumber(write)) is None and not periods.list()
