"""A difference from a source that says what it should not, against a real copy: the connection is closed with one
sentence, the copy is what it was, and an honest difference brings it on afterwards. And a source whose target lies
about what it has stored of one."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from revolume.blocks.digest import digest_array
from revolume.chain.point import Point
from revolume.host import real_host
from revolume.host.network import Wire
from revolume.mirror.base_plan import BasePlan
from revolume.mirror.catch_up_plan import Rule
from revolume.mirror.source.gathered_facts import base_start, greeting
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.target.copy_directory import RealCopyDirectory
from revolume.mirror.target.target import Target
from revolume.mirror.wire.begin_messages import BaseNeed, Begin, Common, Costs, pack_begin, unpack_begin
from revolume.mirror.wire.block_messages import pack_base
from revolume.mirror.wire.codec import Identity, Pin
from revolume.mirror.wire.frames import Type, control
from revolume.mirror.wire.greeting_messages import (
    TargetState,
    Welcome,
    pack_hello,
    pack_welcome,
    unpack_hello,
    unpack_welcome,
)
from revolume.mirror.wire.session_messages import NUMBER, pack_base_end, pack_positions, unpack_refusal
from revolume.offline.check.check import check
from revolume.volume.members.positions import Positions
from revolume.volume.metadata.resync_order import Prefer, ResyncOrder
from tests.mirror.harness import Raw, until
from tests.volume.driver import BLOCK, abandon
from tests.volume.jumping import Jumper
from tests.volume.mirrored import THERE
from tests.volume.store import payload

pytestmark = pytest.mark.timeout(60)
MEMORY = Path("/dev/shm")
BLOCKS = 64
CHANGED = (3, 7, 20, 40)
NODE = b"n" * 16


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="revolume-lies-", dir=MEMORY))
    yield made
    shutil.rmtree(made)


class Liar(Raw):
    """One end of a link, for which a test speaks."""

    session = 0

    def say(self, kind: int, body: bytes, payload: bytes = b"") -> None:
        self.send(control(kind, self.session, body, payload=len(payload)) + payload)

    def piece(self, blocks: list[int], contents: list[bytes], next_block: int, sent: bytes | None = None) -> None:
        """A BASE frame; ``sent`` in place of the content that its digests are of."""
        content = b"".join(each for each in contents if any(each))
        found = iter(digest_array(memoryview(content), len(content) // BLOCK).tolist())
        digests = [next(found) if any(each) else 0 for each in contents]
        body = pack_base(np.array(blocks, np.uint64), np.array(digests, np.uint64), next_block)
        self.say(Type.BASE, body, content if sent is None else sent)

    def end(self, point: int) -> None:
        self.say(Type.BASE_END, pack_base_end(point, 0))


class Lied(Jumper):
    """A copy with a target's server before it. The volume has gone on to ``point``; CHANGED says where."""

    point: Point
    target: Target
    told: list[str]
    shelf: RealCopyDirectory

    async def go_on(self) -> None:
        await self.write(*CHANGED)
        self.point = await self.cut()

    async def listen(self) -> None:
        self.told = []
        self.shelf = RealCopyDirectory(self.host, str(self.there), THERE, self.secondary)
        self.server = Target(self.host, self.shelf, None, self.told.append)
        (self.address,) = await self.server.listen(f"unix:{self.path.parent}/link")

    async def connect(self) -> tuple[Liar, Welcome]:
        peer = Liar(await self.host.network.connect(self.address))
        origin, mirror = VolumeSource(self.volume), self.volume.mirrors.get("m")
        hello = replace(
            greeting(origin, mirror, NODE, ResyncOrder(Prefer.BYTES)), joined=False, expected=bytes(16)
        )
        peer.send(control(Type.HELLO, 0, pack_hello(hello)))
        kind, peer.session, body = await peer.frame()
        assert kind == Type.WELCOME, unpack_refusal(body)
        return peer, unpack_welcome(body)

    async def begin_lie(self, **changes: object) -> Liar:
        """BEGIN of a difference to ``point``, from where the copy stands; ``changes`` of what is said of it."""
        peer, welcome = await self.connect()
        agreed, origin, point = self.copy.agreed, VolumeSource(self.volume), self.point
        plan = BasePlan(point, (), self.volume.feed.end, BaseNeed(0, 0), 0)
        start = replace(await base_start(origin, plan), **changes)  # type: ignore[arg-type]
        found = await self.volume.feed.identity_at(welcome.end.position)
        common = Common(Pin(agreed.number, agreed.position, agreed.chain), 0, Costs(1 << 30, BLOCK))  # type: ignore[arg-type]
        pin = Pin(point.number, point.position, point.chain)
        begin = Begin(Rule.DIFFERENCE, Identity(*found) if found else None, pin, start, None, common)
        peer.say(Type.BEGIN, pack_begin(begin, 5))
        return peer

    async def begun(self, **changes: object) -> Liar:
        peer = await self.begin_lie(**changes)
        await until(lambda: self.copy.jump is not None or peer.ended.is_set())
        assert not peer.ended.is_set(), self.told
        return peer

    def content(self, block: int) -> bytes:
        return self.model.moments[self.point.write][1][block]


def against_target(place: Path, sentence: str, lie: Callable[[Lied, Liar], None], **changes: object) -> None:
    async def scenario(driver: Lied) -> None:
        peer = await driver.begun(**changes)
        lie(driver, peer)
        await closed(driver, peer, sentence)

    play(place, scenario)


async def closed(driver: Lied, peer: Liar, sentence: str) -> None:
    await peer.ended.wait()
    await until(lambda: driver.server.current is None)
    assert any(sentence in each for each in driver.told), driver.told
    assert sum("is gone" in each or "is refused" in each for each in driver.told) == 1, driver.told


def play(place: Path, scenario: Callable[[Lied], Awaitable[None]]) -> None:
    """Afterwards the copy stands where it stood, by number and by bytes; it goes on by an honest difference."""

    async def run() -> None:
        driver = Lied(real_host(), place / "v", BLOCKS * BLOCK)
        await driver.stand()
        before = driver.copy.agreed
        await driver.go_on()
        await driver.listen()
        async with asyncio.timeout(60):
            await scenario(driver)
        await driver.server.stop()
        driver.secondary = driver.shelf.secondary  # type: ignore[assignment]
        driver._set_up()
        await driver.check_at(before)
        await driver.jump(driver.point)
        await driver.check_at(driver.point)
        await driver.copy.close()
        report = check(driver.host, str(driver.there))
        assert not report.problems, report.problems
        await abandon(driver.volume)
        await driver.host.work.close()

    asyncio.run(run())


def honest(driver: Lied, peer: Liar, upto: int = BLOCKS) -> None:
    """What has changed below ``upto``."""
    for block in CHANGED:
        if block < upto:
            peer.piece([block], [driver.content(block)], block + 1)


def test_rows_out_of_order(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.piece([7, 3], [driver.content(7), driver.content(3)], 8)

    against_target(place, "out of order", lie)


def test_a_row_behind_the_block_that_is_next(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.piece([7], [driver.content(7)], 7)

    against_target(place, "out of order", lie)


@pytest.mark.parametrize("next_block", [4, 8], ids=["back", "again"])
def test_the_next_block_goes_back(next_block: int, place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.piece([3, 7], [driver.content(3), driver.content(7)], 8)
        peer.piece([], [], next_block)

    against_target(place, "sent before", lie)


def test_a_row_of_what_was_sent_before(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.piece([3], [driver.content(3)], 8)
        peer.piece([7], [driver.content(7)], 9)

    against_target(place, "sent before", lie)


def test_blocks_beyond_the_end_of_the_volume(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.piece([BLOCKS], [payload(1, BLOCK)], BLOCKS + 1)

    against_target(place, "it goes back, or beyond the end of the volume", lie)


def test_content_of_another_digest(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.piece([3], [driver.content(3)], 4, sent=payload(9, BLOCK))

    against_target(place, "digest", lie)


@pytest.mark.parametrize("sent", [b"", bytes(2 * BLOCK)], ids=["none", "more"])
def test_content_that_does_not_add_up(sent: bytes, place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.piece([3], [driver.content(3)], 4, sent=sent)

    against_target(place, "do not add up", lie)


@pytest.mark.parametrize("upto", [0, 20, BLOCKS], ids=["nothing", "half", "all-but-the-end"])
def test_an_end_that_comes_too_early(upto: int, place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        honest(driver, peer, upto)
        peer.end(driver.point.number)

    against_target(place, "it ends before the volume does", lie)


def test_the_end_of_another_difference(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        honest(driver, peer)
        peer.end(driver.point.number + 1)

    against_target(place, "The end of another base", lie)


def test_more_behind_the_end(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.end(driver.point.number)
        honest(driver, peer, 4)

    against_target(place, "sent before", lie)


def test_a_block_left_out(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        honest(driver, peer, CHANGED[-1])
        peer.piece([], [], BLOCKS)
        peer.end(driver.point.number)

    against_target(place, "summed up, it is not the source's", lie)


def test_a_block_of_other_content_with_its_digest(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        honest(driver, peer, CHANGED[-1])
        peer.piece([CHANGED[-1]], [payload(99, BLOCK)], BLOCKS)
        peer.end(driver.point.number)

    against_target(place, "summed up, it is not the source's", lie)


def test_a_root_that_is_not_that_of_what_comes(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        honest(driver, peer)
        peer.piece([], [], BLOCKS)
        peer.end(driver.point.number)

    against_target(place, "summed up, it is not the source's", lie, root=(1, 2))


def test_the_log_in_the_middle_of_it(place: Path) -> None:
    def lie(driver: Lied, peer: Liar) -> None:
        peer.say(Type.SYNC, NUMBER.pack(1))

    against_target(place, "SYNC came where none is expected", lie)


def test_a_point_at_which_the_copy_does_not_stand(place: Path) -> None:
    """The rule is found from the same facts at both ends: nothing begins."""

    async def scenario(driver: Lied) -> None:
        peer, welcome = await driver.connect()
        start = await base_start(
            VolumeSource(driver.volume), BasePlan(driver.point, (), driver.volume.feed.end, BaseNeed(0, 0), 0)
        )
        found = await driver.volume.feed.identity_at(welcome.end.position)
        assert found is not None
        agreed = driver.copy.agreed
        common = Common(Pin(agreed.number, agreed.position, b"x" * 16), 0, Costs(1 << 30, BLOCK))  # type: ignore[arg-type]
        begin = Begin(Rule.DIFFERENCE, Identity(*found), None, start, None, common)
        peer.say(Type.BEGIN, pack_begin(begin, 5))
        await closed(driver, peer, "decided by rule")

    play(place, scenario)


def test_a_difference_begun_at_a_copy_whose_base_is_not_complete(place: Path) -> None:
    async def run() -> None:
        driver = Lied(real_host(), place / "v", BLOCKS * BLOCK)
        await driver.open()
        await driver.write(*CHANGED)
        await driver.cut()
        await driver.begin()
        await driver.go_on()
        await driver.listen()
        peer = await driver.begin_lie()
        await closed(driver, peer, "decided by rule")
        await driver.server.stop()
        assert driver.copy.jump is None and driver.copy.base is not None
        await driver.send_base()
        await driver.catch_up()
        await driver.check_at(driver.point)
        await driver.copy.close()
        await abandon(driver.volume)
        await driver.host.work.close()

    asyncio.run(run())


# A target that lies about what it has stored


class Trap:
    """A target for which a test speaks: it says of itself what the real copy would."""

    def __init__(self, driver: Lied) -> None:
        self.driver = driver
        self.told: list[str] = []
        self.peers: asyncio.Queue[Liar] = asyncio.Queue()

    async def listen(self) -> None:
        driver = self.driver
        address = f"unix:{driver.path.parent}/trap"
        self.listener = await driver.host.network.listen(address, self._accept)
        mirror = driver.volume.mirrors.get("m")
        origin = VolumeSource(driver.volume)
        self.source = MirrorSource(driver.host, origin, mirror, address, NODE, None, self.told.append)
        await driver.volume.mirrors.ordered(mirror, ResyncOrder(Prefer.BYTES))
        self.source.start()

    def _accept(self, wire: Wire) -> None:
        self.peers.put_nowait(Liar(wire))

    async def begun(self) -> Liar:
        """A source that has begun to send a difference."""
        peer, there = await self.peers.get(), self.driver.copy
        kind, _, body = await peer.frame()
        assert kind == Type.HELLO
        hello, agreed = unpack_hello(body), there.agreed
        stands = Pin(agreed.number, agreed.position, agreed.chain)
        welcome = Welcome(
            TargetState.WHOLE, hello.segment_blocks, 0, bytes(16), hello.expected, hello.volume, there.end,
            there.durable, agreed.number, agreed.position, agreed.root, None, None, 0, points=(stands,),
        )  # fmt: skip
        peer.session = 77
        peer.say(Type.WELCOME, pack_welcome(welcome))
        kind, _, body = await peer.frame()
        assert kind == Type.BEGIN, unpack_refusal(body)
        assert unpack_begin(body, 5).rule == Rule.DIFFERENCE
        return peer

    async def stop(self) -> None:
        await self.source.stop()
        self.listener.close()


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        (Type.BASE_AT, NUMBER.pack(1 << 40), "that were not sent"),
        (Type.BASE_DONE, NUMBER.pack(99), "which it cannot be"),
        (Type.POSITIONS, pack_positions(Positions(1, 1, 1, 1)), "POSITIONS came where none is expected"),
        (Type.REQUEST_BLOCKS, bytes(24), "REQUEST_BLOCKS came where none is expected"),
    ],
    ids=["stored-what-was-not-sent", "done-with-another", "positions", "asks-for-blocks"],
)
def test_a_target_that_lies(kind: Type, body: bytes, sentence: str, place: Path) -> None:
    async def scenario(driver: Lied) -> None:
        await driver.copy.make_durable(driver.copy.received)
        await driver.acknowledge()
        trap = Trap(driver)
        await trap.listen()
        peer = await trap.begun()
        peer.say(kind, body)
        await peer.ended.wait()
        await until(lambda: bool(trap.told))
        assert any(sentence in each for each in trap.told), trap.told
        assert driver.volume.mirrors.get("m").agreed_point <= driver.copy.agreed.number
        await trap.stop()

    play(place, scenario)
