"""A primary and its sync mirror under load, while processes are killed and paused, strangers stand at the mirror's
address, the mirror is replaced by order, and the mirror takes over from a primary that is paused and goes on.

Whatever happens, nothing that was answered is lost, nothing is answered that the mirror does not have, and every
snapshot is there and holds what it held, also behind a failover.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.proof.conftest import Tallied
from tests.support.load import Load, content
from tests.support.mirrors import Node, promote, revolume, until
from tests.support.sectors import SECTOR, Book
from tests.support.servers import revolume_only
from tests.support.tally import SEED, Tally, rounds
from tests.support.wire import Wire

pytestmark = revolume_only
MiB = 1 << 20
SIZE = 8 * MiB
ROUNDS = rounds(100, 2)
LIFE = 8
"""Rounds of one volume: each snapshot holds the log behind it."""
BLOWS = (
    "paused-primary", "stranger", "takeover", "mirror", "replaced", "paused-mirror", "primary", "takeover", "both",
)  # fmt: skip
OPTIONS = ("--segment-size", "1M", "--budget", "3GiB", "--spare", "4M", "--cp-interval", "300ms")


class Members:
    """The nodes of one volume. A promotion makes the mirror the primary, and a new mirror is made for it."""

    def __init__(self, folder: Path, chance: random.Random, counted: Tally) -> None:
        self.folder, self.chance, self.counted = folder, chance, counted
        self.book = Book(0, SIZE // SECTOR)
        self.snapshots: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.made = 0
        self.mirror = self._new_mirror()
        self.primary = self._serve(folder / "vol", "--size", str(SIZE), *self._to())
        self.primary.until_joined()

    # Processes

    def _serve(self, directory: Path, *words: str) -> Node:
        node = Node(directory, *words, *OPTIONS)
        self.nodes.append(node)
        return node

    def _new_mirror(self) -> Node:
        self.made += 1
        return self._listen(self.folder / f"m{self.made}")

    def _listen(self, directory: Path) -> Node:
        return self._serve(directory, "--mirror-listen", f"unix:{self.folder}/link{self.made}")

    def _to(self) -> tuple[str, str]:
        return "--mirror-to", f"unix:{self.folder}/link{self.made},name=m{self.made}"

    def kill(self, node: Node) -> None:
        node.kill()
        self.counted.add(kills=1)

    def start_primary(self) -> None:
        self.primary = self._serve(self.primary.directory, *self._to())

    def start_mirror(self) -> None:
        self.mirror = self._listen(self.mirror.directory)

    def pause(self, node: Node, seconds: float) -> None:
        node.freeze()
        time.sleep(seconds)
        node.thaw()
        self.counted.add(pauses=1)

    # Blows: each leaves both sides running

    def round(self, number: int, blow: str) -> None:
        load = Load(self.primary.uri(), self.book, number)
        time.sleep(self.chance.uniform(0.1, 0.6))
        getattr(self, "_" + blow.replace("-", "_"))()
        load.end(flushed=False)
        self.counted.add(answered_requests=load.answered, answered_flushes=load.flushes)

    def _primary(self) -> None:
        self.kill(self.primary)
        self.start_primary()

    def _mirror(self) -> None:
        self.kill(self.mirror)
        time.sleep(self.chance.uniform(0, 0.4))
        self.start_mirror()

    def _both(self) -> None:
        for node in self.chance.sample([self.primary, self.mirror], 2):
            self.kill(node)
        self.start_mirror()
        self.start_primary()

    def _paused_primary(self) -> None:
        self.pause(self.primary, self.chance.uniform(0.2, 1.0))

    def _paused_mirror(self) -> None:
        self.pause(self.mirror, self.chance.uniform(0.2, 1.0))

    def _stranger(self) -> None:
        """An empty directory at the mirror's address; what waits for the mirror must go on waiting."""
        self.kill(self.mirror)
        stranger = self._listen(self.folder / f"stranger{len(self.nodes)}")
        self._until_refused()
        self.kill(stranger)
        self.start_mirror()
        self.counted.add(strangers=1)

    def _until_refused(self) -> None:
        def refused() -> bool:
            with self.primary.control as control:
                mirror = control.status()["mirrors"][0]
            assert mirror["required"] and mirror["joined"]
            return mirror["state"] == "refused"

        until("the stranger is refused", refused)

    def _replaced(self) -> None:
        """The mirror's disk is gone for good: by order a new copy becomes the mirror."""
        self.kill(self.mirror)
        shutil.rmtree(self.mirror.directory)
        revolume("mirror", "replace", self.primary.directory, f"m{self.made}", "--yes")
        self.start_mirror()
        self.primary.until_joined()
        self.counted.add(replaced_mirrors=1)

    def _takeover(self) -> None:
        """The primary is paused, its mirror promoted; the old one goes on, and must answer nothing: at the address
        that it knows it meets the promoted copy, which goes on listening, or an empty mirror."""
        old, new = self.primary, self.mirror
        old.freeze()
        self.kill(new)  # instead of waiting until it takes its source as lost
        met = self._promoted_in_place(new) if self.chance.random() < 0.5 else self._promoted_elsewhere(new)
        new = met[0]
        old.thaw()
        time.sleep(self.chance.uniform(0.2, 1.2))
        self.kill(old)
        for stranger in met[1:]:
            self.kill(stranger)
        shutil.rmtree(old.directory)
        self.judge(new, "the promoted mirror")
        new.stop()
        self.mirror = self._new_mirror()
        self.primary = self._serve(new.directory, *self._to())
        self.primary.until_joined()
        self.counted.add(promotions=1, pauses=1)

    def _promoted_in_place(self, mirror: Node) -> list[Node]:
        new = self._listen(mirror.directory)
        promote(new.directory)
        return [new]

    def _promoted_elsewhere(self, mirror: Node) -> list[Node]:
        """And an empty mirror at the address that it had."""
        listen = f"unix:{self.folder}/promoted{self.made}"
        new = self._serve(mirror.directory, "--mirror-listen", listen)
        promote(new.directory)
        return [new, self._listen(self.folder / f"stranger{len(self.nodes)}")]

    # Afterwards

    def judge(self, node: Node, what: str) -> None:
        problems = self.book.problems(content(node.uri(), self.book))
        told = "\n".join(problems[:20])
        assert not problems, f"{what}: {len(problems)} sectors\n{told}"
        for name, held in self.snapshots.items():
            assert digest(node, f"vol@{name}") == held, f"{what}: snapshot {name}"
        self.counted.add(snapshots_looked_at=len(self.snapshots))

    def name_this_moment(self, name: str) -> None:
        revolume("snapshot", self.primary.directory, name)
        self.snapshots[name] = digest(self.primary, f"vol@{name}")

    def close(self) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                node.thaw()
                node.kill()

    def said(self) -> str:
        logs = {node.log: None for node in self.nodes}
        return "\n".join(f"--- {log.name}\n{log.read_text()[-6000:]}" for log in logs)


def digest(node: Node, export: str) -> str:
    with Wire(node.uri(export)) as wire:
        return hashlib.sha256(b"".join(wire.pieces(start=0, end=SIZE))).hexdigest()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(180 + 30 * ROUNDS)
def test_members_come_and_go_and_nothing_answered_is_lost(folder: Path, tally: Tallied) -> None:
    counted = tally("real-members", "Kills, pauses, promotions, strangers and replaced mirrors under load", 57)
    chance = random.Random(f"{SEED}-members")
    number = 0
    while number < ROUNDS:
        place = folder / f"{number}"
        place.mkdir()
        members = Members(place, chance, counted)
        try:
            for _ in range(min(LIFE, ROUNDS - number)):
                number += 1
                blow = BLOWS[(number + SEED) % len(BLOWS)]
                members.round(number, blow)
                members.judge(members.primary, f"round {number}, {blow}")
                members.name_this_moment(f"round-{number}")
                members.primary.until_agreed()
                counted.round(number, ROUNDS, blow)
            members.primary.stop()
            members.mirror.stop()
            for node in (members.primary, members.mirror):
                revolume("check", node.directory)
        except BaseException:
            print(members.said())
            raise
        finally:
            members.close()
        with contextlib.suppress(OSError):
            shutil.rmtree(place)
