"""Which call fails, how; and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from revolume.errors import RevolumeError

GROWING = frozenset({"create", "mkdir", "write", "allocate", "rename", "truncate"})
READING = frozenset({"read", "glance"})
ONCE, ON = "once", "on"


@dataclass(frozen=True, slots=True)
class Case:
    """In this stage the ``number``-th ``call`` fails with ``error`` (``PART``: EIO with a part written), ``how``
    often."""

    stage: str
    call: str
    number: int
    error: str
    how: str

    def __str__(self) -> str:
        return f"{self.stage}:{self.call}:{self.number}:{self.error}:{self.how}"

    @classmethod
    def parsed(cls, text: str) -> Case:
        """What ``str`` made of it."""
        stage, call, number, error, how = text.split(":")
        return cls(stage, call, int(number), error, how)


@dataclass(slots=True)
class Found:
    """What came of a case. ``sites``: places in the code whose call has failed; ``first``: of each kind of call,
    and each place that makes it in a step of the history, the first one's number; ``after``: what became of the
    process that had the fault."""

    case: Case | None
    calls: Counter[str] = field(default_factory=Counter)
    sites: set[str] = field(default_factory=set)
    first: dict[str, dict[str, int]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    after: str = ""
    lost: set[int] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    @property
    def once(self) -> bool:
        """What fails is there but once; without a case nothing is."""
        return self.case is None or self.case.how == ONCE

    @property
    def may_lose(self) -> bool:
        """Who makes points could read nothing for long: he may have had to say of blocks that they are lost."""
        case = self.case
        return case is not None and case.call in READING and case.how == ON and case.stage != "mirror"

    @contextmanager
    def saying(self, what: str) -> Iterator[None]:
        """An error with words is an answer; a wait without an end is none where the fault was there only once."""
        try:
            yield
        except RevolumeError as error:
            self.said.append(f"{what}: {error.code}")
        except TimeoutError:
            self.said.append(f"{what}: waits")
            if self.once:
                self.wrong.append(f"{what}: waits for ever")
        except OSError as error:
            self.said.append(f"{what}: {error.strerror}")
        except Exception as error:
            self.wrong.append(f"{what}: {error!r}")


def cases(stage: str, clean: Found, every_call: bool) -> Iterator[Case]:
    """Every call of a clean run, in every way in which it may fail; or the first of each place, where a disk that
    is full stays so and a part of a write arrives once."""
    for call, count in sorted(clean.calls.items()):
        ways = [("EIO", ONCE), ("EIO", ON)]
        ways += [("ENOSPC", how) for how in (ONCE, ON) if call in GROWING and (every_call or how == ON)]
        ways += [("PART", how) for how in (ONCE, ON) if call == "write" and (every_call or how == ONCE)]
        for number in range(1, count + 1) if every_call else sorted(clean.first[call].values()):
            yield from (Case(stage, call, number, *way) for way in ways)
