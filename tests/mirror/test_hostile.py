"""Each end alone, with a peer that says what it should not: one sentence in the event log, the connection closed,
nothing of it stored, and the next one is served."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from revolume.host.network import Wire
from revolume.mirror import link as link_module
from revolume.mirror.catch_up_plan import Rule
from revolume.mirror.mirror_status import MirrorState
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.mirror.target import target_session
from revolume.mirror.target.link_listener import STRANGERS_MAX
from revolume.mirror.wire.begin_messages import BaseStart, Begin, EpochEntry, pack_begin, unpack_begin
from revolume.mirror.wire.block_messages import BASE_FRAMES_AHEAD as FRAMES_AHEAD
from revolume.mirror.wire.block_messages import BlockRows, pack_base, pack_block_request, pack_blocks
from revolume.mirror.wire.codec import NOWHERE, Identity
from revolume.mirror.wire.frames import FRAME, Type, control
from revolume.mirror.wire.greeting_messages import (
    Hello,
    TargetState,
    Welcome,
    pack_hello,
    pack_welcome,
    unpack_hello,
    unpack_welcome,
)
from revolume.mirror.wire.log_frame import pack_log
from revolume.mirror.wire.moment_messages import MOMENT_FRAMES_AHEAD, PinnedMoment, pack_moment
from revolume.mirror.wire.session_messages import EPOCH, NUMBER, pack_positions, unpack_refusal
from revolume.volume.members.positions import Positions
from tests.mirror.harness import NODE, OTHER_NODE, TARGET_NODE, Raw, World, run, until, world
from tests.mirror.storage import REIGN, VOLUME, Kept, MirrorRecord

pytestmark = pytest.mark.timeout(60)
BLOCK = 4096
MIB = 1 << 20


class Scripted(Raw):
    """A source that a test speaks for."""

    session = 0

    async def greet(self, w: World, **changes: object) -> Welcome:
        end = w.log.last
        hello = Hello(1, 1024, 1024, VOLUME, NODE, REIGN, 1, w.origin.size, 0, end, "vol", "m1")
        self.send(control(Type.HELLO, 0, pack_hello(dataclasses.replace(hello, **changes))))
        kind, self.session, body = await self.frame()
        assert kind == Type.WELCOME, unpack_refusal(body)
        return unpack_welcome(body)

    async def begin(self, w: World, **changes: object) -> None:
        """The log goes on behind what the target has."""
        welcome = await self.greet(w, **changes)
        found = await w.log.identity_at(welcome.end.position)
        assert found is not None
        rule = Rule.NOTHING if welcome.end.position == w.log.end else Rule.LOG
        self.say(Type.BEGIN, pack_begin(Begin(rule, Identity(*found), None, None)))
        assert (await self.frame())[0] == Type.POSITIONS

    async def begin_base(self, w: World) -> None:
        await self.greet(w)
        end = dataclasses.replace(w.log.last, epoch=1, reign=REIGN)
        start = BaseStart(end, 7, 0, 0, w.origin.size, (0, 0), ())
        self.say(Type.BEGIN, pack_begin(Begin(Rule.BASE, None, None, start)))
        assert (await self.frame())[0] == Type.POSITIONS

    def say(self, kind: int, body: bytes, payload: bytes = b"") -> None:
        self.send(control(kind, self.session, body, payload=len(payload)) + payload)

    def ship(self, kept: Kept) -> None:
        epoch = control(Type.EPOCH, self.session, EPOCH.pack(kept.end.epoch, kept.end.reign))
        log = pack_log(self.session, kept.shared_header, len(kept.payload)) + kept.payload
        self.send(log if kept.end.position > 1 else epoch + log)


async def connect(w: World) -> Scripted:
    peer = await Scripted.connect(w)
    assert isinstance(peer, Scripted)
    return peer


async def broken_off(w: World, peer: Raw, sentence: str) -> None:
    """One sentence; the connection is gone."""
    await peer.ended.wait()
    await until(lambda: any(sentence in text for text in w.target_told))
    assert sum("is gone" in text or "is refused" in text for text in w.target_told) == 1
    assert w.target.current is None


async def still_serves(w: World) -> None:
    """Nothing is lost, nothing is stuck: the true source comes, and its log arrives."""
    w.log.write(0, os.urandom(BLOCK))
    w.source.start()
    await w.arrived()
    assert w.same()


def against_target(scenario: Callable[[World, Scripted], object], folder: Path, *, empty: bool = False) -> None:
    async def whole() -> None:
        async with world(folder, empty=empty) as w:
            peer = await connect(w)
            await scenario(w, peer)  # type: ignore[misc]
            w.target_told.clear()
            await still_serves(w)
            peer.wire.abort()

    run(whole)


class TestGreeting:
    @pytest.mark.parametrize(
        ("noise", "sentence"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", "where none is expected"),
            (bytes(100), "where none is expected"),
            (b"\xff" * 5000, "where none is expected"),
            (FRAME.pack(6145, Type.HELLO, 0, 0, 0), "6145 bytes; 6144 are allowed"),
            (FRAME.pack(0xFFFFFFFF, Type.HELLO, 0, 0, 0), "are allowed"),
            (FRAME.pack(8, Type.HELLO, 0, 0, 5) + bytes(8), "of another session"),
            (FRAME.pack(8, Type.HELLO, 0, 1, 0) + bytes(8), "not clean"),
            (FRAME.pack(8, Type.HELLO, 0, 0, 0) + bytes(8), "checksum does not hold"),
            (FRAME.pack(0, Type.HELLO, 0, 0, 0), "shorter than what it says"),
            (control(Type.HELLO, 0, b""), "not what its type says"),
            (control(Type.HELLO, 0, b"\2\0\1\2" + bytes(300)), "not what its type says"),
            (control(Type.FETCH, 0, b"\1\0" + bytes(102)), "one speaks versions 2 to 8, the other version 1."),
            (FRAME.pack(100, Type.LOG, 0, 0, 0), "LOG came where none is expected"),
            (control(Type.BEGIN, 0, bytes(96)), "BEGIN came where none is expected"),
            (control(Type.POSITIONS, 0, bytes(32)), "POSITIONS came where none is expected"),
            (FRAME.pack(8, Type.PING, 0, 0, 0) + bytes(8), "checksum does not hold"),
        ],
    )
    def test_noise(self, noise: bytes, sentence: str, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            peer.send(noise)
            await broken_off(w, peer, sentence)

        against_target(scenario, folder)

    def test_a_version_that_nobody_here_speaks_is_refused_in_words_to_both(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            hello = bytearray(pack_hello(Hello(1, 9, 9, VOLUME, NODE, REIGN, 1, 1, 0, w.log.last, "vol", "m1")))
            struct.pack_into("<HBB", hello, 0, 11, 1, 9)
            peer.send(control(Type.HELLO, 0, bytes(hello)))
            kind, _, body = await peer.frame()
            assert kind == Type.REFUSED
            assert unpack_refusal(body).code == "link-version"
            await broken_off(w, peer, "one speaks versions 2 to 8, the other versions 9 to 11.")

        against_target(scenario, folder)

    def test_an_opening_that_a_source_only_claims_is_not_remembered(self, folder: Path) -> None:
        """Otherwise whoever can connect locks the true source out for good."""

        async def scenario(w: World, peer: Scripted) -> None:
            await peer.begin(w, epoch=2**64 - 1, reign=b"x" * 16)
            assert w.target.state == "mirroring"
            peer.wire.abort()
            await peer.ended.wait()
            await until(lambda: w.target.current is None)

        against_target(scenario, folder)

    @pytest.mark.parametrize("seed", range(20))
    def test_random_noise(self, seed: int, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            chance = random.Random(seed)
            good = control(Type.HELLO, 0, chance.randbytes(chance.randrange(300)))
            bent = bytearray(good)
            bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
            peer.send(bytes(bent) + chance.randbytes(6000))
            await broken_off(w, peer, "is gone")

        against_target(scenario, folder)

    def test_one_that_says_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(target_session, "GREETING_SECONDS", 0.1)

        async def scenario(w: World, peer: Scripted) -> None:
            peer.send(control(Type.PING, 0))
            await broken_off(w, peer, "said nothing for")

        against_target(scenario, folder)

    def test_half_a_greeting(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            peer.send(FRAME.pack(300, Type.HELLO, 0, 0, 0) + bytes(100))
            await asyncio.sleep(0.02)
            peer.wire.abort()
            await until(lambda: any("is gone" in text for text in w.target_told))

        against_target(scenario, folder)

    def test_a_crowd_that_says_nothing(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            crowd = [await connect(w) for _ in range(STRANGERS_MAX + 5)]
            await until(lambda: all(one.ended.is_set() for one in (peer, *crowd[:5])))  # the oldest
            assert not any(one.ended.is_set() for one in crowd[5:])
            for one in crowd:
                one.wire.abort()
            peer.wire.abort()
            await until(lambda: not w.target._listener._sessions)

        against_target(scenario, folder)


class TestAdmission:
    async def refused(self, w: World, code: str, **changes: object) -> None:
        peer = await connect(w)
        with pytest.raises(AssertionError, match=code):
            await peer.greet(w, **changes)
        await peer.ended.wait()

    def test_who_is_not_let_in(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            w.log.epoch = 5
            position = w.log.write(0, bytes(BLOCK))
            await peer.begin(w, epoch=5, oldest=0)
            peer.send(control(Type.EPOCH, peer.session, EPOCH.pack(5, REIGN)))
            kept = w.log.kept[0]
            peer.send(pack_log(peer.session, kept.shared_header, BLOCK) + kept.payload)
            await until(lambda: w.secondary.received == position)
            await self.refused(w, "second-source", node=OTHER_NODE, epoch=9)
            await self.refused(w, "second-source", volume=b"v" * 16)
            await self.refused(w, "stale-epoch", epoch=4)
            await self.refused(w, "rival-epoch", epoch=5, reign=b"x" * 16)
            await self.refused(w, "segments-too-small", epoch=5, largest_blocks=1025)
            assert not peer.ended.is_set()  # none of them was worth a fence
            peer.wire.abort()
            await until(lambda: w.target.current is None)
            await self.refused(w, "other-volume", volume=b"v" * 16)
            await self.refused(w, "stale-epoch", epoch=4, node=OTHER_NODE)

        against_target(scenario, folder)

    def test_the_same_source_replaces_its_old_session_after_what_that_had_sent(self, folder: Path) -> None:
        async def scenario(w: World, old: Scripted) -> None:
            first, second = w.log.write(0, os.urandom(BLOCK)), w.log.write(0, os.urandom(BLOCK))
            await old.begin(w)
            new = await connect(w)
            old.ship(w.log.kept[0])
            welcome = await new.greet(w)
            assert welcome.end.position == first
            assert new.session != old.session
            await old.ended.wait()
            old.ship(w.log.kept[1])
            await asyncio.sleep(0.02)
            assert w.secondary.received == first < second
            assert sum("replaced by a newer session" in text for text in w.target_told) == 1
            new.wire.abort()
            await until(lambda: w.target.current is None)

        against_target(scenario, folder)

    def test_what_lies_in_the_kernel_is_taken_before_the_fence(self, folder: Path) -> None:
        async def scenario(w: World, old: Scripted) -> None:
            first = w.log.write(0, os.urandom(BLOCK))
            await old.begin(w)
            old.ship(w.log.kept[0])
            await w.target._fence()  # no turn of the loop in between
            assert w.secondary.received == first
            await old.ended.wait()

        against_target(scenario, folder)

    def test_a_peer_that_is_not_encrypted_is_not_listened_to(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder, "tcp-tls") as w:
                peer = await connect(w)
                peer.send(control(Type.HELLO, 0, bytes(300)))
                await peer.ended.wait()
                assert any("could not be secured" in text for text in w.target_told)
                await still_serves(w)

        run(scenario)


class TestDeciding:
    def test_a_decision_that_the_target_does_not_share(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            w.log.write(0, bytes(BLOCK))
            await peer.greet(w)
            found = Identity(0, bytes(16), bytes(16))
            peer.say(Type.BEGIN, pack_begin(Begin(Rule.NOTHING, found, None, None)))
            kind, _, body = await peer.frame()
            assert kind == Type.REFUSED
            assert unpack_refusal(body).code == "mirror-disagreement"
            await broken_off(w, peer, "decided by rule")

        against_target(scenario, folder)

    @pytest.mark.parametrize("rule", [0, 3, 4, 16, 22, 999])
    def test_a_whole_copy_is_never_begun_anew(self, rule: int, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            w.log.write(0, bytes(BLOCK))
            await peer.greet(w)
            start = BaseStart(w.log.last, 7, 0, 0, MIB, (0, 0), ())
            peer.say(Type.BEGIN, pack_begin(Begin(rule, Identity(0, bytes(16), bytes(16)), None, start)))
            await broken_off(w, peer, "decided by rule")
            assert w.shelf.created == []

        against_target(scenario, folder)

    def test_the_log_before_the_decision(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            w.log.write(0, bytes(BLOCK))
            await peer.greet(w)
            peer.ship(w.log.kept[0])
            await broken_off(w, peer, "EPOCH came where none is expected")
            assert w.secondary.received == 0

        against_target(scenario, folder)


class TestMirroring:
    def spoilt(self, folder: Path, sentence: str, say: Callable[[World, Scripted], None]) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            for at in range(3):
                w.log.write(at * BLOCK, os.urandom(BLOCK))
            await peer.begin(w)
            peer.ship(w.log.kept[0])
            await until(lambda: w.secondary.received == 1)
            say(w, peer)
            await broken_off(w, peer, sentence)
            assert w.secondary.received == 1

        against_target(scenario, folder)

    def test_another_sessions_frames(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            peer.session ^= 1
            peer.ship(w.log.kept[1])

        self.spoilt(folder, "of another session", say)

    def test_the_same_again(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            kept = w.log.kept[0]
            peer.send(pack_log(peer.session, kept.shared_header, BLOCK) + kept.payload)

        self.spoilt(folder, "not of the log", say)

    def test_one_left_out(self, folder: Path) -> None:
        self.spoilt(folder, "not of the log", lambda w, peer: peer.ship(w.log.kept[2]))

    def test_a_payload_that_is_not_what_was_written(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            peer.ship(dataclasses.replace(w.log.kept[1], payload=os.urandom(BLOCK)))

        self.spoilt(folder, "not what was written", say)

    def test_counts_that_lie(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            kept = w.log.kept[1]
            frame = bytearray(pack_log(peer.session, kept.shared_header, BLOCK) + kept.payload)
            struct.pack_into("<I", frame, 16 + 8, 1000)  # blocks
            peer.send(bytes(frame))

        self.spoilt(folder, "do not add up", say)

    def test_a_transfer_larger_than_agreed_costs_no_memory(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            assert w.target.current is not None
            inbox = w.target.current.link._inbox
            peer.send(FRAME.pack(1024 * BLOCK + 1, Type.LOG, 0, 0, peer.session) + bytes(100))
            assert inbox.size <= 4 * MIB

        self.spoilt(folder, "are allowed", say)

    def test_an_older_epoch(self, folder: Path) -> None:
        self.spoilt(folder, "cannot follow", lambda w, peer: peer.say(Type.EPOCH, EPOCH.pack(1, b"z" * 16)))

    def test_a_base_where_none_is_wanted(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            none = np.zeros(0, np.uint64)
            peer.say(Type.BASE, pack_base(none, none, 5))

        self.spoilt(folder, "BASE came where none is expected", say)

    def test_whole_blocks_that_nobody_asked_for(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            none = np.zeros(0, np.uint64)
            peer.say(Type.BLOCKS, pack_blocks(5, none, none))

        self.spoilt(folder, "nobody asked for", say)

    @pytest.mark.parametrize(("point", "blocks"), [(7, [1, 3]), (7, [1]), (8, [1, 2])])
    def test_other_whole_blocks_than_those_asked_for(self, point: int, blocks: list[int], folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            w.log.write(0, os.urandom(BLOCK))
            await peer.begin(w)
            asked = await w.origin.pin_base(MirrorRecord())
            asking = asyncio.ensure_future(w.secondary.source.fetch_blocks(asked, [1, 2]))
            assert (await peer.frame())[0] == Type.REQUEST_BLOCKS
            zeroes = np.zeros(len(blocks), np.uint64)
            peer.say(Type.BLOCKS, pack_blocks(point, np.array(blocks, np.uint64), zeroes))
            await broken_off(w, peer, "hole blocks")
            with pytest.raises(ConnectionError):
                await asking

        against_target(scenario, folder)

    def test_a_position_far_beyond_is_made_durable_when_it_comes(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            w.log.write(0, os.urandom(BLOCK))
            await peer.begin(w)
            peer.say(Type.SYNC, NUMBER.pack(2**64 - 1))
            await asyncio.sleep(0.02)
            assert w.secondary.syncs == []
            peer.ship(w.log.kept[0])
            await until(lambda: w.secondary.durable == 1)
            peer.wire.abort()
            await until(lambda: w.target.current is None)

        against_target(scenario, folder)

    def test_a_source_that_goes_silent(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(link_module, "TICK_SECONDS", 0.01)

        async def scenario(w: World, peer: Scripted) -> None:
            await peer.begin(w)
            await broken_off(w, peer, "Nothing was heard for 10 seconds")
            monkeypatch.setattr(link_module, "TICK_SECONDS", 1.0)

        against_target(scenario, folder)

    def test_a_source_that_never_reads(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(link_module, "TICK_SECONDS", 0.01)

        async def scenario(w: World, peer: Scripted) -> None:
            await peer.begin(w)
            peer.wire.pause()
            assert w.target.current is not None
            link = w.target.current.link
            while link.open:
                for _ in range(200):
                    link.send_control(Type.POSITIONS, bytes(32) * 100)
                peer.say(Type.PING, b"")
                await asyncio.sleep(0.005)
            peer.wire.resume()
            await until(lambda: any("takes nothing" in text for text in w.target_told))
            monkeypatch.setattr(link_module, "TICK_SECONDS", 1.0)

        against_target(scenario, folder)


class TestBase:
    @pytest.mark.parametrize(
        "named", [[(1 << 40, REIGN)], [(1, b"o" * 16)], [(0, REIGN)], [(1, REIGN), (1, REIGN)]],
        ids=["newer", "rival", "none", "twice"],
    )  # fmt: skip
    def test_openings_that_it_can_not_know(self, named: list[tuple[int, bytes]], folder: Path) -> None:
        """They would keep the true source away for ever, and be what a promotion goes on above."""

        async def scenario(w: World, peer: Scripted) -> None:
            await peer.greet(w)
            end = dataclasses.replace(w.log.last, epoch=1, reign=REIGN)
            openings = tuple(EpochEntry(number, reign, 0, 0) for number, reign in named)
            start = BaseStart(end, 7, 0, 0, w.origin.size, (0, 0), openings)
            peer.say(Type.BEGIN, pack_begin(Begin(Rule.BASE, None, None, start)))
            await broken_off(w, peer, "names openings that are newer than its own")

        against_target(scenario, folder, empty=True)

    def test_an_opening_without_number_behind_it(self, folder: Path) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            await peer.greet(w, epoch=(1 << 64) - 1)
            end = dataclasses.replace(w.log.last, epoch=1, reign=REIGN)
            start = BaseStart(end, 7, 0, 0, w.origin.size, (0, 0), ())
            peer.say(Type.BEGIN, pack_begin(Begin(Rule.BASE, None, None, start)))
            await broken_off(w, peer, "names openings that are newer than its own")

        against_target(scenario, folder, empty=True)

    def spoilt(self, folder: Path, sentence: str, say: Callable[[World, Scripted], None]) -> None:
        async def scenario(w: World, peer: Scripted) -> None:
            await peer.begin_base(w)
            say(w, peer)
            await broken_off(w, peer, sentence)

        against_target(scenario, folder, empty=True)

    def piece(self, peer: Scripted, blocks: list[int], next_block: int, payload: bytes | None = None) -> None:
        from revolume.blocks.digest import block_digests

        content = b"c" * BLOCK * len(blocks)
        digests = np.array(block_digests(memoryview(content), len(blocks)), np.uint64)
        body = pack_base(np.array(blocks, np.uint64), digests, next_block)
        peer.say(Type.BASE, body, content if payload is None else payload)

    def test_blocks_that_are_not_what_they_should_be(self, folder: Path) -> None:
        self.spoilt(folder, "not what its digest", lambda w, peer: self.piece(peer, [1], 5, os.urandom(BLOCK)))

    def test_blocks_that_go_back(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            self.piece(peer, [1], 5)
            self.piece(peer, [2], 6)

        self.spoilt(folder, "sent before", say)

    def test_a_base_that_runs_ahead(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            w.secondary.slow = 5.0
            for at in range(FRAMES_AHEAD + 1):
                self.piece(peer, [at], at + 1)

        self.spoilt(folder, "runs ahead", say)

    def moment(self, peer: Scripted) -> None:
        nothing = np.zeros(0, np.uint64)
        rows = BlockRows(nothing, nothing, memoryview(b""))
        peer.say(Type.MOMENT, pack_moment(PinnedMoment(1, 2, 3, 4, BLOCK, (0, 0), bytes(16)), rows, True))

    def test_earlier_moments_that_run_ahead(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            w.secondary.slow = 5.0
            for _ in range(MOMENT_FRAMES_AHEAD + 1):
                self.moment(peer)

        self.spoilt(folder, "moments run ahead", say)

    def test_an_earlier_moment_behind_the_begin_of_the_base(self, folder: Path) -> None:
        def say(w: World, peer: Scripted) -> None:
            self.piece(peer, [1], 5)
            self.moment(peer)

        self.spoilt(folder, "behind the begin of the base", say)

    def test_the_end_of_another_base(self, folder: Path) -> None:
        self.spoilt(
            folder, "end of another base", lambda w, peer: peer.say(Type.BASE_END, struct.pack("<QQ", 8, 0))
        )


class Trap:
    """A target that a test speaks for."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.peers: asyncio.Queue[Scripted] = asyncio.Queue()
        self.source: MirrorSource
        self.told = w.source_told

    async def listen(self) -> None:
        address = f"unix:{self.w.folder}/trap.sock"
        self.listener = await self.w.host.network.listen(address, self._accept)
        self.source = MirrorSource(
            self.w.host, self.w.origin, self.w.mirror, address, NODE, None, self.told.append
        )

    def _accept(self, wire: Wire) -> None:
        self.peers.put_nowait(Scripted(wire))

    async def welcomed(self, **changes: object) -> Scripted:
        """A source that has begun to ship its log."""
        peer = await self.peers.get()
        kind, session, body = await peer.frame()
        assert (kind, session) == (Type.HELLO, 0)
        hello = unpack_hello(body)
        assert (hello.name, hello.mirror, hello.volume) == ("vol", "m1", VOLUME)
        start = self.w.log.start
        welcome = Welcome(
            TargetState.WHOLE, 1024, 0, bytes(16), TARGET_NODE, VOLUME, start, 0, 0, 0, (0, 0), None, None, 0
        )
        peer.session = 77
        peer.say(Type.WELCOME, pack_welcome(dataclasses.replace(welcome, **changes)))
        return peer

    async def begun(self, **changes: object) -> Scripted:
        peer = await self.welcomed(**changes)
        kind, session, body = await peer.frame()
        assert (kind, session) == (Type.BEGIN, 77), unpack_refusal(body)
        assert unpack_begin(body).rule in (Rule.NOTHING, Rule.LOG)
        return peer

    async def stop(self) -> None:
        await self.source.stop()
        self.listener.close()


def against_source(scenario: Callable[[World, Trap], object], folder: Path) -> None:
    async def whole() -> None:
        async with world(folder) as w:
            trap = Trap(w)
            await trap.listen()
            trap.source.start()
            try:
                await scenario(w, trap)  # type: ignore[misc]
            finally:
                await trap.stop()
            before = w.mirror.received
            w.source_told.clear()
            assert before <= w.log.end
            await still_serves(w)

    run(whole)


class TestSource:
    @pytest.mark.parametrize(
        ("positions", "sentence"),
        [
            (Positions(2, 0, 0, 0), "where it cannot be"),
            (Positions(1, 2, 0, 0), "where it cannot be"),
            (Positions(1, 0, 3, 2), "where it cannot be"),
            (Positions(2**64 - 1, 0, 0, 0), "where it cannot be"),
        ],
    )
    def test_positions_that_cannot_be(self, positions: Positions, sentence: str, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            w.log.write(0, bytes(BLOCK))
            peer = await trap.begun()
            peer.say(Type.POSITIONS, pack_positions(positions))
            await peer.ended.wait()
            await until(lambda: any(sentence in text for text in trap.told))
            assert w.mirror.received == 0

        against_source(scenario, folder)

    def test_a_welcome_with_more_on_the_disk_than_in_the_log(self, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            peer = await trap.welcomed(durable=1 << 60)
            await peer.ended.wait()
            await until(lambda: any("where it cannot be" in text for text in trap.told))
            assert w.mirror.received == w.mirror.durable == 0

        against_source(scenario, folder)

    def test_positions_that_go_back(self, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            w.log.write(0, bytes(BLOCK))
            peer = await trap.begun()
            peer.say(Type.POSITIONS, pack_positions(Positions(1, 1, 0, 0)))
            await until(lambda: w.mirror.durable == 1)
            peer.say(Type.POSITIONS, pack_positions(Positions(1, 0, 0, 0)))
            await peer.ended.wait()
            assert w.mirror.durable == 1

        against_source(scenario, folder)

    @pytest.mark.parametrize(
        "noise",
        [
            b"\xff" * 100,
            FRAME.pack(8, Type.HELLO, 0, 0, 77) + bytes(8),
            FRAME.pack(0xFFFFFFFF, Type.REQUEST_BLOCKS, 0, 0, 77),
        ],
    )
    def test_noise(self, noise: bytes, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            peer = await trap.begun()
            peer.send(noise)
            await peer.ended.wait()
            await until(lambda: any("is lost" in text for text in trap.told))

        against_source(scenario, folder)

    def test_more_requests_than_may_wait(self, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            peer = await trap.begun()
            for _ in range(40):
                peer.say(Type.REQUEST_BLOCKS, pack_block_request(1, [1, 2, 3]))
            await peer.ended.wait()
            await until(lambda: any("asks for more blocks" in text for text in trap.told))

        against_source(scenario, folder)

    def test_a_base_acknowledged_that_was_not_sent(self, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            peer = await trap.begun()
            peer.say(Type.BASE_AT, NUMBER.pack(5))
            await peer.ended.wait()

        against_source(scenario, folder)

    def test_a_base_that_is_done_too_early_joins_nobody(self, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            w.mirror.joined = False
            w.origin.content = dict.fromkeys(range(2000), b"c" * BLOCK)
            peer = await trap.welcomed(state=TargetState.EMPTY, volume=bytes(16), end=NOWHERE)
            assert (await peer.frame())[0] == Type.BEGIN
            assert (await peer.frame())[0] == Type.BASE
            peer.say(Type.BASE_DONE, NUMBER.pack(7))
            await peer.ended.wait()
            await until(lambda: any("cannot be" in text for text in trap.told))
            assert w.origin.joined_mirrors == []
            w.mirror.pin, w.mirror.joined = None, True

        against_source(scenario, folder)

    def test_a_refusal_is_told_and_retried_rarely(self, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            peer = await trap.peers.get()
            await peer.frame()
            from revolume.mirror.wire.session_messages import Refusal, pack_refusal

            peer.say(Type.REFUSED, pack_refusal(Refusal("no", "Not\x1b[2J today.", "Come\nback.")))
            await peer.ended.wait()
            await until(lambda: trap.source.status().state == MirrorState.REFUSED)
            assert "Not [2J today. Come back." in trap.source.status().reason
            await asyncio.sleep(0.5)
            assert trap.peers.empty()
            assert len(trap.told) == 1

        against_source(scenario, folder)

    def test_a_target_that_diverged_is_refused_by_name(self, folder: Path) -> None:
        async def scenario(w: World, trap: Trap) -> None:
            w.log.write(0, bytes(BLOCK))
            other = dataclasses.replace(w.log.last, chain=b"x" * 16)
            peer = await trap.welcomed(end=other)
            kind, _, body = await peer.frame()
            assert (kind, unpack_refusal(body).code) == (Type.REFUSED, "diverged")
            await until(lambda: trap.source.status().state == MirrorState.REFUSED)

        against_source(scenario, folder)

    def test_an_address_where_nobody_is(self, folder: Path) -> None:
        async def scenario() -> None:
            async with world(folder) as w:
                told: list[str] = []
                source = MirrorSource(w.host, w.origin, w.mirror, f"unix:{folder}/nobody", NODE, None, told.append)
                source.start()
                await until(lambda: bool(told))
                await asyncio.sleep(0.3)
                assert len(told) == 1
                assert "cannot be reached" in told[0]
                assert source.status().state == MirrorState.CONNECTING
                await source.stop()

        run(scenario)
