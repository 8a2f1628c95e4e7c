"""Claims B: a mirror is compared with its primary while clients write, and put right where it differs. Real
processes, real clients; what differs is planted in the stopped mirror, content and digest together."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from revolume.api.client import connect
from tests.support.divergence import BLOCK, plant_in_image, plant_in_log
from tests.support.mirrors import until_source_is_missed
from tests.support.pairs import MiB, Pair
from tests.support.processes import run_revolume
from tests.support.programs import need
from tests.support.servers import REVOLUME, revolume
from tests.support.surgery import patched
from tests.support.wire import Wire, WireError

pytestmark = pytest.mark.timeout(240)
SIZE = 48 * MiB
SMALL = ("--segment-size", "1MiB", "--spare", "4MiB", "--cp-interval", "300ms")


class Verified:
    """How a verification ended."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status = done.returncode
        self.said = done.stdout + done.stderr
        found = json.loads(done.stdout) if done.stdout.startswith("{") else {}
        self.mirror: dict[str, Any] = found.get("result", {}).get("mirrors", {}).get("m", {})


class Compared:
    """A pair whose mirror has the first half of the volume in its image, with a model of what was written."""

    def __init__(
        self, folder: Path, *, size: int = SIZE, mode: str = "async", seed: int = 1, model: bool = True,
        budget: str = "256MiB",
    ) -> None:  # fmt: skip
        options = (*SMALL, "--budget", budget)
        self.pair = Pair(folder, size=size, mode=mode, options=options, mirror_options=options)
        self.model = bytearray(size if model else 0)
        self.chance = random.Random(seed)

    def start(self, filled: int = 24) -> Compared:
        """``filled``: MiB."""
        pair = self.pair
        pair.primary.start()
        with self.client() as wire:
            for at in range(0, filled * MiB, MiB):
                self.put(wire, at, self.chance.randbytes(MiB))
        pair.mirror.start()
        pair.until_joined()
        pair.until_equal()
        return self

    def client(self) -> Wire:
        return Wire(self.pair.primary.uri())

    def put(self, wire: Wire, offset: int, data: bytes) -> None:
        wire.pwrite(offset, data)
        if self.model:
            self.model[offset : offset + len(data)] = data

    def plant(self, *blocks: int, in_log: bool = False) -> None:
        """These blocks of the mirror are another content from now on, and nobody there can tell."""
        self.pair.until_equal()
        self.pair.mirror.stop()
        contents = {block: self.chance.randbytes(BLOCK) for block in blocks}
        (plant_in_log if in_log else plant_in_image)(self.pair.mirror.directory, contents)
        self.pair.mirror.start()
        self.pair.wait("the mirror is back", lambda: self.pair.state()["state"] == "in sync")

    def verify(self, *words: str) -> Verified:
        done = run_revolume(["verify", str(self.pair.primary.directory), *words, "--json"], {}, 200)
        print(done.stdout, done.stderr)
        return Verified(done)

    def stage(self) -> str:
        """What the verification does now."""
        client = connect(str(self.pair.primary.directory))
        assert client is not None
        with client:
            return "".join(job["stage"] for job in client.jobs() if not job["ended_ns"])

    def differs(self, export: str = "") -> list[int]:
        """Blocks in which the mirror is not what was written."""
        with Wire(self.pair.mirror.uri(export)) as wire:
            found = b"".join(wire.pieces(start=0, end=len(self.model)))
        return [at for at in range(0, len(found), BLOCK) if found[at : at + BLOCK] != self.model[at : at + BLOCK]]

    def close(self) -> None:
        self.pair.close()


def said(*words: object) -> str:
    """By a verb, whatever came of it."""
    done = run_revolume([str(word) for word in words], {}, 60)
    return done.stdout + done.stderr


@pytest.fixture
def compared(folder: Path) -> Iterator[Compared]:
    made = Compared(folder)
    yield made
    made.close()


def test_b1_what_differs_is_found_and_put_right(compared: Compared) -> None:
    compared.start()
    compared.plant(7, 8, 5000)
    with compared.client() as wire:
        compared.put(wire, 30 * MiB, compared.chance.randbytes(MiB))
    compared.plant(100, in_log=True)
    assert compared.differs() == [each * BLOCK for each in (7, 8, 100, 5000)]
    found = compared.verify()
    assert found.status == 5, found.said
    assert (found.mirror["different"], found.mirror["repaired"], found.mirror["left"]) == (4, 4, 0)
    assert found.mirror["roots_equal"] is True
    compared.pair.until_equal()
    assert compared.differs() == []
    again = compared.verify()
    assert (again.status, again.mirror["different"], again.mirror["roots_equal"]) == (0, 0, True)


def test_b2_what_the_primary_never_wrote_reads_zero_at_the_mirror(compared: Compared) -> None:
    """The second half of the volume is empty; a stray block there is found, and gone for good."""
    compared.start()
    stray = 40 * MiB // BLOCK
    compared.plant(stray)
    assert compared.differs() == [stray * BLOCK]
    assert compared.verify("--quick").mirror["repaired"] == 1
    assert compared.differs() == []


def test_b11_history_before_the_repair_is_suspect(compared: Compared) -> None:
    """Marked before anything is put right, closed at the point that put it right."""
    compared.start()
    compared.plant(7)
    write = compared.pair.status(compared.pair.mirror)["write"]
    assert compared.differs(f"vol@w{write}") == [7 * BLOCK]  # nobody knows it yet
    assert compared.verify().status == 5
    compared.pair.mirror.until_said('"kind": "suspect"')
    with pytest.raises(WireError, match="is suspect in 1 block"):
        compared.differs(f"vol@w{write}")
    assert compared.differs(f"vol@w{write},suspect") == [7 * BLOCK]
    assert compared.differs() == []


SLOW_COPY = """
    import asyncio
    from revolume.resync.copier import Copier
    copy = Copier.copy
    async def slow(self, blocks):
        done = await copy(self, blocks)
        await asyncio.sleep(3)
        return done
    Copier.copy = slow
"""
"""Time for clients between reading a batch and the cut at which it is inserted."""
NO_SUBTRACTION = """
    import revolume.resync.verification as verification
    verification.revise = lambda compared, scan: compared
"""
NOBODY_WINS = """
    import revolume.resync.cuts as cuts
    cuts.losers = lambda batch, host: batch[:0]
"""


class Load:
    """fio, 32 writes at a time, at random blocks of [offset, offset + size)."""

    def __init__(self, compared: Compared, offset: int, size: int, seconds: int = 60) -> None:
        need("fio")
        self.process = subprocess.Popen(
            [
                "fio", "--name=load", "--ioengine=nbd", f"--uri={compared.pair.primary.uri()}", "--rw=randwrite",
                "--bs=4k", f"--offset={offset}", f"--size={size}", "--iodepth=32", "--time_based",
                f"--runtime={seconds}", "--rate_iops=3000", "--output-format=json",
            ],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=compared.pair.folder,
        )  # fmt: skip

    def __enter__(self) -> Load:
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=60)
        self.write = json.loads(said[said.index("{") : said.rindex("}") + 1])["jobs"][0]["write"]
        print(f"fio: {self.write['total_ios']} writes, longest {self.write['clat_ns']['max'] / 1e6:.0f} ms")
        assert self.write["total_ios"] > 1000


def equal(compared: Compared) -> bool:
    """The mirror is what the primary is, byte for byte."""
    compared.pair.until_equal()
    with Wire(compared.pair.primary.uri()) as one, Wire(compared.pair.mirror.uri()) as other:
        here, there = (b"".join(wire.pieces(start=0, end=len(compared.model))) for wire in (one, other))
    return here == there


def test_b3_b4_b7_nothing_that_clients_write_meanwhile_is_a_difference(compared: Compared) -> None:
    """The copy is compared as of the cut before the scan, the primary live: with 32 writes under way at a time."""
    compared.start()
    with Load(compared, 0, SIZE // 2):
        found = compared.verify()
    assert found.status == 0, found.said
    assert found.mirror["different"] == 0 and found.mirror["changed_meanwhile"] > 0
    assert equal(compared)


def test_b7_b8_without_the_subtraction_there_is_a_false_difference(folder: Path) -> None:
    """The step is taken out of the daemon."""
    compared = Compared(folder)
    compared.pair.primary.environment = patched(folder / "patch", NO_SUBTRACTION)
    try:
        compared.start()
        with Load(compared, 0, SIZE // 2):
            found = compared.verify("--no-repair")
        assert found.status == 1 and found.mirror["different"] > 0
    finally:
        compared.close()


def test_b9_only_what_the_revised_map_names_is_copied(compared: Compared) -> None:
    """Seven blocks differ; the link carries them, and not much else."""
    compared.start()
    compared.plant(1, 2, 3, 77, 78, 4000, 4001)
    before = compared.pair.cable.carried
    found = compared.verify("--quick")
    assert found.mirror["repaired"] == 7
    carried = compared.pair.cable.carried - before
    print(f"{carried} bytes carried for 7 blocks")
    assert 7 * BLOCK <= carried <= 7 * BLOCK + (48 << 10)
    assert compared.differs() == []


@pytest.mark.parametrize("served", [True, False])
def test_b11_who_promotes_a_copy_that_is_not_right_yet_is_told(folder: Path, served: bool) -> None:
    """The primary is lost for good before anything has been put right."""
    compared = Compared(folder)
    compared.pair.primary.environment = patched(folder / "patch", SLOW_COPY)
    try:
        compared.start()
        compared.plant(7, 8)
        command = [str(REVOLUME), "verify", str(compared.pair.primary.directory)]
        verb = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        compared.pair.wait("the marks are there", lambda: compared.stage().startswith("putting"))
        compared.pair.primary.kill()
        verb.communicate(timeout=60)
        if not served:
            compared.pair.mirror.stop()
        until_source_is_missed(compared.pair.mirror.directory)
        told = said("promote", compared.pair.mirror.directory)
        assert "In what it has now 2 blocks are suspect: it differed" in told
    finally:
        compared.close()


def test_b10_on_an_idle_volume_the_fixup_is_inserted_and_lasts(compared: Compared) -> None:
    """Kill -9 of the mirror, a promotion: the present has it, and the moments before have what they had."""
    compared.start()
    with compared.client() as wire:
        compared.put(wire, 30 * MiB, compared.chance.randbytes(MiB))
    compared.plant(9)
    write = compared.pair.status(compared.pair.mirror)["write"]
    assert compared.verify().mirror["repaired"] == 1
    assert compared.differs() == []
    assert compared.differs(f"vol@w{write},suspect") == [9 * BLOCK]
    compared.pair.mirror.kill()
    compared.pair.mirror.start()
    assert compared.differs() == []
    compared.pair.until_equal()
    compared.pair.primary.stop()
    compared.pair.promote()
    assert compared.differs() == []


def test_b10_fixups_are_folded_into_the_image(folder: Path) -> None:
    compared = Compared(folder, budget="32MiB")
    try:
        fixups_folded(compared)
    finally:
        compared.close()


def fixups_folded(compared: Compared) -> None:
    compared.start()
    compared.plant(9, 5000)
    assert compared.verify().mirror["repaired"] == 2
    with compared.client() as wire:
        for number in range(80):
            compared.put(wire, (24 + number % 16) * MiB, compared.chance.randbytes(MiB))
    compared.pair.until_equal()
    mirror = compared.pair.mirror
    compared.pair.wait("the fix-up is folded", lambda: compared.pair.status(mirror)["horizon_write"] > 60)
    assert compared.differs() == []
    mirror.stop()
    revolume("check", mirror.directory)


def test_b10_interrupted_it_goes_on_from_the_durable_map(folder: Path) -> None:
    """The primary is killed when the first batch is there and the second is being inserted."""
    compared = Compared(folder)
    compared.pair.primary.environment = patched(folder / "patch", SLOW_COPY)
    try:
        compared.start()
        planted = list(range(6000))
        compared.plant(*planted)
        command = [str(REVOLUME), "verify", str(compared.pair.primary.directory)]
        verb = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        compared.pair.wait("the first batch is there", lambda: 0 < len(compared.differs("vol@now,suspect")) < 6000)
        compared.pair.primary.kill()
        verb.communicate(timeout=60)
        assert verb.returncode != 0
        compared.pair.primary.start()
        compared.pair.wait("the mirror is back", lambda: compared.pair.state()["state"] == "in sync")
        listen = f"--mirror-listen=unix:{folder}/again"
        early = said("switchover", compared.pair.primary.directory, "--to", "m", listen)
        assert "mirror-differs" in early
        found = compared.verify()
        assert found.status == 5 and found.mirror["continued"]
        assert 0 < found.mirror["repaired"] < 6000
        assert found.mirror["read_there"] == 0  # nothing was compared again
        assert compared.differs() == []
        assert compared.verify().status == 0
    finally:
        compared.close()


def test_b1_equal_volumes_take_next_to_nothing_of_the_link(folder: Path) -> None:
    """Stored digests alone: at most 0.01 % of a volume of 2 GiB."""
    compared = Compared(folder, size=2 << 30, model=False)
    try:
        compared.start(filled=64)
        before = compared.pair.cable.carried
        found = compared.verify("--quick")
        carried = compared.pair.cable.carried - before
        print(f"{carried} bytes carried, {found.mirror['link_bytes']} counted, of {2 << 30}")
        assert found.status == 0 and found.mirror["roots_equal"]
        assert found.mirror["read_here"] == found.mirror["read_there"] == 0
        assert carried <= (2 << 30) // 10_000
    finally:
        compared.close()


def test_b4_clients_of_a_required_mirror_are_not_held_up(folder: Path) -> None:
    """32 writes at a time to a volume whose answers wait for the mirror, while that is compared and put right."""
    compared = Compared(folder, mode="sync")
    try:
        compared.start()
        compared.plant(*range(3000, 3400))
        with Load(compared, 24 * MiB, 16 * MiB) as load:
            found = compared.verify()
        assert found.status == 5 and found.mirror["repaired"] == 400
        assert load.write["clat_ns"]["max"] < 2e9
        assert equal(compared)
    finally:
        compared.close()


def test_refusals_say_what_is_wrong(compared: Compared) -> None:
    pair = compared.start().pair
    assert "no mirror" in compared.verify("--mirror", "nobody").said
    outside = compared.verify("--region", "47M+2M")
    assert outside.status == 4 and "50331648 bytes" in outside.said
    assert compared.verify("--region", "0").status == 2
    compared.pair.cable.cut()
    pair.wait("the loss is noticed", lambda: pair.state()["state"] == "connecting")
    away = compared.verify()
    assert away.status == 6 and "has not been reached for" in away.said


def test_b5_regions_alone_are_compared(compared: Compared) -> None:
    compared.start()
    compared.plant(7, 3000)
    found = compared.verify("--region", "0+4M", "--region", "20M+4K")
    assert (found.status, found.mirror["repaired"], found.mirror["compared"]) == (5, 1, 2048)
    assert found.mirror["read_here"] == found.mirror["read_there"] == 8 * MiB
    assert compared.differs() == [3000 * BLOCK]
    assert "only some regions" in compared.pair.state()["verified"]
    assert compared.verify().mirror["repaired"] == 1
    assert "1 blocks differed, 1 were put right" in compared.pair.state()["verified"]


def test_b10_a_copy_read_before_a_clients_write_loses_to_it(folder: Path) -> None:
    """The copier is slow; meanwhile clients write some of what it has read, wholly and in part."""
    compared = Compared(folder)
    compared.pair.primary.environment = patched(folder / "patch", SLOW_COPY)
    try:
        found = overwritten_meanwhile(compared)
        assert found.mirror["overwritten"] == 3
        assert equal(compared) and compared.differs() == []
    finally:
        compared.close()


def test_b10_without_the_merge_a_clients_write_is_lost_at_the_mirror(folder: Path) -> None:
    """The step is taken out of the daemon. The copy is proved not to be equal, and is verified once more."""
    compared = Compared(folder)
    compared.pair.primary.environment = patched(folder / "patch", SLOW_COPY, NOBODY_WINS)
    try:
        found = overwritten_meanwhile(compared)
        assert found.mirror["roots_equal"] is False and found.status == 1
    finally:
        compared.close()


def overwritten_meanwhile(compared: Compared) -> Verified:
    compared.start()
    compared.plant(10, 11, 12, 13)
    command = [str(REVOLUME), "verify", str(compared.pair.primary.directory), "--json"]
    verb = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    compared.pair.wait("the scan is over", lambda: compared.stage().startswith("putting"))
    time.sleep(0.5)  # the batch is read, and the copier waits
    with compared.client() as wire:
        compared.put(wire, 11 * BLOCK, compared.chance.randbytes(2 * BLOCK))
        compared.put(wire, 13 * BLOCK + 512, b"partly" * 100)
    out, err = verb.communicate(timeout=100)
    print(out, err)
    return Verified(subprocess.CompletedProcess(command, verb.returncode, out, err))


def test_b1_a_root_that_differs_is_verified_by_itself(compared: Compared) -> None:
    """Clients write what differs: the mirror finds it at the next point, and is compared without an order."""
    compared.start()
    compared.plant(20, 21)
    with compared.client() as wire:
        compared.put(wire, 20 * BLOCK, compared.chance.randbytes(BLOCK))
    pair = compared.pair
    pair.wait("it has been verified", lambda: "were put right" in pair.state()["verified"])
    pair.wait("nothing differs any more", lambda: not compared.differs("vol@now,suspect"))
    pair.wait("and it is said so", lambda: not pair.state()["differs_since"])
    assert equal(compared)


def test_b23_a_mirror_is_verified_by_itself_when_it_is_due(folder: Path) -> None:
    compared = Compared(folder)
    compared.pair.primary.options += ("--verify-period", "3s")
    try:
        compared.start()
        compared.plant(30)
        pair = compared.pair
        pair.wait("it has been put right", lambda: not compared.differs("vol@now,suspect"))
        pair.wait("it is said so", lambda: pair.state()["verified"].startswith(("1 blocks differed", "equal")))
    finally:
        compared.close()
