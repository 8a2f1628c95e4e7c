"""What a spoilt store does to whoever opens it: told, or without effect; never wrong bytes.

Each spoilt disk is looked at twice, each time as a copy of it: the verifier reads it, and a primary opens it and
reads all of it, now and at every retained moment. An error of ours is an answer. Any other exception is a fault of
the code, in a task that nobody waits for too.

A byte within a payload is judged more cheaply, and as strictly: a volume that has been opened without reading it
can't know whether it was spoilt before or after that, so one opening serves for all such bytes (``Opened``). Each
is spoilt alone, whatever was seen to take it when the whole store was read is read again, and it is put back.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import WriteNumber
from revolume.errors import RevolumeError
from revolume.history.resolved_moment import ResolvedMoment
from revolume.history.views import View, open_view
from revolume.offline.check.check import check
from revolume.sim.kernel.disk import Watch
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.sample_volume import OPTIONS, PATH, SIZE, SampleVolume, SimProcess, inode
from revolume.volume.open.open import open_volume
from revolume.volume.primary import Volume

Part = tuple[int | None, int | None]
"""What is read: of a moment (None: now) a block (None: its opening)."""
OPENING: Part = (None, None)
CHECK: Part = (-1, None)


@dataclass(slots=True)
class Verdict:
    """``told``: who said that something is wrong, and what; ``wrong``: what must not be."""

    refused: str = ""
    check: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def told(self) -> bool:
        """Somebody has said so."""
        return bool(self.refused or self.check or self.reads)

    @property
    def outcome(self) -> str:
        """One word."""
        if self.wrong:
            return "WRONG"
        if self.refused:
            return "refused"
        if self.reads:
            return "an error of reads"
        return "all right, and check tells" if self.check else "harmless"

    @contextmanager
    def watching(self, what: str, told: list[str]) -> Iterator[None]:
        """An error of ours tells; any other exception is wrong."""
        try:
            yield
        except RevolumeError as error:
            told.append(f"{what}: {error.code}")
            if not error.cause:
                self.wrong.append(f"{what}: {error.code} without words")
        except Exception as error:
            self.wrong.append(f"{what}: {error!r}")


def checked(platter: Platter, seed: int, verdict: Verdict, watch: Watch | None = None) -> None:
    """What the verifier says."""
    with SimProcess(platter.copy(), seed) as life, verdict.watching("check", verdict.check):
        life.watch(watch or life.disk.watch)
        verdict.check += [f"{p.where}: {p.what}" for p in check(life.host, PATH).problems]


def judged(store: SampleVolume, platter: Platter, moments: Iterable[int] | None = None) -> Verdict:
    """All that there is to be said of it, now and at these moments (None: all)."""
    verdict = opened_and_read(store, platter, moments)
    checked(platter, store.seed, verdict)
    if not verdict.check and (verdict.refused or verdict.reads):
        verdict.wrong.append(f"check saw nothing, but {verdict.refused or verdict.reads[0]}")
    return verdict


def opened_and_read(store: SampleVolume, platter: Platter, moments: Iterable[int] | None = None) -> Verdict:
    """What a primary makes of it."""
    verdict = Verdict()
    with SimProcess(platter.copy(), store.seed) as life:
        life.run(_looked_at(store, life, verdict, store.contents if moments is None else moments))
        verdict.wrong += life.loop.strays
    return verdict


async def _looked_at(store: SampleVolume, life: SimProcess, verdict: Verdict, moments: Iterable[int]) -> None:
    refused: list[str] = []
    with verdict.watching("open", refused):
        volume = await open_volume(life.host, PATH, OPTIONS)
        await _read(store, store.newest, volume, "now", verdict)
        for number in moments:
            with verdict.watching(f"@w{number}", verdict.reads):
                view = await open_view(volume, ResolvedMoment(WriteNumber(number), 0), "look")
                await _read(store, number, view.reader, f"@w{number}", verdict, view.size)
                view.close()
    verdict.refused = "".join(refused)


class Readable(Protocol):
    """A volume, or a view of it."""

    async def read(self, offset: int, view: memoryview) -> None: ...


async def _read(
    store: SampleVolume, number: int, reader: Readable, what: str, verdict: Verdict, size: int = SIZE
) -> None:
    """All of it at once, and where that is an error, block by block."""
    want, have = store.contents[number], bytearray(SIZE)
    if size != SIZE:
        verdict.wrong.append(f"{what}: {size} bytes")
    try:
        await reader.read(0, memoryview(have))
        if have != want:
            verdict.wrong.append(f"{what}: wrong bytes in {different(have, want)}")
    except Exception:
        for block in store.interesting:
            await read_block(store, number, reader, block, what, verdict)


def different(have: bytearray, want: bytes) -> str:
    """The blocks that are not what they must be."""
    at = [n for n in range(0, SIZE, BLOCK) if have[n : n + BLOCK] != want[n : n + BLOCK]]
    return ", ".join(f"block {n // BLOCK}" for n in at[:5])


async def read_block(
    store: SampleVolume, number: int, reader: Readable, block: int, what: str, verdict: Verdict
) -> None:
    """One block: right, or an error."""
    begin, have = block * BLOCK, bytearray(BLOCK)
    with verdict.watching(f"{what} block {block}", verdict.reads):
        await reader.read(begin, memoryview(have))
        if have != store.contents[number][begin : begin + BLOCK]:
            verdict.wrong.append(f"{what}: wrong bytes in block {block}")


class Opened:
    """The store opened as it is, with every retained moment open beside it: for bytes that this did not read."""

    def __init__(self, store: SampleVolume) -> None:
        self.store = store
        self.life = SimProcess(store.platter.copy(), store.seed)
        self.taken: dict[str, list[tuple[int, int, Part]]] = {}
        """By file: (first byte, behind the last, what was read)."""
        self._part: Part = OPENING
        self._views: dict[int, View] = {}
        self.life.watch(self._note)
        self.life.run(self._open())
        self.life.watch(lambda *_: None)
        self._part = CHECK
        checked(store.platter, store.seed, Verdict(), self._note)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.life.__exit__()

    def _note(self, call: str, name: str, offset: int, length: int) -> None:
        if call in ("read", "glance"):
            self.taken.setdefault(name, []).append((offset, offset + length, self._part))

    async def _open(self) -> None:
        self.volume: Volume = await open_volume(self.life.host, PATH, OPTIONS)
        verdict = Verdict()
        for number in (None, *self.store.contents):
            self._part = (number, None)
            if number is not None:
                self._views[number] = await open_view(self.volume, ResolvedMoment(WriteNumber(number), 0), "look")
            for block in self.store.interesting:
                self._part = (number, block)
                await self._block(self._part, verdict)
        assert not verdict.reads and not verdict.wrong, verdict

    async def _block(self, part: Part, verdict: Verdict) -> None:
        number, block = part
        assert block is not None
        reader: Readable = self.volume if number is None else self._views[number].reader
        known = self.store.newest if number is None else number
        await read_block(self.store, known, reader, block, told_as(number), verdict)

    def readers(self, name: str, at: int) -> set[Part]:
        """Who took this byte."""
        taken = self.taken.get(name.rpartition("/")[2], ())
        return {part for begin, end, part in taken if begin <= at < end}

    def judge(self, name: str, at: int, bits: int, readers: set[Part]) -> Verdict:
        """This byte spoilt, while those read that take it; then it is put back."""
        verdict, memory = Verdict(), inode(self.life.platter, name).memory
        memory[at] ^= bits
        try:
            for part in sorted(readers - {CHECK}, key=str):
                self.life.run(self._again(part, verdict))
        finally:
            memory[at] ^= bits
        verdict.wrong += self.life.loop.strays
        self.life.loop.strays.clear()
        return verdict

    def _again(self, part: Part, verdict: Verdict) -> Coroutine[Any, Any, None]:
        number, block = part
        return self._block(part, verdict) if block is not None else self._view(number, verdict)

    async def _view(self, number: int | None, verdict: Verdict) -> None:
        assert number is not None, "what opening takes is not judged so"
        with verdict.watching(f"@w{number}", verdict.reads):
            view = await open_view(self.volume, ResolvedMoment(WriteNumber(number), 0), "look again")
            await _read(self.store, number, view.reader, f"@w{number}", verdict, view.size)
            view.close()


def told_as(number: int | None) -> str:
    """A moment, in verdicts."""
    return "now" if number is None else f"@w{number}"
