"""A campaign that counts its cases: what its command line has, and its cases spread over processes.

    --every N        each N-th case of a kind alone
    --minutes M      no case is begun after so long
    --jobs N         processes; 0: none but this one
    --folder FOLDER  where its part of the report goes
    --case CASE      this one alone, and what came of it

What each judges by itself is for the campaign to say: a ``Judge``, made once in every process.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import structlog

from revolume.sim.campaigns.report_section import FOLDER

CaseT = TypeVar("CaseT")
FoundT = TypeVar("FoundT")
Judge = Callable[[CaseT], FoundT]


def parser(module: str, text: str | None) -> argparse.ArgumentParser:
    """The options that every campaign of cases has; the campaign adds its own."""
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=text,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("--every", type=int, default=1)
    made.add_argument("--minutes", type=float)
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    made.add_argument("--folder", default=FOLDER)
    made.add_argument("--case")
    return made


def quiet() -> None:
    """No events on the screen: of these there are many."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def spread(
    begin: Callable[[], Judge[CaseT, FoundT]], cases: Sequence[CaseT], jobs: int, minutes: float | None, piece: int
) -> Iterator[FoundT]:
    """What comes of the cases, in their order, as far as the time reaches; a process takes ``piece`` at a time."""
    deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    if jobs < 1:
        yield from _judged(begin(), cases, deadline)
        return
    os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")  # caches of a volume are large, and hardly used here
    pieces = [cases[at : at + piece] for at in range(0, len(cases), piece)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, (begin, deadline)) as pool:
        for found in pool.map(_piece, pieces):
            yield from found


def _judged(judge: Judge[CaseT, FoundT], cases: Sequence[CaseT], deadline: float) -> Iterator[FoundT]:
    for case in cases:
        if time.monotonic() > deadline:
            return
        yield judge(case)


_here: list[tuple[Judge[Any, Any], float]] = []


def _begin(begin: Callable[[], Judge[Any, Any]], deadline: float) -> None:
    quiet()
    _here.append((begin(), deadline))


def _piece(cases: Sequence[Any]) -> list[Any]:
    return list(_judged(_here[0][0], cases, _here[0][1]))
