"""The point at which a copy was promoted is kept until every member has been seen since, and no longer."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.host import real_host
from revolume.offline.check.check import check
from revolume.volume.members.forks import FORKS_MAX, unseen
from revolume.volume.metadata.fork import Fork, pack_fork
from revolume.volume.metadata.manifest_edits import EditKind, apply, pack_number, state_edits
from revolume.volume.metadata.manifest_state import Member, MirrorMode, MirrorState, State
from revolume.volume.open.open import open_volume
from revolume.volume.space.holder import HolderKind

from .diverged import Diverged
from .driver import BLOCK, abandon, assert_equal
from .mirrored import THERE

pytestmark = pytest.mark.timeout(120)
MEMORY = Path("/dev/shm")
SIZE = 64 * BLOCK
OWN, OTHER, FORMER = b"o" * 16, b"m" * 16, b"f" * 16


# Who has been seen: of the state alone


def state(*mirrors: MirrorState, former: bool = True) -> State:
    members = [Member("own", OWN, "", None, True)]
    members += [Member("old", FORMER, "", None, True)] if former else []
    return State(node=OWN, mirrors=mirrors, members=tuple(members))


def mirror(name: str, node: bytes, joined: bool) -> MirrorState:
    return replace(MirrorState.unjoined(name, MirrorMode.ASYNC), node=node, joined=joined)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (state(), ["old"]),
        (state(mirror("m", OTHER, joined=True)), ["old"]),
        (state(mirror("m", OTHER, joined=False)), ["m", "old"]),
        (state(mirror("m", OTHER, joined=False), former=False), ["m"]),
        (state(mirror("old", FORMER, joined=False)), ["old"]),
        (state(mirror("old", FORMER, joined=True)), []),
        (state(former=False), []),
    ],
    ids=["former", "one-joined", "both", "a-mirror", "former-comes", "former-is-a-mirror", "nobody"],
)
def test_who_has_not_been_seen_since(given: State, names: list[str]) -> None:
    assert unseen(given) == names


def test_forks_there_and_back() -> None:
    first, second = Fork(5, 40, WriteNumber(400)), Fork(9, 70, WriteNumber(700))
    made = apply(apply(State(), EditKind.FORK, pack_fork(first)), EditKind.FORK, pack_fork(second))
    assert made.forks == (first, second) and {400, 700} <= made.pinned_writes()
    again = State()
    for kind, body in state_edits(made):
        again = apply(again, kind, body)
    assert again.forks == made.forks
    assert apply(again, EditKind.DROP_FORK, pack_number(5)).forks == (second,)


# Of a copy that was promoted while the former primary went on alone


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-forks-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


class Promoted(Diverged):
    """``new`` has been promoted at ``common``; the former primary is a member that it has not seen."""

    @property
    def forks(self) -> tuple[Fork, ...]:
        return self.new.manifest.state.forks

    @property
    def held(self) -> list[int]:
        """The writes that are held for forks."""
        found = self.new.holders.all()
        return [each.write for each in found if each.kind is HolderKind.UNDER_WAY and each.name.startswith("fork")]

    async def fold_past(self) -> None:
        """Everything is written twice; what lies before goes into the image."""
        for _ in range(20):
            await self.newer_writes(*range(0, 64, 3))
            await self.new.point_maker.cut()
            await self.new.folder.step(True)
            if self.new.folder.horizon.write > self.common.write:
                return
        raise AssertionError("nothing was folded")

    async def reopen_new(self, crashed: bool = True) -> None:
        await (abandon(self.new) if crashed else self.new.close())
        self.new = await open_volume(self.host, str(self.there), THERE)

    async def reads_fork(self) -> None:
        assert_equal(await self.seen(self.new, self.common.write), self.at(self.common.write), "the fork")

    async def seen_all(self) -> None:
        """The former primary comes back as a mirror, and joins; so does every other one."""
        former = next(m for m in self.new.manifest.state.members if m.mode is None and m.node != self.node)
        known = [each.name for each in self.new.mirrors]
        made = await self.new.mirrors.register("former", MirrorMode.ASYNC)
        await self.join(made.name, former.node)
        for name in known:
            await self.join(name, name.encode().ljust(16, b"-"))

    async def join(self, name: str, node: bytes) -> None:
        mirrors = self.new.mirrors
        await mirrors.pin_base(mirrors.get(name))
        await mirrors.based(mirrors.get(name))
        await mirrors.joined(mirrors.get(name), node)

    @property
    def node(self) -> bytes:
        return self.new.manifest.state.node

    async def let_go(self) -> None:
        await self.new.tasks.settled()
        for _ in range(6000):
            if not self.forks:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"it is kept on: {self.forks}, {unseen(self.new.manifest.state)}")


def play(place: Path, scenario: Callable[[Promoted], Awaitable[None]]) -> None:
    async def run() -> None:
        driver = Promoted(real_host(), place / "v", SIZE)
        await driver.stand()
        await driver.volume.tasks.settled()
        await driver.part()
        await abandon(driver.volume)
        await scenario(driver)
        await driver.new.close()
        report = check(driver.host, str(driver.there))
        assert not report.problems, report.problems
        await driver.host.work.close()

    asyncio.run(run())


def test_it_is_pinned_while_a_member_is_unseen(place: Path) -> None:
    async def scenario(driver: Promoted) -> None:
        (fork,) = driver.forks
        assert (fork.point, fork.write) == (driver.common.number, driver.common.write)
        assert fork.opening == driver.new.epoch and driver.held == [fork.write]
        await driver.fold_past()
        await driver.reads_fork()
        assert driver.forks == (fork,) and driver.held == [fork.write]

    play(place, scenario)


def test_kills_and_folds_leave_its_bytes(place: Path) -> None:
    async def scenario(driver: Promoted) -> None:
        await driver.reopen_new()
        await driver.reads_fork()
        for crashed in (True, True, False):
            await driver.fold_past()
            await driver.reads_fork()
            await driver.reopen_new(crashed)
            assert driver.held == [driver.common.write]
            await driver.reads_fork()

    play(place, scenario)


def test_it_goes_once_all_have_joined(place: Path) -> None:
    async def scenario(driver: Promoted) -> None:
        await driver.fold_past()
        await driver.seen_all()
        await driver.let_go()
        assert driver.held == []
        await driver.reopen_new()
        assert driver.forks == () and driver.held == []

    play(place, scenario)


def test_it_goes_once_the_former_primary_is_given_up(place: Path) -> None:
    async def scenario(driver: Promoted) -> None:
        for known in [each.name for each in driver.new.mirrors]:
            await driver.new.mirrors.detach(known)
        await driver.new.tasks.settled()
        assert len(driver.forks) == 1
        (former,) = unseen(driver.new.manifest.state)
        await driver.new.membership.forget(former)
        await driver.let_go()
        assert driver.held == []

    play(place, scenario)


def test_of_more_than_four_the_oldest_goes(place: Path) -> None:
    async def scenario(driver: Promoted) -> None:
        (first,) = driver.forks
        await driver.newer_writes(1)
        point = await driver.new.point_maker.cut()
        assert point is not None
        for number in range(FORKS_MAX):
            fork = Fork(first.opening + 100 + number, point.number, point.write)
            await driver.new.manifest.record((EditKind.FORK, pack_fork(fork)))
        await driver.reopen_new()
        await driver.new.membership.stated()
        await driver.new.tasks.settled()
        assert [fork.opening for fork in driver.forks] == [first.opening + 100 + n for n in range(FORKS_MAX)]
        assert first.write not in driver.held and len(driver.held) == FORKS_MAX

    play(place, scenario)
