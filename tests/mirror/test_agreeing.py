"""D15 and what a mirror stands on: the record of its base's own point, power lost at the instant of agreement, and
what it keeps from one point to the next."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from revolume.chain.point import Point
from revolume.host import Host, real_host
from revolume.host.real.disk import RealDisk
from tests.mirror.scripted import MEMORY, Claim, Lie, Stage, content, honest, root_of, stage
from tests.support.source_links import Asked
from tests.volume.mirrored import abandon_secondary

Scenario = Callable[[Stage], Awaitable[None]]


def on_stage(scenario: Scenario) -> None:
    async def run() -> None:
        async with asyncio.timeout(60), stage() as made:
            await scenario(made)

    asyncio.run(run())


# The point at which the log begins says what the base is


def of_the_base(made: Stage) -> Claim:
    """What an honest source says of the point whose blocks were sent as the base: its record comes first."""
    script = made.script
    return Claim(
        1, 0, script.position, script.write, script.time_ns, script.chain, {2: [(1, 3, 0)]},
        {3: script.base[3], 5: script.base[5]}, [], 4711, root_of(script.base),
    )  # fmt: skip


async def told(made: Stage, lie: Lie) -> None:
    made.script.point(lie, of_the_base(made))
    await made.ship()
    await made.settle()


def test_d15_the_record_of_the_bases_point_is_taken_for_what_it_is() -> None:
    async def scenario(made: Stage) -> None:
        await told(made, honest)
        assert made.secondary.failure is None
        agreed = made.secondary.manifest.state.agreed
        assert (agreed.point, agreed.position) == (1, made.script.position) and made.asked == []
        made.script.whole(3, 1, 4)
        await made.agreed()
        await made.lives_on()

    on_stage(scenario)


def other_content(claim: Claim) -> None:
    claim.partials[5] = content(4711)


def content_of_another(claim: Claim) -> None:
    claim.partials[5], claim.partials[3] = claim.partials[3], claim.partials[5]


def what_the_base_has_not(claim: Claim) -> None:
    claim.partials[90] = content(1)


def another_root(claim: Claim) -> None:
    claim.root = (claim.root[0], claim.root[1] ^ 1)


def another_chain(claim: Claim) -> None:
    claim.chain = b"x" * 16


def another_write(claim: Claim) -> None:
    claim.write -= 1


def another_position(claim: Claim) -> None:
    claim.position -= 1


@pytest.mark.parametrize(
    "lie",
    [other_content, content_of_another, what_the_base_has_not, another_root, another_chain, another_write,
     another_position],
)  # fmt: skip
def test_d15_a_record_of_the_bases_point_that_says_something_else_is_refused(lie: Lie) -> None:
    async def scenario(made: Stage) -> None:
        before = made.secondary.manifest.state.agreed
        await told(made, lie)
        failure = made.secondary.failure
        assert failure is not None and "does not say what its base was proved to be" in failure.cause
        assert made.secondary.manifest.state.agreed == before
        await made.holds()

    on_stage(scenario)


# Power lost


class Synced:
    """What the disk has for certain: each file as it was at its last sync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, bytes] = {}

    def noted(self, directory: str, name: str) -> None:
        path = Path(directory) / name
        self.files[str(path.relative_to(self.path))] = path.read_bytes()

    def renamed(self, directory: str, old: str, new: str) -> None:
        under = Path(directory).relative_to(self.path)
        self.files[str(under / new)] = self.files.pop(str(under / old))

    def after_a_power_cut(self, copy: Path) -> None:
        """The directory with nothing but that; what was never synced reads as zeroes."""
        copy.mkdir()
        for path in sorted(self.path.rglob("*")):
            there = copy / path.relative_to(self.path)
            if path.is_dir():
                there.mkdir(parents=True)
            elif path.is_file():
                held = self.files.get(str(path.relative_to(self.path)))
                there.write_bytes(bytes(path.stat().st_size) if held is None else held)


class _Wrapped:
    def __init__(self, real: Any, synced: Synced, directory: str, name: str = "") -> None:
        self._real, self._synced, self._directory, self._name = real, synced, directory, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._real, attribute)


class SyncedFile(_Wrapped):
    def datasync(self) -> None:
        self._real.datasync()
        self._synced.noted(self._directory, self._name)


class SyncedDirectory(_Wrapped):
    def rename(self, old: str, new: str) -> None:
        self._real.rename(old, new)
        self._synced.renamed(self._directory, old, new)

    def open(self, name: str, **options: Any) -> SyncedFile:
        return SyncedFile(self._real.open(name, **options), self._synced, self._directory, name)

    def child(self, name: str, **options: Any) -> SyncedDirectory:
        return SyncedDirectory(self._real.child(name, **options), self._synced, f"{self._directory}/{name}")


class SyncedDisk:
    def __init__(self, synced: Synced) -> None:
        self._synced = synced

    def open(self, path: str, **options: Any) -> SyncedDirectory:
        return SyncedDirectory(RealDisk().open(path, **options), self._synced, path)


def left_out_and_stale(claim: Claim) -> None:
    """No reference for 11, one to another block for 12, the partial block 20 left out."""
    del claim.rows[11]
    claim.rows[12] = claim.rows[10]
    del claim.partials[20]


def test_d15_power_lost_at_the_instant_of_agreement_takes_nothing_that_was_agreed_to() -> None:
    """What was asked for whole is on the disk before AGREED is."""

    async def run() -> None:
        folder = Path(tempfile.mkdtemp(prefix="revolume-power-", dir=MEMORY if MEMORY.is_dir() else None))
        real, synced = real_host(), Synced(folder / "m")
        host = Host(real.clock, real.entropy, SyncedDisk(synced), real.work, real.network)  # type: ignore[arg-type]
        made, after = Stage(host, folder / "m"), Stage(real, folder / "cut")
        try:
            await made.begin()

            def cut(point: Point) -> None:
                synced.after_a_power_cut(folder / "cut")
                told.on_agreed = lambda point: None  # type: ignore[method-assign]

            told = Asked(made._whole)
            told.on_agreed = cut  # type: ignore[method-assign]
            made.secondary.attach(told)
            made.script.whole(10, 1, 4)
            made.script.whole(20, 1)
            made.script.part(20, 100, b"in part")
            await made.agreed(left_out_and_stale)
            assert made.asked == [[11, 12, 20]]
            after.script = made.script
            await after.open()
            await after.settle()
            assert (after.secondary.agreed.number, after.asked) == (2, [])
            await after.holds()
            await after.close()
            after.check()
        finally:
            for each in (made, after):
                if hasattr(each, "secondary") and not each.secondary._closing:
                    await abandon_secondary(each.secondary)
            await real.work.close()
            shutil.rmtree(folder)

    asyncio.run(run())


def test_d6_the_transfer_table_of_a_mirror_holds_no_more_than_what_no_point_has_covered() -> None:
    async def scenario(made: Stage) -> None:
        table = made.secondary.log.writer.table
        for number in range(100):
            for at in range(3):
                made.script.whole(10 + (number + at) % 50, number)
            await made.agreed(honest if number % 9 else lambda claim: claim.rows.popitem())
            assert len(table) <= 3, f"after point {number + 2}"
        made.script.whole(10, 7)
        await made.ship()
        assert len(table) <= 4
        await made.crash()
        assert len(made.secondary.log.writer.table) <= 4

    on_stage(scenario)
