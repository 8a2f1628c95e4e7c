"""Of three copies a detach by deadline counts once two have it on their disks; who is promoted asks the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.detaching import Client
from tests.support.mirrors import SMALL, MiB, Node, promote, refused, until

DEADLINE_S = 2.0
PRIMARY = ("--size", str(8 * MiB), "--cp-interval", "200ms", *SMALL, "--on-lost", "detach", "--deadline", "2s")
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def trio(folder: Path) -> Iterator[tuple[Node, Node, Node]]:
    one, two = (Node(folder / m, "--mirror-listen", f"unix:{folder}/{m}.link", *SMALL) for m in ("m1", "m2"))
    to = [word for m in ("m1", "m2") for word in ("--mirror-to", f"unix:{folder}/{m}.link,name={m}")]
    primary = Node(folder / "p", *PRIMARY, *to)
    try:
        until("both are told", lambda: all(m["lease_seconds"] > 0 for m in mirrors(primary)))
        yield primary, one, two
    finally:
        for node in (primary, one, two):
            print(f"--- {node.directory.name}\n{node.log.read_text()}")  # shown with a failing test
            if node.process.poll() is None:
                node.thaw()
                node.kill()


def mirrors(primary: Node) -> list[dict[str, Any]]:
    with primary.control as control:
        return list(control.status()["mirrors"])


def until_detached(primary: Node) -> None:
    """One at least: the other may have acknowledged all that answers wait for before it was frozen."""
    until("one is detached", lambda: any(m["detached_ns"] for m in mirrors(primary)))


def test_a_detach_counts_with_a_majority_which_a_promotion_asks(trio: tuple[Node, Node, Node]) -> None:
    primary, one, two = trio
    client = Client(primary.uri())
    one.freeze()
    until("answers go on without it", lambda: not mirrors(primary)[0]["required"])
    before = client.newest
    until("they do", lambda: client.newest > before + 10)
    primary.kill()
    one.thaw()
    until("its source is gone", lambda: not one.status["source"]["connected"])
    assert refused("promote", one.directory)["code"] == "mirror-detached"
    told = promote(two.directory).stderr
    assert "Nothing that was answered is lost" in told
    client.join(30)


def test_without_a_majority_answers_wait_and_nobody_is_promoted(trio: tuple[Node, Node, Node]) -> None:
    primary, one, two = trio
    client = Client(primary.uri())
    time.sleep(0.5)
    one.freeze()
    two.freeze()
    until_detached(primary)
    before = client.newest
    time.sleep(2 * DEADLINE_S)
    assert client.newest == before and all(m["required"] for m in mirrors(primary)), "it counts with nobody"
    primary.kill()
    one.thaw()
    until("its source is gone", lambda: not one.status["source"]["connected"])
    assert refused("promote", one.directory)["code"] in ("no-majority", "mirror-detached")
    client.join(30)


def test_one_that_comes_back_has_the_majority_with_the_primary(trio: tuple[Node, Node, Node]) -> None:
    primary, one, two = trio
    client = Client(primary.uri())
    one.freeze()
    two.freeze()
    until_detached(primary)
    before = client.newest
    two.thaw()
    until("answers go on with it", lambda: client.newest > before + 10)
    assert mirrors(primary)[1]["required"]
    one.thaw()
    until("both are required", lambda: all(m["required"] and not m["detached_ns"] for m in mirrors(primary)))
    client.end()
