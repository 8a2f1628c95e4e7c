"""The short story of a mirror on every kind of link and in both modes, with real processes: written, cut, mended,
equal, promoted.
"""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.pairs import Pair, pair
from tests.support.servers import Server, revolume
from tests.support.wire import Wire, digest

MiB = 1 << 20
SIZE = 16 * MiB
BLOCK = 4096
SECRET = b"nobody on the wire may read this" * 128


def points(server: Server) -> dict[int, dict[str, Any]]:
    """By their numbers, with all that is known of each."""
    told = json.loads(revolume("points", server.directory, "--json"))["points"]
    return {point["number"]: point for point in told}


def scribble(wire: Wire, seed: int, count: int = 60) -> None:
    """Whole blocks, parts, zeroes and trims; some are flushed."""
    chance = random.Random(seed)
    for _ in range(count):
        at, length = chance.randrange(SIZE - 64 * 1024), chance.randrange(1, 64 * 1024)
        what = chance.random()
        if what < 0.8:
            wire.pwrite(at, chance.randbytes(length))
        elif what < 0.9:
            wire.zero(at, length)
        else:
            wire.trim(at, length)
        if what < 0.1:
            wire.flush()


KINDS = [("sync", True), ("async", False)]
if os.environ.get("REVOLUME_SOAK"):
    KINDS += [("sync", False), ("async", True)]


@pytest.mark.soak
@pytest.mark.parametrize(("mode", "encrypted"), KINDS)
def test_written_cut_mended_equal_promoted(folder: Path, pki: Path, mode: str, encrypted: bool) -> None:
    with pair(folder, size=SIZE, mode=mode, pki=pki if encrypted else None) as both:
        with Wire(both.primary.uri()) as wire:
            wire.pwrite(0, SECRET)
            scribble(wire, 1)
            both.until_equal()
            assert (SECRET in both.cable.spoken) is not encrypted
            cut(both, wire, mode)
            scribble(wire, 2)
        both.until_equal()
        here, there = points(both.primary), points(both.mirror)
        assert max(here) == max(there) and len(there) > 1
        assert all(here[number] == there[number] for number in there), "the roots, and all else that a point says"
        content = digest(both.primary.uri())
        assert digest(both.mirror.uri("vol")) == content
        assert both.state()["state"] == "in sync" and both.state()["lost_seconds"] == 0

        both.lose_primary()
        both.promote()
        assert digest(both.mirror.uri("vol")) == content
        with Wire(both.mirror.uri("vol")) as wire:
            scribble(wire, 3)
        before = points(both.mirror)
        assert before.keys() >= there.keys()
        assert both.mirror.stop() == 0
        after = points(both.mirror)
        assert all(after[number] == before[number] for number in before), "read from the log again"
        revolume("check", both.mirror.directory)


def cut(both: Pair, wire: Wire, mode: str) -> None:
    """What is answered meanwhile, and what status says; then it is mended."""
    both.cable.cut()
    both.wait("the loss is noticed", lambda: both.state()["state"] == "connecting")
    said = both.state()
    assert said["reason"] and said["joined"] and said["lost_seconds"] > 0
    answered = threading.Event()

    def one_write() -> None:
        wire.pwrite(BLOCK, b"while it was cut" * 256)
        answered.set()

    thread = threading.Thread(target=one_write)
    thread.start()
    assert answered.wait(60 if mode == "async" else 2) is (mode == "async")
    if mode == "sync":
        both.wait("status says what waits", lambda: both.state()["waits"])
    else:
        assert not both.state()["waits"] and both.state()["lag_seconds"] > 0
    both.cable.mend()
    thread.join(30)
    assert answered.is_set()


def test_a_link_that_asks_for_certificates_lets_nobody_else_in(folder: Path, pki: Path, tmp_path: Path) -> None:
    """A plain source, and one whose certificate another authority signed."""
    from tests.support.pki import make_pki

    strange = make_pki(tmp_path / "pki")
    with pair(folder, size=SIZE, pki=pki) as both:
        both.primary.kill()
        for number, options in enumerate(((), ("--tls-dir", str(strange)))):
            place = folder / f"q{number}"
            place.mkdir()
            to = both.to.replace(",mode=sync", ",mode=async")
            other = Server(place, SIZE, options=(*options, "--mirror-to", to))
            other.start()
            try:

                def reason(other: Server = other) -> str:
                    return str(both.status(other)["mirrors"][0]["reason"])

                both.wait("it is turned away", lambda: "Connecting to" not in reason())
                print(reason())
                assert not both.status(other)["mirrors"][0]["joined"]
            finally:
                other.kill()
        source = both.status(both.mirror)["source"]
        assert not source["connected"] and source["promotable"]
        both.mirror.until_said("could not be secured")
