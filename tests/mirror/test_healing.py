"""HEAL_ASK and HEALED over real links: what either end has comes, what a peer says that it should not ends the
session, and nothing of it is used."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from revolume.blocks.digest import fragment_digest
from revolume.mirror import healing as healing_module
from revolume.mirror.wire.frames import Type, control
from revolume.mirror.wire.heal_messages import (
    HEAL_HEAD,
    SLICE,
    pack_heal_ask,
    pack_healed,
    pack_healed_slice,
    pack_slice_ask,
    unpack_heal_ask,
)
from revolume.mirror.wire.limits import BODY_BYTES_MAX
from revolume.mirror.wire.version import Versions
from revolume.volume.heal.siblings import WANTED_MAX, Wanted
from revolume.volume.heal.transfer_slice import SLICE_MAX, WantedSlice
from tests.mirror.harness import World, run, until, world
from tests.mirror.test_hostile import Scripted, Trap, against_source, against_target, broken_off

pytestmark = pytest.mark.timeout(60)
BLOCK = 4096
CONTENT = os.urandom(BLOCK)
DIGEST = fragment_digest(CONTENT)
OTHER = os.urandom(BLOCK)
WANTED = Wanted(7, DIGEST, 3, 5)
KEY = 7, DIGEST
Answer = Callable[[], tuple[bytes, bytes]]


def test_a_question_is_what_was_asked() -> None:
    asked = [Wanted(block, block + 5, block * 3, block % 7) for block in range(WANTED_MAX)]
    assert unpack_heal_ask(memoryview(pack_heal_ask(9, asked))) == (9, asked)
    assert len(control(Type.HEAL_ASK, 1, pack_heal_ask(9, asked))) - 16 == BODY_BYTES_MAX[Type.HEAL_ASK]


def test_both_ends_ask_and_answer(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            await until(lambda: bool(w.origin.healing.siblings) and bool(w.secondary.healing.siblings))
            for finder, siblings, name in (
                (w.secondary.finder, w.origin.healing.siblings, "mirror m1"),
                (w.origin.finder, w.secondary.healing.siblings, "the source"),
            ):
                finder.has = {KEY: CONTENT, (8, fragment_digest(OTHER)): OTHER}
                found, answered = await siblings.fetch([WANTED, Wanted(9, 9)])
                assert answered
                assert {key: (each.content, each.source) for key, each in found.items()} == {KEY: (CONTENT, name)}
                assert finder.asked == [[WANTED, Wanted(9, 9)]]

    run(scenario)


def test_both_ends_ask_for_slices_of_transfers(folder: Path) -> None:
    """As much as there is of them, beside questions for blocks."""

    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            await until(lambda: bool(w.origin.healing.siblings) and bool(w.secondary.healing.siblings))
            large = os.urandom(SLICE_MAX + 10)
            for end, siblings in (
                (w.secondary, w.origin.healing.siblings),
                (w.origin, w.secondary.healing.siblings),
            ):
                end.slices.has, end.finder.has = {5: large}, {KEY: CONTENT}
                (sibling,) = siblings.attached()
                wanted = [WantedSlice(5, 0, SLICE_MAX), WantedSlice(5, SLICE_MAX, 100), WantedSlice(6, 0, 100)]
                assert await sibling.ask_slice(wanted[0]) == large[:SLICE_MAX]
                assert await sibling.ask([WANTED]) == {KEY: CONTENT}
                assert await sibling.ask_slice(wanted[1]) == large[SLICE_MAX:]
                assert await sibling.ask_slice(wanted[2]) == b""
                assert end.slices.asked == wanted

    run(scenario)


SLICE_LIES: list[tuple[Answer, str]] = [
    (lambda: (pack_healed_slice(1, CONTENT), CONTENT), "do not add up"),  # more than was asked for
    (lambda: (pack_healed_slice(1, CONTENT[:9]), CONTENT[:8]), "do not add up"),
    (lambda: (pack_healed(1, {KEY: CONTENT}), CONTENT), "another question"),
    (lambda: (pack_healed_slice(2, b""), b""), "that nobody asked for"),
]


@pytest.mark.parametrize(("answer", "sentence"), SLICE_LIES)
def test_a_source_that_answers_otherwise_for_a_slice(answer: Answer, sentence: str, folder: Path) -> None:
    async def scenario(w: World, peer: Scripted) -> None:
        await peer.begin(w)
        (sibling,) = w.secondary.healing.siblings.attached()
        wanted = WantedSlice(5, 3, 100)
        asking = healing_module.asyncio.ensure_future(sibling.ask_slice(wanted))
        kind, _, body = await peer.frame()
        assert kind == Type.HEAL_ASK and unpack_heal_ask(body) == (1, wanted)
        assert bytes(body) == pack_slice_ask(1, wanted)
        peer.say(Type.HEALED, *answer())
        await broken_off(w, peer, sentence)
        assert await asking is None

    against_target(scenario, folder)


def test_many_are_asked_for_in_pieces(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            w.source.start()
            await until(lambda: bool(w.origin.healing.siblings))
            w.secondary.finder.has = {(block, DIGEST): CONTENT for block in range(600)}
            found, _ = await w.origin.healing.siblings.fetch([Wanted(block, DIGEST) for block in range(600)])
            assert len(found) == 600
            assert [len(each) for each in w.secondary.finder.asked] == [256, 256, 88]

    run(scenario)


def test_nobody_is_asked_who_does_not_speak_it(folder: Path) -> None:
    async def scenario(w: World, peer: Scripted) -> None:
        await peer.begin(w, versions=Versions(6, 6))
        assert not w.secondary.healing.siblings
        peer.say(Type.HEAL_ASK, pack_heal_ask(1, [WANTED]))
        await broken_off(w, peer, "where none is expected")
        assert w.secondary.finder.asked == []

    against_target(scenario, folder)


def test_an_answer_that_does_not_come_is_given_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healing_module, "PATIENCE_SECONDS", 0.3)

    async def scenario(w: World, peer: Scripted) -> None:
        await peer.begin(w)
        siblings = w.secondary.healing.siblings
        assert await siblings.fetch([WANTED]) == ({}, False)
        peer.say(Type.HEALED, pack_healed(1, {KEY: CONTENT}), CONTENT)  # late: passed over
        assert await siblings.fetch([WANTED]) == ({}, False)
        peer.send(b"\xff" * 100)

    against_target(scenario, folder)


def test_who_waits_when_the_link_is_lost_goes_on_without(folder: Path) -> None:
    async def scenario() -> None:
        async with world(folder) as w:
            peer = await Scripted.connect(w)
            assert isinstance(peer, Scripted)
            await peer.begin(w)
            siblings = w.secondary.healing.siblings
            asking = healing_module.asyncio.ensure_future(siblings.fetch([WANTED]))
            assert (await peer.frame())[0] == Type.HEAL_ASK
            peer.wire.abort()
            assert await asking == ({}, False)
            assert not siblings

    run(scenario)


LIES: list[tuple[Answer, str]] = [
    (lambda: (pack_healed(2, {KEY: CONTENT}), CONTENT), "that nobody asked for"),
    (lambda: (pack_healed(0, {KEY: CONTENT}), CONTENT), "that nobody asked for"),
    (lambda: (pack_healed(1, {(8, DIGEST): CONTENT}), CONTENT), "that nobody asked for"),
    (lambda: (pack_healed(1, {KEY: CONTENT}), OTHER), "not what its digest says"),
    (lambda: (pack_healed(1, {KEY: CONTENT}), CONTENT[:-1]), "do not add up"),
    (lambda: (pack_healed(1, {KEY: CONTENT}), CONTENT + CONTENT), "do not add up"),
    (lambda: (HEAL_HEAD.pack(1, 2, 0) + 2 * struct.pack("<QQ", *KEY), CONTENT + CONTENT), "do not add up"),
    (lambda: (HEAL_HEAD.pack(1, 257, 0), b""), "257 blocks in one frame"),
    (lambda: (b"\x01", b""), "not what its type says"),
    (lambda: (pack_healed_slice(1, CONTENT), CONTENT), "another question"),
]


@pytest.mark.parametrize(("answer", "sentence"), LIES)
def test_a_source_that_answers_otherwise(answer: Answer, sentence: str, folder: Path) -> None:
    async def scenario(w: World, peer: Scripted) -> None:
        await peer.begin(w)
        asking = healing_module.asyncio.ensure_future(w.secondary.healing.siblings.fetch([WANTED]))
        kind, _, body = await peer.frame()
        assert kind == Type.HEAL_ASK and unpack_heal_ask(body) == (1, [WANTED])
        peer.say(Type.HEALED, *answer())
        await broken_off(w, peer, sentence)
        assert await asking == ({}, False)

    against_target(scenario, folder)


@pytest.mark.parametrize(("answer", "sentence"), LIES)
def test_a_mirror_that_answers_otherwise(answer: Answer, sentence: str, folder: Path) -> None:
    async def scenario(w: World, trap: Trap) -> None:
        peer = await trap.begun()
        await until(lambda: bool(w.origin.healing.siblings))
        asking = healing_module.asyncio.ensure_future(w.origin.healing.siblings.fetch([WANTED]))
        while (await peer.frame())[0] != Type.HEAL_ASK:
            pass
        peer.say(Type.HEALED, *answer())
        await peer.ended.wait()
        await until(lambda: any(sentence in text for text in trap.told))
        assert await asking == ({}, False)

    against_source(scenario, folder)


QUESTIONS: list[tuple[Callable[[], bytes], str]] = [
    (lambda: HEAL_HEAD.pack(1, 0, 0), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 257, 0) + bytes(256 * 32), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 2, 0) + bytes(32), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 1, 1) + bytes(32), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 1, 0) + b"\xff" * 32, "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 1, 2) + bytes(32), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 2, 1) + SLICE.pack(3, 0, 9, 0), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 1, 1) + SLICE.pack(3, 0, 0, 0), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 1, 1) + SLICE.pack(3, 0, SLICE_MAX + 1, 0), "do not add up"),
    (lambda: HEAL_HEAD.pack(1, 1, 1) + SLICE.pack(3, 0, 9, 1), "do not add up"),
    (lambda: b"", "not what its type says"),
    (lambda: HEAL_HEAD.pack(1, 1000, 0) + bytes(32 * 1000), "are allowed"),
]


@pytest.mark.parametrize(("question", "sentence"), QUESTIONS)
def test_a_question_that_is_none(question: Callable[[], bytes], sentence: str, folder: Path) -> None:
    async def of_target(w: World, peer: Scripted) -> None:
        await peer.begin(w)
        peer.say(Type.HEAL_ASK, question())
        await broken_off(w, peer, sentence)
        assert w.secondary.finder.asked == []

    against_target(of_target, folder)


@pytest.mark.parametrize(("question", "sentence"), QUESTIONS)
def test_a_mirrors_question_that_is_none(question: Callable[[], bytes], sentence: str, folder: Path) -> None:
    async def of_source(w: World, trap: Trap) -> None:
        peer = await trap.begun()
        peer.say(Type.HEAL_ASK, question())
        await peer.ended.wait()
        await until(lambda: any(sentence in text for text in trap.told))
        assert w.origin.finder.asked == []

    against_source(of_source, folder)


def test_more_questions_than_may_wait(folder: Path) -> None:
    async def scenario(w: World, peer: Scripted) -> None:
        await peer.begin(w)
        for number in range(1, 40):
            peer.say(Type.HEAL_ASK, pack_heal_ask(number, [WANTED]))
        await broken_off(w, peer, "asks for more blocks")

    against_target(scenario, folder)


def test_nobody_waits_for_an_answer_while_nothing_is_received(folder: Path) -> None:
    """A copy that waits for room receives nothing; the fold that makes room must not wait for an answer."""

    async def scenario(w: World, peer: Scripted) -> None:
        await peer.begin(w)
        assert w.target.current is not None
        siblings, link = w.secondary.healing.siblings, w.target.current.link
        asking = healing_module.asyncio.ensure_future(siblings.fetch([WANTED]))
        assert (await peer.frame())[0] == Type.HEAL_ASK
        link.hold()
        async with healing_module.asyncio.timeout(60):
            assert await asking == ({}, False)
            assert await siblings.fetch([WANTED]) == ({}, False)
        link.go_on()
        peer.send(b"\xff" * 100)

    against_target(scenario, folder)
