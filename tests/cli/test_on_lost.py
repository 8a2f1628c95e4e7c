"""A sync mirror that is lost under ``--on-lost detach``: writes go on, nothing that was answered is lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from revolume.api.client import connect
from revolume.errors import RevolumeError
from tests.support.detaching import (
    DEADLINE_S,
    LEASE_S,
    Client,
    detaching_pair,
    everything,
    source,
    started,
    until_leased,
)
from tests.support.mirrors import promote, read, refused, revolume
from tests.support.pairs import Pair
from tests.support.tally import rounds

STALL_S_MAX = DEADLINE_S + LEASE_S + 3.0
Lose = Callable[[Pair], Callable[[], None]]
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def both(folder: Path) -> Iterator[Pair]:
    made = detaching_pair(folder)
    try:
        yield started(made)
    finally:
        for server in (made.primary, made.mirror):
            with contextlib.suppress(ProcessLookupError, AttributeError):
                _signal(server, signal.SIGCONT)
        made.close()


def _signal(server: Any, number: int) -> None:
    os.kill(server.process.pid, number)


def _killed(both: Pair) -> Callable[[], None]:
    both.mirror.kill()
    return lambda: both.mirror.start()


def _stopped(both: Pair) -> Callable[[], None]:
    _signal(both.mirror, signal.SIGSTOP)
    return lambda: _signal(both.mirror, signal.SIGCONT)


def _swallowed(both: Pair) -> Callable[[], None]:
    both.cable.whole = False
    both.cable.swallow()
    return both.cable.mend


def events(both: Pair, kind: str) -> list[str]:
    return [event["message"] for event in both.status(both.primary)["events"] if event["kind"] == kind]


@pytest.mark.parametrize("lose", [_killed, _stopped, _swallowed])
def test_writes_go_on_and_the_mirror_is_required_again(both: Pair, lose: Lose) -> None:
    client = Client(both.primary.uri())
    time.sleep(1.0)
    bring_back = lose(both)
    both.wait("it is detached", lambda: both.state()["detached_ns"] and not both.state()["required"], STALL_S_MAX)
    before = client.newest
    both.wait("writes go on", lambda: client.newest > before + 20)
    assert client.pause_s < STALL_S_MAX
    assert both.state()["lease_seconds"] == 0.0
    assert len(events(both, "mirror-detached")) == 1
    shown = revolume("status", both.primary.directory).stdout
    assert "detached by deadline" in shown and "required again once it is level" in shown

    bring_back()
    both.wait("it is required again", lambda: both.state()["required"] and not both.state()["detached_ns"])
    assert len(events(both, "mirror-required")) == 1
    client.end()
    both.until_equal()
    until_leased(both)
    assert client.lost(everything(both.primary.uri())) == [] == client.lost(everything(both.mirror.uri()))


@pytest.mark.parametrize(("lose", "code"), [(_stopped, "mirror-detached"), (_swallowed, "lease-ran-out")])
def test_killed_at_the_release_the_mirror_alone_is_not_promoted(both: Pair, lose: Lose, code: str) -> None:
    """A stopped one finds what its source had sent it meanwhile; the other one knows nothing."""
    client = Client(both.primary.uri())
    time.sleep(1.0)
    bring_back = lose(both)
    both.wait("answers wait", lambda: time.monotonic() - client.last > 1.0)
    before, sent = client.newest, both.state()["log_bytes"]
    both.wait("the first answer without the mirror", lambda: client.newest > before, STALL_S_MAX)
    if code == "mirror-detached":
        both.wait("that it is detached has been sent", lambda: both.state()["log_bytes"] > sent)
    both.primary.kill()
    left = both.status(both.primary)["mirrors"][0]
    assert left["detached_ns"] and not left["required"], "durable before the first answer"
    bring_back()
    both.wait("its source is gone", lambda: not source(both)["connected"])
    error = refused("promote", both.mirror.directory)
    assert error["code"] == code and "may lack answered writes" in error["cause"]
    both.mirror.stop()
    assert refused("promote", both.mirror.directory)["code"] == code
    assert "may lack answered writes" in promote(both.mirror.directory, "--force").stderr


def test_an_answer_after_a_pause_of_the_primary_comes_after_the_detach(both: Pair) -> None:
    """While it is stopped the lease lapses. Nothing is answered before it has recorded that it goes on alone."""
    client = Client(both.primary.uri())
    time.sleep(1.0)
    both.cable.whole = False
    both.cable.swallow()
    both.wait("answers wait", lambda: time.monotonic() - client.last > 0.5)
    before = client.newest
    _signal(both.primary, signal.SIGSTOP)
    both.wait("the lease has run out", lambda: source(both)["lease_seconds"] == 0.0)
    time.sleep(DEADLINE_S)
    _signal(both.primary, signal.SIGCONT)
    resumed = time.monotonic()
    while client.newest == before:
        assert time.monotonic() < resumed + STALL_S_MAX
        time.sleep(0.001)
    answered_ns = client.first_after_ns(before)
    (told,) = [e for e in both.status(both.primary)["events"] if e["kind"] == "mirror-detached"]
    assert 0 < both.state()["detached_ns"] <= told["first_ns"] < answered_ns
    both.cable.mend()
    both.wait("it is required again", lambda: both.state()["required"])
    client.end()
    both.until_equal()
    assert client.lost(everything(both.mirror.uri())) == []


@pytest.mark.soak
@pytest.mark.parametrize("disturbed", [False, True])
def test_what_is_promoted_while_its_lease_holds_lacks_nothing(folder: Path, disturbed: bool) -> None:
    """The primary is killed at any moment; undisturbed the mirror is promoted every time."""
    promoted, times = 0, rounds(20, 3)
    for round_ in range(times):
        chance, at = random.Random(100 * disturbed + round_), folder / str(round_)
        at.mkdir()
        both = started(detaching_pair(at, 3.0 if disturbed else 6.0))
        try:
            promoted += _killed_and_promoted(both, chance, disturbed)
        finally:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                _signal(both.mirror, signal.SIGCONT)
            both.close()
    assert promoted == times or disturbed


def _nothing() -> None:
    """It was not disturbed."""


def _killed_and_promoted(both: Pair, chance: random.Random, disturbed: bool) -> bool:
    """Whether it could be promoted without force."""
    client = Client(both.primary.uri())
    time.sleep(chance.uniform(0.1, 1.0))
    bring_back = _nothing
    if disturbed:
        bring_back = chance.choice([_stopped, _swallowed])(both)
        time.sleep(chance.uniform(0.0, 5.0))
        if chance.random() < 0.5:
            bring_back()
            time.sleep(chance.uniform(0.0, 0.5))
    both.primary.kill()
    bring_back()
    client.join(30)
    if not disturbed:
        both.wait("its source is gone", lambda: not source(both)["connected"], LEASE_S)
    there = connect(str(both.mirror.directory))
    assert there is not None
    with there:
        try:
            told = there.promote()
        except RevolumeError as error:
            assert error.code in ("lease-ran-out", "mirror-detached", "source-alive"), error
            return False
    assert "in-sync lease holds" in told["proof"]
    assert client.lost(read(both.mirror.uri())) == []
    return True


def test_a_primary_whose_mirror_was_promoted_does_not_detach_it(both: Pair) -> None:
    """It was paused, and goes on after somebody promoted the mirror: it is the one that is alone."""
    client = Client(both.primary.uri())
    time.sleep(1.0)
    _signal(both.primary, signal.SIGSTOP)
    both.wait("nothing is heard of it", lambda: source(both)["lease_seconds"] == 0.0)
    both.wait("it is promoted", lambda: _promoted(both))
    before = client.newest
    _signal(both.primary, signal.SIGCONT)
    both.wait("it says why", lambda: any("another node may have" in each for each in events(both, "trouble")))
    time.sleep(LEASE_S + 1.0)
    assert client.newest <= before + 1, "the answer that was on its way when it was paused"
    assert not both.state()["detached_ns"]


def _promoted(both: Pair) -> bool:
    there = connect(str(both.mirror.directory))
    assert there is not None
    with there:
        try:
            there.promote(yes=True)
        except RevolumeError as error:
            assert error.code == "source-alive", error
            return False
    return True
