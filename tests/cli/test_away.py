"""A required mirror that is away: what waits for it says so, and a stop does not wait at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_members import PRIMARY, Place, Waiting
from tests.support.mirrors import MiB, Node, refused, told, until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    made = Place(folder)
    yield made
    made.close()


def waiting_for_a_lost_mirror(place: Place) -> tuple[Node, Node]:
    primary, mirror = place.pair()
    mirror.kill()
    Waiting(primary.uri(), MiB, b"waits" * 400)
    until("a write waits", lambda: primary.mirror["waits"])
    return primary, mirror


def test_a_stop_with_a_required_mirror_away_is_quick_and_clean(place: Place) -> None:
    primary, _ = waiting_for_a_lost_mirror(place)
    began = time.monotonic()
    primary.stop()
    assert time.monotonic() - began < 5.0
    assert told("status", primary.directory)["state"] == "stopped"
    assert "did not finish in time" in primary.log.read_text()
    place.mirror()
    again = place.serve("p", *PRIMARY, "--mirror-to", f"{place.link},name=m")
    again.until_agreed()


def test_growing_says_that_it_has_happened_and_for_whom_it_waits(place: Place) -> None:
    primary, mirror = place.pair()
    mirror.kill()
    error = refused("grow", primary.directory, "16M", status=6)
    assert error["code"] == "grown-unconfirmed"
    assert f"has {16 * MiB} bytes now" in error["cause"] and "mirror m" in error["cause"]
    assert primary.status["size"] == 16 * MiB
    place.mirror()
    until("it is back", lambda: primary.mirror["state"] == "in sync")
    assert told("grow", primary.directory, "16M") == {"size": 16 * MiB}
