"""Claims A: after the link was lost, what the mirror had not acknowledged and what changed since is sent, and
nothing else. Real processes, real clients; a cable between the nodes is cut, mended and counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.outage import BLOCK, BUDGET, SIZE, SMALL, Outage, Writer
from tests.support.pairs import Cable, MiB, MirrorServer, Weather
from tests.support.servers import revolume
from tests.support.strace import need_strace
from tests.support.tally import rounds

pytestmark = pytest.mark.timeout(240)
CONTROL = 64 << 10
"""Greeting, facts, heartbeat, acknowledgements."""


@pytest.fixture
def outage(folder: Path) -> Iterator[Outage]:
    made = Outage(folder)
    yield made
    made.close()


def held_at_loss(outage: Outage) -> bytes:
    """What clients had written when the link was lost, some of which had not reached the mirror."""
    outage.start()
    outage.pair.cable.swallow()
    with outage.client() as wire:
        outage.put(wire, 20 * MiB, outage.chance.randbytes(2 * MiB))
    model = bytes(outage.model)
    outage.cut()
    return model


def test_a1_what_changed_while_the_link_was_lost_is_sent_and_nothing_else(outage: Outage) -> None:
    outage.start()
    outage.cut()
    model = bytes(outage.model)
    revolume("snapshot", outage.pair.primary.directory, "monday")
    outage.overwrite(3 * BUDGET, blocks=4 * MiB // BLOCK)
    outage.until_log_is_gone()
    outage.mend()
    outage.until_equal()
    assert outage.read("monday", outage.pair.mirror) == model  # named while it was away, and it stood there
    changed, carried = len(outage.changed) * BLOCK, outage.pair.cable.carried
    print(f"{changed} bytes changed, {carried} carried")
    assert outage.differs() == []
    assert [rules[-2:] for rules in outage.rules()] == [["difference", "log"]] * 2
    assert carried <= 1.02 * changed + CONTROL


def test_a1_what_was_not_acknowledged_goes_first_and_survives_a_kill(outage: Outage) -> None:
    """The log up to the moment of the loss, then what has changed since: both are kept through a kill -9."""
    held_at_loss(outage)
    outage.pair.primary.kill()
    outage.pair.primary.start()
    outage.overwrite(8 * MiB, blocks=2 * MiB // BLOCK, first=4 * MiB // BLOCK)
    outage.resync_when_back("--prefer", "bytes")
    outage.pair.cable.carried = 0
    outage.mend()
    outage.until_equal()
    carried = outage.pair.cable.carried
    print(f"2 MiB not acknowledged, 2 MiB changed since, {carried} carried")
    assert outage.differs() == []
    for rules in outage.rules():
        assert [rule for rule in rules if rule != "base"][-3:] == ["log-to-cut", "difference", "log"]
    assert carried <= 1.02 * 4 * MiB + 4 * CONTROL


def test_a2_the_mirror_is_an_up_to_date_copy(outage: Outage) -> None:
    """Sectors, zeroes and trims too; bytes are equal, and the volume root is proved at every point behind."""
    outage.start()
    outage.cut()
    with outage.client() as wire:
        for number in range(200):
            at = outage.chance.randrange(SIZE // 512 - 8) * 512
            outage.put(wire, at, outage.chance.randbytes(outage.chance.randrange(1, 8) * 512))
            if number % 20 == 0:
                outage.zero(wire, outage.chance.randrange(40) * MiB, MiB // 2 + 512)
    outage.overwrite(2 * BUDGET, blocks=3 * MiB // BLOCK, first=10 * MiB // BLOCK)
    outage.until_log_is_gone()
    outage.mend()
    outage.until_equal()
    assert outage.differs() == []
    with outage.client() as wire:
        outage.put(wire, 512, outage.chance.randbytes(5 * MiB + 512))
    outage.until_equal()
    assert outage.differs() == []
    assert "difference" in outage.rules()[0]
    for server in (outage.pair.primary, outage.pair.mirror):
        server.stop()
        revolume("check", server.directory)


def test_a3_a4_writes_are_held_for_a_moment_while_it_is_cut(outage: Outage) -> None:
    """With clients writing all the time: what was answered before the loss is in the snapshot, and how long writes
    were held is said."""
    outage.start()
    for number in range(5):
        with Writer(outage.pair.primary.uri(), seed=number) as writer:
            writer.wait_for(20)
            answered = writer.answered
            outage.cut()
            writer.wait_for(20)
        state = outage.pair.state()
        assert 0 < state["cut_hold_ns"] <= state["cut_hold_p99_ns"] < 1_000_000_000
        assert answered <= writer.state_in(outage, "lost:m") <= writer.answered
        outage.mend()
        outage.until_agreed()


def test_a5_the_snapshot_is_a_real_one_while_it_lives(outage: Outage) -> None:
    model = held_at_loss(outage)
    outage.overwrite(3 * BUDGET, blocks=6 * MiB // BLOCK)
    (listed,) = outage.snapshots()
    assert listed["name"] == "lost:m" and listed["holder"] == "mirror m"
    assert outage.read("lost:m") == model
    outage.pair.primary.kill()
    outage.pair.primary.start()
    assert outage.read("lost:m") == model
    outage.pair.cable.weather = Weather(piece=1 << 16, pause_s=0.05)
    outage.mend()
    outage.pair.wait("the difference is under way", lambda: outage.pair.state()["state"] == "difference")
    assert [each["name"] for each in outage.snapshots()] == ["lost:m"]
    assert outage.pair.state()["state"] == "difference"  # so that was not after it
    outage.pair.cable.weather = Weather()
    outage.until_equal()
    outage.pair.wait("the snapshot goes", lambda: not outage.snapshots())
    assert outage.differs() == []


def test_a6_the_volume_is_not_read(folder: Path) -> None:
    """1 TiB, sparse: what is read of it is at most what is sent."""
    need_strace()
    outage = Outage(folder, size=1 << 40, model=False)
    try:
        outage.pair.start()
        with outage.client() as wire:
            for number in range(64):
                wire.pwrite(number * (16 << 30) + 4096, outage.chance.randbytes(64 << 10))
        outage.pair.until_equal()
        outage.cut()
        with outage.client() as wire:
            for number in range(3 * BUDGET // MiB):
                wire.pwrite(number % 8 * (100 << 30), outage.chance.randbytes(MiB))
        outage.until_log_is_gone()
        outage.forget()
        began = time.monotonic()
        with outage.volume_reads(folder / "reads") as count:
            outage.mend()
            outage.until_equal()
            took = time.monotonic() - began
        carried, read = outage.pair.cable.carried, count()
        print(f"{carried} bytes sent, {read} of the volume read, {took:.1f} s")
        assert read <= 1.3 * carried
        assert 8 * MiB <= carried <= 1.02 * 8 * MiB + CONTROL
        assert outage.peak_rss_kib() < 300 << 10
    finally:
        outage.close()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(rounds(12, 1)))
def test_a7_the_link_breaks_again_in_every_step(folder: Path, seed: int) -> None:
    """In the middle of the log, of the difference, of the flip; the primary and the mirror are killed too."""
    outage = Outage(folder, seed=seed)
    try:
        held_at_loss(outage)
        outage.overwrite(2 * BUDGET, blocks=24 * MiB // BLOCK)
        outage.until_log_is_gone()
        outage.pair.cable.weather = Weather(piece=1 << 16, pause_s=0.002)
        for number in range(8):
            carried = outage.pair.cable.carried
            outage.mend()
            outage.carry(carried + outage.chance.randrange(200_000, 4 * MiB))
            outage.cut()
            victim = (None, outage.pair.mirror, outage.pair.primary, None)[number % 4]
            if victim is not None:
                victim.kill()
                victim.start()
            outage.overwrite(MiB, blocks=24 * MiB // BLOCK)
        outage.pair.cable.weather = Weather()
        outage.mend()
        outage.until_equal()
        assert outage.differs() == []
    finally:
        outage.close()


def test_a7_a_difference_goes_on_where_the_link_broke(outage: Outage) -> None:
    """What has arrived is not sent again, also where the primary was killed meanwhile."""
    outage.start()
    outage.cut()
    outage.overwrite(2 * BUDGET, blocks=12 * MiB // BLOCK)
    outage.until_log_is_gone()
    outage.pair.cable.weather = Weather(piece=1 << 16, pause_s=0.01)
    outage.pair.cable.carried = 0
    for number in range(3):
        carried = outage.pair.cable.carried
        outage.mend()
        outage.carry(carried + 3 * MiB)
        outage.cut()
        outage.overwrite(16 * BLOCK, blocks=12 * MiB // BLOCK)  # a later point than that to which it leads
        if number == 1:
            outage.pair.primary.kill()
            outage.pair.primary.start()
    outage.pair.cable.weather = Weather()
    outage.mend()
    outage.until_equal()
    print(f"{len(outage.changed) * BLOCK} bytes changed, {outage.pair.cable.carried} carried")
    assert outage.differs() == []
    assert outage.pair.cable.carried <= len(outage.changed) * BLOCK + 3 * MiB


def test_a7_two_mirrors_whose_links_break_at_different_times(folder: Path) -> None:
    """Each has a snapshot of its own, and is brought up to date by its own difference."""
    outage = Outage(folder)
    (folder / "m2").mkdir()
    second = MirrorServer(folder / "m2", SIZE, options=SMALL, persistent=True, listen=f"unix:{folder}/link2")
    cable = Cable(folder / "cable2", folder / "link2")
    try:
        second.start()
        outage.start()
        revolume("mirror", "add", outage.pair.primary.directory, "n", f"unix:{folder}/cable2", "--mode", "async")
        outage.until_all_agree()
        outage.cut()
        outage.overwrite(6 * MiB, blocks=8 * MiB // BLOCK)
        first = bytes(outage.model)
        cable.cut()
        outage.pair.wait("two are lost", lambda: len(outage.snapshots()) == 2)
        outage.overwrite(3 * BUDGET, blocks=8 * MiB // BLOCK, first=8 * MiB // BLOCK)
        assert outage.read("lost:n") == first != outage.read("lost:m")
        cable.mend()
        outage.mend()
        outage.until_all_agree()
        assert outage.differs() == outage.differs(server=second) == []
        assert outage.rules()[0].count("difference") == 2
        outage.pair.wait("the snapshots go", lambda: not outage.snapshots())
    finally:
        cable.close()
        if second.process is not None:
            second.kill()
        outage.close()


def test_an_order_that_comes_while_a_difference_is_sent_does_not_break_it(outage: Outage) -> None:
    outage.start()
    outage.cut()
    outage.overwrite(3 * BUDGET, blocks=12 * MiB // BLOCK)
    outage.until_log_is_gone()
    outage.pair.cable.weather = Weather(piece=1 << 16, pause_s=0.01)
    outage.mend()
    outage.pair.wait("it is under way", lambda: outage.pair.state()["state"] == "difference")
    (plan,) = outage.resync()
    assert plan["strategy"] == "difference" and plan["send_bytes"] >= 11 * MiB
    outage.until_equal()
    assert outage.differs() == []
    assert outage.rules()[0].count("difference") == 1
    assert outage.pair.state()["refusals"] == 0
