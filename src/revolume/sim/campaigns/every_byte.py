"""Every byte of a small, cleanly stopped store spoilt, every length of its files, every two blocks exchanged.

    python -m revolume.sim.campaigns.every_byte [--every N] [--minutes M] [--jobs N]
        [--only PHASES] [--folder FOLDER]
    python -m revolume.sim.campaigns.every_byte --case flip:image.sums:4711

Each case must end in one of these: opening refuses, a read is an error, or every byte that is read is right; and
what a retained moment could need has to be named by ``check`` (or by the refusal). What was flipped is one bit of
every second byte and all bits of the others. Phases, by what a byte is (``regions.py``):

    meta       one byte of a manifest, a header, a footer, a map, the digests: all looked at, now and at two of the
               moments, in turn (``--all-moments``: at each)
    payload    one byte of a block: ``Opened`` in ``corruption_oracle.py``. Where opening takes bytes along, since
    it reads the
               log in large pieces, one byte of each block at once: each of them must be an error of its own
    named      one byte of each payload at once: ``check`` must name each of the payloads
    idle       what nobody needs: each sector spoilt at once, and single bytes of it, every 61st; must do no harm
    cut        a file at a length: all of them, except within blocks of payload or zeroes, where it is those beside
               sectors' ends
    swap       two blocks of a file in each other's place: all pairs that differ
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial

from revolume.blocks.geometry import BLOCK
from revolume.sim.campaigns.case_runner import parser, quiet, spread
from revolume.sim.campaigns.every_byte_result import Case, CaseResult, Total, report
from revolume.sim.kernel.simulated_fs import Platter
from revolume.sim.oracle.corruption_oracle import (
    CHECK,
    OPENING,
    Opened,
    Part,
    Verdict,
    checked,
    judged,
    opened_and_read,
    told_as,
)
from revolume.sim.oracle.regions import IDLE, TOLD, Region
from revolume.sim.oracle.sample_volume import SampleVolume, damaged, inode, make

SECTOR = 512
SINGLE = 61
PAYLOAD = frozenset({"whole block", "fragments", "point's block", "image block"})
UNREAD_AT_ONCE = 64 << 10


def bits(at: int) -> int:
    """What is changed of the byte there."""
    return 1 << at // 2 % 8 if at % 2 == 0 else 0xFF


class EveryByte:
    """The store, and all cases of it."""

    def __init__(self, all_moments: bool = False) -> None:
        self.store: SampleVolume = make()
        self.opened = Opened(self.store)
        self._all_moments = all_moments
        self._regions = sorted(self.store.regions, key=lambda r: (r.name, r.start))
        self._judges: dict[str, Callable[[Case], CaseResult]] = {
            "flip": self._flip, "byte": self._byte, "blocks": self._blocks, "fragments": self._blocks,
            "payloads": self._payloads, "spoil": self._spoil, "cut": self._cut, "swap": self._swap,
        }  # fmt: skip

    def judge(self, case: Case) -> CaseResult:
        """Spoil the store as ``case`` says, on a copy, and say what came of it."""
        return self._judges[case.what](case)

    # Cases

    def cases(self) -> Iterator[Case]:
        """All of them."""
        yield from self._metas()
        yield from self._payload_cases()
        yield from self._idles()
        yield from self._cuts()
        yield from self._swaps()

    def _metas(self) -> Iterator[Case]:
        for region in self._regions:
            if region.kind in TOLD - PAYLOAD:
                for at in range(region.start, region.end):
                    yield Case("meta", "flip", region.name, at)

    def _payload_cases(self) -> Iterator[Case]:
        for region in self._regions:
            if region.kind in PAYLOAD and not self._taken_along(region):
                for at in range(region.start, region.end):
                    yield Case("payload", "byte", region.name, at)
        for what in ("blocks", "fragments"):
            for at in range(max(unit.end - unit.start for unit in self._units(what))):
                yield Case("payload", what, "*", at)
        for at in range(max(unit.end - unit.start for unit in self._units("payloads"))):
            yield Case("named", "payloads", "*", at)

    def _taken_along(self, region: Region) -> bool:
        return any(OPENING in self.opened.readers(region.name, at) for at in (region.start, region.end - 1))

    def _units(self, what: str) -> list[Region]:
        """Regions of which one byte each is spoilt at once: none of them hides another."""
        found = [region for region in self._regions if region.kind in PAYLOAD]
        if what == "payloads":
            return found
        found = [r for r in found if self._taken_along(r) and (r.kind == "fragments") == (what == "fragments")]
        step = BLOCK if what == "blocks" else 1 << 30
        return [
            Region(r.kind, r.name, at, min(at + step, r.end)) for r in found for at in range(r.start, r.end, step)
        ]

    def _idles(self) -> Iterator[Case]:
        for region in self._regions:
            if region.kind in IDLE:
                at = region.start
                while at < region.end:
                    read = self.opened.readers(region.name, at)
                    end = min(region.end, at - at % SECTOR + SECTOR if read else self._unread(region, at))
                    yield Case("idle", "spoil", region.name, at, end)
                    if read:
                        for one in range(at - at % -SINGLE, end, SINGLE):
                            yield Case("idle", "flip", region.name, one)
                    at = end

    def _unread(self, region: Region, at: int) -> int:
        end = at
        while end < region.end and end < at + UNREAD_AT_ONCE and not self.opened.readers(region.name, end):
            end += SECTOR
        return end - end % SECTOR if end < region.end else end

    def _cuts(self) -> Iterator[Case]:
        for region in self._regions:
            dull = region.kind in PAYLOAD | IDLE
            for length in range(region.start, region.end):
                if not dull or length % SECTOR in (0, 1, SECTOR - 1):
                    yield Case("cut", "cut", region.name, length)

    def _swaps(self) -> Iterator[Case]:
        for name, content in self.store.files.items():
            blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
            for one, other in itertools.combinations(range(len(blocks)), 2):
                if blocks[one] != blocks[other]:
                    yield Case("swap", "swap", name, one, other)

    # Judging

    def _kind(self, name: str, at: int) -> str:
        return next(r.kind for r in self._regions if r.name == name and r.start <= at < r.end)

    def _moments(self, at: int) -> list[int] | None:
        if self._all_moments:
            return None
        numbers = sorted(self.store.contents)
        return [numbers[at % len(numbers)], numbers[(at + len(numbers) // 2) % len(numbers)]]

    def _flip(self, case: Case) -> CaseResult:
        kind = self._kind(case.name, case.at)
        platter = damaged(self.store, case.name, lambda content: _flip(content, case.at))
        verdict = judged(self.store, platter, self._moments(case.at))
        if kind in TOLD and not (verdict.check or verdict.refused):
            verdict.wrong.append("neither check nor a refusal tells")
        return _found(case, kind, verdict)

    def _byte(self, case: Case) -> CaseResult:
        """Check names it in a round of its own phase."""
        readers = self.opened.readers(case.name, case.at) - {CHECK}
        verdict = self.opened.judge(case.name, case.at, bits(case.at), readers)
        if readers and not verdict.reads:
            verdict.wrong.append("it is read, and no read is an error")
        return _found(case, self._kind(case.name, case.at), verdict)

    def _spoilt_units(self, case: Case) -> list[tuple[Region, int]]:
        units = self._units(case.what)
        return [(unit, unit.start + case.at) for unit in units if unit.start + case.at < unit.end]

    def _blocks(self, case: Case) -> CaseResult:
        """Every part that takes one of the bytes is an error, and everything else is right."""
        places, store = self._spoilt_units(case), self.store
        platter = _spoilt(store, places)
        readers = {place: self.opened.readers(place[0].name, place[1]) - {CHECK, OPENING} for place in places}
        moments = {number for parts in readers.values() for number, _ in parts if number is not None}
        verdict = opened_and_read(store, platter, None if case.what == "blocks" else sorted(moments))
        found = CaseResult(case, wrong=list(verdict.wrong))
        for place, parts in readers.items():
            if not verdict.refused:
                found.wrong += _not_told(place, parts, verdict)
            found.counts[case.phase, place[0].kind, verdict.outcome if parts else "harmless"] += 1
        return found

    def _payloads(self, case: Case) -> CaseResult:
        places, store = self._spoilt_units(case), self.store
        platter = _spoilt(store, places)
        verdict = Verdict()
        checked(platter, store.seed, verdict)
        found = CaseResult(case, wrong=verdict.wrong)
        for unit, at in places:
            found.counts[case.phase, unit.kind, "check tells"] += 1
            if not _named(unit, at, verdict, self._header(unit)):
                found.wrong.append(f"{unit.name} at {at}: check does not name it: {verdict.check[:2]}")
        return found

    def _header(self, unit: Region) -> int:
        """Where the transfer begins whose payload this is."""
        headers = [r.start for r in self._regions if r.name == unit.name and r.kind == "node header"]
        return max([at for at in headers if at < unit.start], default=0)

    def _spoil(self, case: Case) -> CaseResult:
        chance = random.Random(case.at)

        def change(content: bytearray) -> None:
            for at in range(case.at, case.more):
                content[at] ^= chance.randrange(1, 256)

        platter = damaged(self.store, case.name, change)
        verdict = judged(self.store, platter)
        found = _found(case, self._kind(case.name, case.at), verdict)
        return CaseResult(case, Counter(dict.fromkeys(found.counts, case.more - case.at)), found.wrong)

    def _cut(self, case: Case) -> CaseResult:
        platter = damaged(self.store, case.name, lambda content: content.__delitem__(slice(case.at, None)))
        return _found(case, self._kind(case.name, case.at), judged(self.store, platter, self._moments(case.at)))

    def _swap(self, case: Case) -> CaseResult:
        one, other = (slice(block * BLOCK, (block + 1) * BLOCK) for block in (case.at, case.more))

        def change(content: bytearray) -> None:
            first, second = content[one], content[other]
            if len(first) == len(second):
                content[one], content[other] = second, first

        kind = self._kind(case.name, case.at * BLOCK)
        return _found(case, kind, judged(self.store, damaged(self.store, case.name, change)))


def _spoilt(store: SampleVolume, places: list[tuple[Region, int]]) -> Platter:
    platter = store.platter.copy()
    for unit, at in places:
        found = inode(platter, unit.name)
        _flip(found.memory, at)
        found.disk[at] = found.memory[at]
    return platter


def _flip(content: bytearray, at: int) -> None:
    content[at] ^= bits(at)


def _found(case: Case, kind: str, verdict: Verdict) -> CaseResult:
    return CaseResult(case, Counter({(case.phase, kind, verdict.outcome): 1}), verdict.wrong)


def _not_told(place: tuple[Region, int], parts: set[Part], verdict: Verdict) -> Iterator[str]:
    """A block that takes the byte is an error; of a view that took it when it was opened, some block is."""
    for number, block in parts:
        told = f"{told_as(number)} block {block}:" if block is not None else f"{told_as(number)} block "
        if not any(said.startswith(told) for said in verdict.reads):
            yield f"{place[0].name} at {place[1]}: {told} no error"


def _named(unit: Region, at: int, verdict: Verdict, header: int) -> bool:
    where = f"image block {at // BLOCK}:" if unit.name == "image" else f"{unit.name} at {header}:"
    return any(said.startswith(where) for said in verdict.check)


# The campaign


def chosen(campaign: EveryByte, every: int, only: str | None) -> list[Case]:
    """Each ``every``-th case of every phase, in an order in which any part of them is a fair sample."""
    found = [case for case in campaign.cases() if only is None or case.phase in only.split(",")]
    by_phase: dict[str, list[Case]] = {}
    for case in found:
        by_phase.setdefault(case.phase, []).append(case)
    some = [case for cases in by_phase.values() for case in cases[:: max(every, 1)]]
    random.Random(1).shuffle(some)
    return some


def run(
    every: int, minutes: float | None, jobs: int, only: str | None, all_moments: bool, say: Callable[[str], None]
) -> tuple[Total, int]:
    """All of them, as far as the time reaches; and how many there were to be."""
    total = Total()
    cases = chosen(_campaign(all_moments), every, only)
    for found in spread(partial(_judge, all_moments), cases, jobs, minutes, 200):
        before = len(total.failures)
        total.add(found)
        if len(total.failures) > before:
            say(f"FAILED {total.failures[-1]}")
    return total, len(cases)


@cache
def _campaign(all_moments: bool) -> EveryByte:
    """This process's."""
    return EveryByte(all_moments)


def _judge(all_moments: bool) -> Callable[[Case], CaseResult]:
    return _campaign(all_moments).judge


def main() -> int:
    """Run the cases that the command line asks for. The exit status: 0 if nothing failed."""
    quiet()
    asked = _arguments().parse_args()
    if asked.case:
        found = EveryByte(True).judge(_case(asked.case))
        print("\n".join([f"{key}: {count}" for key, count in found.counts.items()] + found.wrong))
        return bool(found.wrong)
    began = time.monotonic()
    total, planned = run(
        asked.every, asked.minutes, asked.jobs, asked.only, asked.all_moments, lambda line: print(line, flush=True)
    )
    part = report(total, planned, round(time.monotonic() - began, 1))
    for (phase, kind, outcome), count in sorted(total.counts.items()):
        print(f"{phase:8} {kind:18} {outcome:28} {count}")
    print(f"{total.cases} of {planned} cases in {part.seconds} s, {len(total.failures)} failed")
    part.write(asked.folder)
    return bool(total.failures)


def _case(text: str) -> Case:
    what, name, at, more = text.split(":")
    phases = {"byte": "payload", "blocks": "payload", "fragments": "payload", "payloads": "named", "spoil": "idle"}
    return Case(phases.get(what, what), what, name, int(at), int(more))


def _arguments() -> argparse.ArgumentParser:
    made = parser("revolume.sim.campaigns.every_byte", __doc__)
    made.add_argument("--only", help="phases, with commas between them")
    made.add_argument("--all-moments", action="store_true")
    return made


if __name__ == "__main__":
    sys.exit(main())
