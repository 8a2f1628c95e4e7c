"""kill -9 at random, under load with flushes: nothing answered is missing, nothing remembered changes.

Two writers of our own (whose sectors say what they are) share the volume with fio; the server is killed
without warning, checked offline, started again, and read. A kill leaves the page cache standing, so not
only every *flushed* write must be there but every *answered* one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.programs import SYSTEM_PATH, need
from tests.support.sectors import SECTOR, Book, Writer, make_sectors
from tests.support.servers import KIND, Serve, Server, revolume
from tests.support.wire import Wire, WireError, digest

MiB = 1 << 20
SIZE = 64 * MiB
OURS = 32 * MiB // SECTOR  # sectors of ours; fio has the other half
ROUNDS = 50 if os.environ.get("REVOLUME_SOAK") else 6
SEED = int(os.environ.get("REVOLUME_SEED", "0")) or random.randrange(1 << 20)


@contextlib.contextmanager
def fio_load(uri: str) -> Iterator[None]:
    command = ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bsrange=512-16k",
               "--blocksize_unaligned=1", "--norandommap=1", "--iodepth=8", "--offset=32m", "--size=32m",
               "--fsync=32", "--time_based", "--runtime=60", "--thread"]  # fmt: skip
    quiet = subprocess.DEVNULL
    load = subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, "PATH": SYSTEM_PATH})
    try:
        yield
    finally:
        load.kill()
        load.wait()


class Moments:
    """What was seen at each moment, when it was first looked at."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.seen: dict[str, str] = {}

    def remember(self, number: int) -> None:
        name = f"round-{number}"
        revolume("snapshot", self.server.directory, name)
        self.seen[name] = digest(self.server.uri(f"vol@{name}"))
        newest = self._points()[-1]
        for moment in (f"cp{newest['number']}", f"w{newest['write']}"):
            self.seen.setdefault(moment, digest(self.server.uri(f"vol@{moment}")))

    def _points(self) -> list[dict[str, Any]]:
        told = json.loads(revolume("points", self.server.directory, "--json"))
        return told["points"] if isinstance(told, dict) else told

    def changed(self, chance: random.Random) -> list[str]:
        names = list(self.seen)
        some = names[-3:] + chance.sample(names, min(3, len(names)))
        told = []
        for name in dict.fromkeys(some):
            try:
                if digest(self.server.uri(f"vol@{name}")) != self.seen[name]:
                    told.append(f"{name} has changed")
            except (WireError, OSError) as error:
                told.append(f"{name} cannot be read: {error}")
        return told


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(60 + 30 * ROUNDS)
def test_kill_9_under_load_loses_nothing(serve: Serve) -> None:
    print(f"REVOLUME_SEED={SEED}")
    need("fio")
    chance = random.Random(SEED)
    options = ("--cp-interval", "1s") if KIND == "revolume" else ()
    server: Server = serve("unix", size=SIZE, options=options, persistent=True)
    book = Book(0, OURS)
    moments = Moments(server)
    for number in range(1, ROUNDS + 1):
        parts = (range(OURS // 2), range(OURS // 2, OURS))
        writers = [Writer(server.uri(), book, part, lane, number) for lane, part in enumerate(parts)]
        with fio_load(server.uri()):
            for writer in writers:
                writer.start()
            time.sleep(chance.uniform(0.1, 1.5))
            if KIND == "revolume":
                moments.remember(number)
                time.sleep(chance.uniform(0.05, 1.0))
            server.kill()
            for writer in writers:
                writer.join(30)
                assert not writer.is_alive() and writer.error is None, writer.error
        assert all(writer.flushes for writer in writers), "the load never got going"

        if KIND == "revolume":
            revolume("check", server.directory)
        server.start()
        with Wire(server.uri()) as wire:
            problems = book.problems(b"".join(wire.pieces(end=OURS * SECTOR)))
        assert not problems, f"round {number}: {len(problems)} sectors\n" + "\n".join(problems[:20])
        if KIND == "revolume":
            changed = moments.changed(chance)
            assert not changed, f"round {number}: {changed}"

    assert server.stop() == 0
    if KIND == "revolume":
        revolume("check", server.directory)
    server.start()
    with Wire(server.uri()) as wire:
        assert not book.problems(b"".join(wire.pieces(end=OURS * SECTOR))), "after a clean stop"


def test_the_judge_sees_what_it_must() -> None:
    """Lost, stale, torn and misplaced writes each show; the unanswered one may be there or not."""
    book = Book(100, 8)
    book.answered[:] = 7
    book.durable[:4] = 7
    book.unanswered[5], book.pending[5] = True, 9
    good = make_sectors(100, np.full(8, 7, np.uint64))

    def told(**changes: np.ndarray) -> int:  # type: ignore[type-arg]
        data = good.copy()
        for place, sector in changes.items():
            data[int(place[1:])] = sector
        fresh = Book(100, 8)
        fresh.answered[:], fresh.durable[:] = book.answered, book.durable
        fresh.unanswered[:], fresh.pending[:] = book.unanswered, book.pending
        return len(fresh.problems(data.tobytes()))

    def one(address: int, number: int) -> np.ndarray:  # type: ignore[type-arg]
        return make_sectors(address, np.array([number], np.uint64))[0]

    torn = good[3].copy()
    torn[40:] = 0
    assert told() == 0
    assert told(s5=one(105, 9)) == 0, "the unanswered write arrived"
    assert told(s1=np.zeros(64, np.uint64)) == 1, "lost"
    assert told(s2=one(102, 6)) == 1, "stale"
    assert told(s3=torn) == 1, "torn"
    assert told(s4=one(105, 7)) == 1, "misplaced"
