"""A new mirror's base over a link that breaks again and again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pairs import MiB, Pair, Weather
from tests.support.wire import Wire

BASE_BYTES = 24 * MiB


@pytest.fixture
def pair(folder: Path) -> Iterator[Pair]:
    made = Pair(folder, size=BASE_BYTES)
    yield made
    made.close()


def cut_every(pair: Pair, seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds):
        pair.cable.cut()
        pair.cable.mend()


def test_a_link_that_breaks_again_and_again_brings_a_base_up(pair: Pair) -> None:
    """What has arrived is not sent again, although no link lives as long as a stretch of the base takes."""
    pair.cable.weather = Weather(piece=1 << 16, pause_s=0.007)
    pair.primary.start()
    with Wire(pair.primary.uri()) as wire:
        for at in range(0, BASE_BYTES, MiB):
            wire.pwrite(at, os.urandom(MiB))
    over = threading.Event()
    cutting = threading.Thread(target=cut_every, args=(pair, 1.5, over))
    cutting.start()
    try:
        pair.mirror.start()
        began = time.monotonic()
        pair.until_joined(90)
    finally:
        over.set()
        cutting.join()
    print(f"{time.monotonic() - began:.1f} s, {pair.state()['base_bytes'] / MiB:.1f} MiB of base sent")
    assert pair.state()["base_bytes"] < 1.3 * BASE_BYTES
