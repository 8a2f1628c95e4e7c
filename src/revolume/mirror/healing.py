"""Healing over one link: HEAL_ASK and HEALED, in both directions at once.

Each end asks for what is damaged on its side, one question at a time, and answers the other's questions in their
order. A question that is not answered in time is given up; its answer, if it comes after all, is passed over. The
two ends use this only if the version that they speak knows these frames."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from revolume.host.clock import within
from revolume.mirror.link import Link
from revolume.mirror.wire.frames import ProtocolError, Type, body_of
from revolume.mirror.wire.heal_messages import (
    number_of,
    pack_heal_ask,
    pack_healed,
    pack_healed_slice,
    pack_slice_ask,
    unpack_heal_ask,
    unpack_healed,
    unpack_healed_slice,
)
from revolume.mirror.wire.version import COMPARISON
from revolume.volume.heal.healing import Healing
from revolume.volume.heal.siblings import Contents, Wanted
from revolume.volume.heal.transfer_slice import WantedSlice

PATIENCE_SECONDS: Final = 20.0
"""So long an answer is waited for: the sibling may have to look through its whole log."""
LOOK_SECONDS: Final = 0.25
QUESTIONS_MAX: Final = 4
"""Of the other end's that wait for their answers."""
HEALING_FRAMES: Final = frozenset({Type.HEAL_ASK, Type.HEALED})
Answer = Contents | bytes
"""Blocks by block and digest, or a slice of a transfer."""


class LinkSibling:
    """The other end of a link, as one that can be asked for blocks; ``name`` is for sentences."""

    def __init__(self, link: Link, name: str) -> None:
        self.name = name
        self._link = link
        self._turn = asyncio.Lock()
        self._number = 0
        self._asked: Sequence[Wanted] | WantedSlice = ()
        self._answer: asyncio.Future[Answer | None] | None = None

    @property
    def can_answer(self) -> bool:
        """Whether an answer would be received now: the link is open, and not held."""
        return self._link.open and not self._link.held

    async def ask(self, wanted: Sequence[Wanted]) -> Contents | None:
        """As many of these as the other end has; None where the link is lost, or it does not answer in time."""
        different = list({each.key: each for each in wanted}.values())
        found = await self._ask(different, lambda number: pack_heal_ask(number, different))
        return found if isinstance(found, dict) else None

    async def ask_slice(self, wanted: WantedSlice) -> bytes | None:
        """What the other end has there of a transfer; None as above."""
        found = await self._ask(wanted, lambda number: pack_slice_ask(number, wanted))
        return found if isinstance(found, bytes) else None

    async def _ask(self, wanted: Sequence[Wanted] | WantedSlice, pack: Callable[[int], bytes]) -> Answer | None:
        """One question at a time."""
        async with self._turn:
            if not self.can_answer:
                return None
            self._number += 1
            self._asked = wanted
            self._answer = asyncio.get_running_loop().create_future()
            self._link.send_control(Type.HEAL_ASK, pack(self._number))
            try:
                return await self._answered(self._answer)
            finally:
                self._answer = None

    async def _answered(self, answer: asyncio.Future[Answer | None]) -> Answer | None:
        """Not while this end receives nothing: it waits for room then, and who makes room may be waiting here."""
        for _ in range(round(PATIENCE_SECONDS / LOOK_SECONDS)):
            try:
                return await within(self._link.host.clock, LOOK_SECONDS, asyncio.shield(answer))
            except TimeoutError:
                if self._link.held:
                    return None
        return None

    def frame(self, frame: memoryview) -> None:
        """A HEALED frame."""
        number = number_of(frame)
        if not 1 <= number <= self._number:
            raise ProtocolError("Blocks to heal with that nobody asked for.")
        if number < self._number or self._answer is None or self._answer.done():
            return  # given up meanwhile
        if isinstance(self._asked, WantedSlice):
            self._answer.set_result(unpack_healed_slice(frame, self._asked))
        else:
            self._answer.set_result(unpack_healed(frame, {each.key: each for each in self._asked}))

    def end(self) -> None:
        """The link is gone: whoever waits goes on without."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)


class HealServer:
    """Answers the other end's questions, in their order, with what is here."""

    def __init__(self, link: Link, healing: Healing) -> None:
        self._link = link
        self._healing = healing
        self._questions: deque[tuple[int, list[Wanted] | WantedSlice]] = deque()
        self._serving = False

    def ask(self, body: memoryview) -> None:
        """The body of a HEAL_ASK frame."""
        if len(self._questions) >= QUESTIONS_MAX:
            raise ProtocolError("It asks for more blocks before it takes the ones that it asked for.")
        self._questions.append(unpack_heal_ask(body))
        if not self._serving:
            self._serving = True
            self._link.spawn(self._serve_all())

    async def _serve_all(self) -> None:
        try:
            while self._questions:
                number, wanted = self._questions[0]
                if isinstance(wanted, WantedSlice):
                    content = await self._healing.slices.find(wanted)
                    answer, payload = pack_healed_slice(number, content), [content]
                else:
                    found = await self._healing.finder.find(wanted)
                    answer, payload = pack_healed(number, found), list(found.values())
                self._questions.popleft()
                self._link.send_with_payload(Type.HEALED, answer, payload)
        finally:
            self._serving = False


class LinkHealing:
    """Both directions over one link, from ``begin`` to ``end``; ``name``: the other end's, in sentences."""

    def __init__(self, link: Link, name: str) -> None:
        self._link = link
        self._name = name
        self._sibling: LinkSibling | None = None
        self._server: HealServer | None = None
        self._detach: Callable[[], None] = lambda: None

    def begin(self, version: int, healing: Healing) -> None:
        """The other end can be asked from now on, and may ask, if the session speaks a version that has this."""
        self._link.version = version
        if version < COMPARISON:
            return
        self.end()
        self._server = HealServer(self._link, healing)
        self._sibling = LinkSibling(self._link, self._name)
        self._detach = healing.siblings.attach(self._sibling)

    def frame(self, kind: Type, frame: memoryview) -> None:
        """A HEAL_ASK or HEALED frame, whole."""
        if self._server is None or self._sibling is None:
            raise ProtocolError(f"A frame {kind.name} came where none is expected.")
        if kind == Type.HEAL_ASK:
            self._server.ask(body_of(frame))
        else:
            self._sibling.frame(frame)

    def end(self) -> None:
        """Nobody can be asked over this link any more."""
        self._detach()
        if self._sibling is not None:
            self._sibling.end()
