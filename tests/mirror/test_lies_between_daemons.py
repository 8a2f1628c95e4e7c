"""D2, D3, D4, D7, D8, D10, D13, D15 between two real processes, with a liar on the link between them.

What a record says is bent and everything around it made anew (``tests/support/relay.py``), or a frame comes
otherwise than it was sent. Whatever is told, the mirror never agrees to a state that is not its source's; once
the liar is honest again both are equal at the next point, byte by byte (unless the lie is in the mirror's log for
good: then it must be made anew). And each check that stands in a lie's way is taken out of a real daemon
(``tests/support/surgery.py``): then the same lie is seen to get through.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from revolume.api.client import ControlClient, connect
from revolume.mirror.wire.frames import FRAME, FRAME_SIZE
from revolume.mirror.wire.log_frame import COMPACT_SIZE
from tests.support.mirrors import until
from tests.support.pairs import MirrorServer
from tests.support.processes import run_revolume
from tests.support.relay import Lie, Record, Relay, honest
from tests.support.servers import Server, revolume
from tests.support.surgery import patched
from tests.support.wire import Wire, WireError

pytestmark = pytest.mark.timeout(120)
MiB = 1 << 20
BLOCK = 4096
SIZE = 4 * MiB
SMALL = ("--segment-size", "1MiB", "--budget", "64MiB", "--spare", "4MiB", "--cp-interval", "1h")
THERE = ("--segment-size", "2MiB", "--budget", "64MiB", "--spare", "4MiB")

IMPATIENT = """
    import revolume.mirror.source.mirror_source as source
    source.BACKOFF_SECONDS, source.REFUSED_SECONDS = (0.05,), 0.2
"""
"""Many lies have to fit into a minute; how long a source waits before it tries again is not what is shown here."""
UNCOMPARED = """
    from revolume.node.verify_orders import VerifyJobs
    VerifyJobs._begin = lambda self, name: None
"""
"""What was found is looked at before a comparison ends it (``cli/test_claims_b`` has those that begin)."""


@dataclass
class Far:
    """A mirror, and the liar before it."""

    name: str
    relay: Relay
    server: MirrorServer
    control: ControlClient | None = None

    def refusal(self) -> str:
        """Why it refuses a point, in its own words; "" if it doesn't."""
        if self.control is None:
            self.control = connect(str(self.server.directory))
            assert self.control is not None
        return str(self.control.status()["source"]["failure"])

    def start(self) -> None:
        self.server.start()

    def kill(self) -> None:
        self.server.kill()
        self.hang_up()

    def hang_up(self) -> None:
        if self.control is not None:
            self.control.close()
            self.control = None

    def begin_anew(self) -> None:
        """In an empty directory, behind a liar that has become honest."""
        self.kill()
        self.server.folder = self.server.folder.with_name(self.server.folder.name + "-anew")
        self.server.folder.mkdir()
        self.server.environment = {}
        self.relay.forget()
        self.relay.hang_up()
        self.start()


class Liars:
    """A primary with mirrors, a liar before each."""

    def __init__(self, folder: Path, mode: str, mirrors: dict[str, dict[str, str]]) -> None:
        self.folder = folder
        self.far: dict[str, Far] = {}
        to: list[str] = []
        for index, (name, environment) in enumerate(mirrors.items()):
            near, link, home = (folder / f"{word}{index}" for word in ("near", "link", "m"))
            home.mkdir()
            listen = f"unix:{link}"
            server = MirrorServer(home, SIZE, options=THERE, environment=environment, listen=listen)
            self.far[name] = Far(name, Relay(near, link), server)
            to += ["--mirror-to", f"unix:{near},mode={mode},name={name}"]
        (folder / "p").mkdir()
        impatient = patched(folder / "impatient", IMPATIENT, UNCOMPARED)
        self.primary = Server(folder / "p", SIZE, options=(*SMALL, *to), environment=impatient)
        self._control: ControlClient | None = None
        self.seed = 0

    def start(self) -> None:
        for far in self.far.values():
            far.server.start()
        self.primary.start()
        until("the mirrors join", lambda: all(self.state(name)["joined"] for name in self.far))

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
        for far in self.far.values():
            far.relay.close()
            far.hang_up()
        for server in (self.primary, *(far.server for far in self.far.values())):
            if server.process is not None:
                server.kill()
            print(server.said())  # shown with a failing test

    @property
    def control(self) -> ControlClient:
        if self._control is None:
            self._control = connect(str(self.primary.directory))
            assert self._control is not None
        return self._control

    def state(self, name: str) -> dict[str, Any]:
        """What the primary says of a mirror."""
        mirrors = self.control.status()["mirrors"]
        return dict(next(mirror for mirror in mirrors if mirror["name"] == name))

    # What clients do

    def block(self, count: int = 1) -> bytes:
        """Content that was never written before."""
        self.seed += 1
        return b"".join((self.seed << 16 | i).to_bytes(8, "little") * 512 for i in range(count))

    def history(self) -> None:
        """Blocks 10 to 13 in one transfer, 12 again in another; 20 whole, then in part; 5 in part; 50 whole, then
        zeroed; a large stretch of zeroes, and 310 written in it. Each is answered before the next."""
        with Wire(self.primary.uri()) as wire:
            wire.pwrite(10 * BLOCK, self.block(4))
            wire.pwrite(12 * BLOCK, self.block())
            wire.pwrite(20 * BLOCK, self.block())
            wire.pwrite(20 * BLOCK + 8, b"twenty" + self.block()[:8])
            wire.pwrite(5 * BLOCK + 4000, b"at the end of five" + self.block()[:8])
            wire.pwrite(50 * BLOCK, self.block())
            wire.zero(50 * BLOCK, BLOCK)
            wire.zero(300 * BLOCK, 300 * BLOCK)
            wire.pwrite(310 * BLOCK, self.block())

    def point(self) -> int:
        return int(self.control.cut()["number"])

    # What is seen

    def agreed(self, name: str) -> int:
        return int(self.state(name)["agreed_point"])

    def until_equal(self, *names: str) -> None:
        """A point is made, the mirrors agree, and show the same bytes."""
        with Wire(self.primary.uri()) as wire:
            wire.pwrite(900 * BLOCK, self.block())
        number = self.point()
        until(f"{names} agree", lambda: all(self.agreed(name) == number for name in names), 60)
        for name in names:
            assert self.equal(name), name
            assert self.far[name].relay.faults == []

    def equal(self, name: str) -> bool:
        """Whether both show the same, the mirror at its last point. An error of a read is no answer."""
        try:
            return content(self.primary) == content(self.far[name].server)
        except WireError:
            return False

    def outcome(self, name: str, number: int) -> str:
        """What became of a point: the mirror's sentence, or what agreeing to it was like."""
        far = self.far[name]
        until(f"{name} decides", lambda: self.agreed(name) == number or far.refusal(), 60)
        if self.agreed(name) != number:
            return far.refusal()
        asked = [block for point, blocks in far.relay.asked if point == number for block in blocks]
        found = ", found" if self.state(name)["differs_since"] == number else ""
        return f"agreed, {'equal' if self.equal(name) else 'DIFFERENT'}, asked for {asked}{found}"


def content(server: Server) -> bytes:
    with Wire(server.uri()) as wire:
        return b"".join(wire.pieces())


@contextlib.contextmanager
def liars(folder: Path, mirrors: dict[str, dict[str, str]], mode: str = "async") -> Iterator[Liars]:
    made = Liars(folder, mode, mirrors)
    try:
        made.start()
        yield made
    finally:
        made.close()


# --- references that lead elsewhere: the truth is within reach --------------------------------------------


def omitted(record: Record) -> None:
    del record.rows[11]


def all_omitted(record: Record) -> None:
    record.rows.clear()


def swapped(record: Record) -> None:
    record.rows[10], record.rows[310] = record.rows[11], record.rows[12]


def stale(record: Record) -> None:
    """The one before, of the same interval."""
    record.rows[12] = record.versions[12][-2]


def stale_of_an_earlier_point(record: Record) -> None:
    record.rows[310] = record.versions[310][-2]


def corrupt_transfer(record: Record) -> None:
    epoch, position, number = record.rows[12]
    record.rows[12] = (epoch, position ^ 1 << 40, number)


def corrupt_block(record: Record) -> None:
    epoch, position, number = record.rows[12]
    record.rows[12] = (epoch, position, number ^ 1 << 7)


def corrupt_epoch(record: Record) -> None:
    epoch, position, number = record.rows[12]
    record.rows[12] = (epoch ^ 2, position, number)


def to_its_own_record(record: Record) -> None:
    record.rows[12] = (record.rows[12][0], record.where, 0)


def duplicated_runs(record: Record) -> None:
    """The first goes on over all that lies behind it."""
    record.rows = {10: record.rows[10]}
    record.runs = 12


def by_reference_what_was_written_in_part(record: Record) -> None:
    record.rows[20] = record.versions[20][-1]
    del record.partials[20]


def partial_left_out(record: Record) -> None:
    del record.partials[5]


CURED: list[tuple[Lie, list[int]]] = [
    (omitted, [11]),
    (all_omitted, [10, 11, 12, 13, 310]),
    (swapped, [10, 310]),
    (stale, [12]),
    (stale_of_an_earlier_point, [310]),
    (corrupt_transfer, [12]),
    (corrupt_block, [12]),
    (corrupt_epoch, [12]),
    (to_its_own_record, [12]),
    (duplicated_runs, [12, 310]),
    (by_reference_what_was_written_in_part, [20]),
    (partial_left_out, [5]),
]


def test_d2_d15_a_bad_reference_costs_one_question_and_both_stay_equal(folder: Path) -> None:
    with liars(folder, {"m": {}}, mode="sync") as made:
        far = made.far["m"]
        made.history()
        made.until_equal("m")
        for lie, asked in CURED:
            made.history()
            far.relay.lie = lie
            number = made.point()
            assert made.outcome("m", number) == f"agreed, equal, asked for {asked}", lie.__name__
            assert far.relay.lied.is_set()
            far.relay.turn_honest()
            made.history()
            made.until_equal("m")
        assert sum(len(blocks) for _, blocks in far.relay.asked) == sum(len(asked) for _, asked in CURED)
        far.kill()  # what was asked for is there for good
        far.start()
        made.until_equal("m")
        assert len(far.relay.asked) == len(CURED)
        made.primary.kill()
        far.relay.hang_up()
        held = content(far.server)
        assert far.server.stop() == 0
        revolume("check", far.server.directory)
        revolume("promote", far.server.directory)
        revolume("check", far.server.directory)
        revolume("copy", far.server.directory, folder / "out.img")
        assert (folder / "out.img").read_bytes() == held


# --- records that are not of this log: the point is refused ------------------------------------------------


def wrong_root(record: Record) -> None:
    record.root = (record.root[0] ^ 1, record.root[1])


def zeroes_added(record: Record) -> None:
    record.zeroes.append((800, 3))
    record.restate_digest()


def cut_elsewhere(record: Record) -> None:
    record.position -= 1


def number_skipped(record: Record) -> None:
    record.number += 1


def partial_bent(record: Record) -> None:
    record.partials[5] = b"another five" + record.partials[5][12:]


def partial_bent_and_digest_restated(record: Record) -> None:
    partial_bent(record)
    record.restate_digest()


DIGEST = "its changes don't have the digest that was stated"

REFUSED: list[tuple[Lie, str]] = [
    (partial_bent, DIGEST),
    (zeroes_added, "it does not state the zeroes that the log has"),
    (cut_elsewhere, "its cut"),
    (number_skipped, "does not follow on"),
]


def test_d2_d13_a_record_that_is_not_true_is_refused_by_mirror_and_status(folder: Path) -> None:
    """One mirror for each lie about the same point. Refused for good: the lie is in its log. It stays at the point
    before, shows it, says so at both ends, and is not promoted. An empty directory is not taken for it, until the
    mirror is given up by name: then it becomes equal."""
    with liars(folder, {lie.__name__: {} for lie, _ in REFUSED}) as made:
        made.history()
        made.until_equal(*made.far)
        before, last = content(made.primary), made.control.status()["point"]
        made.history()
        for lie, _ in REFUSED:
            made.far[lie.__name__].relay.lie = lie
        number = made.point()
        for lie, why in REFUSED:
            name, far = lie.__name__, made.far[lie.__name__]
            assert why in made.outcome(name, number), name
            until("its source says so", lambda n=name, w=why: w in made.state(n)["reason"], 60)
            assert made.agreed(name) == last and content(far.server) == before
            assert far.relay.faults == []
        first, second = (made.far[lie.__name__] for lie, _ in REFUSED[:2])
        first.relay.turn_honest()
        first.kill()  # the lie is in its log: opened again it is refused again
        first.start()
        assert REFUSED[0][1] in made.outcome(first.name, number)
        assert content(first.server) == before
        refuse_to_promote(first, before)
        second.begin_anew()
        stranger = "is not the copy that mirror"
        until("another copy is refused", lambda: stranger in made.state(second.name)["reason"], 60)
        assert made.agreed(second.name) == last
        given_up = made.state(second.name)["node"]
        revolume("mirror", "replace", made.primary.directory, second.name)
        until("another joins", lambda: made.state(second.name)["node"] not in ("", given_up), 60)
        made.until_equal(second.name)


@pytest.mark.parametrize("lie", [wrong_root, partial_bent_and_digest_restated])
def test_b11_a_root_that_differs_is_found_and_stops_nobody(folder: Path, lie: Lie) -> None:
    """Whatever lies beneath: the point is agreed to, clients go on being answered, and both ends say so until a
    comparison has ended it. A promotion and a check say it too."""
    with liars(folder, {"m": {}}, mode="sync") as made:
        far = made.far["m"]
        made.history()
        made.until_equal("m")
        made.history()
        far.relay.lie = lie
        number = made.point()
        until("it agrees", lambda: made.agreed("m") == number, 60)
        until("its source says so", lambda: made.state("m")["differs_since"] == number, 60)
        far.relay.turn_honest()
        assert made.state("m")["required"] and made.state("m")["state"] == "in sync"
        for _ in range(3):
            made.history()
            last = made.point()
            until("the log goes on", lambda n=last: made.agreed("m") == n, 60)
        assert far.control is None
        far.control = connect(str(far.server.directory))
        assert far.control is not None
        status = far.control.status()
        assert status["source"]["differs_since"] == number and f"found at cp{number}" in status["reason"]
        assert any(event["kind"] == "diverged" for event in status["events"])
        assert any(event["kind"] == "diverged" for event in made.control.status()["events"])
        assert f"found at cp{number}" in revolume("status", made.primary.directory)
        far.kill()
        far.start()
        until("it says so again", lambda: made.state("m")["differs_since"] == number, 60)
        made.primary.kill()
        far.hang_up()
        far.relay.hang_up()
        assert far.server.stop() == 0
        said = revolume("check", far.server.directory, ok=(5,))
        assert f"since cp{number}" in said and "a verification is due" in said and "root" not in said
        promoted = json.loads(revolume("promote", far.server.directory, "--yes", "--json"))
        assert f"found to differ from its source at cp{number}" in promoted["proof"]


def refuse_to_promote(far: Far, held: bytes) -> None:
    """Running or stopped; what its sentence advises is possible."""
    assert "can't agree on the point after it: Point cp" in promotion(far)
    assert far.control is not None
    source = far.control.status()["source"]
    assert not source["promotable"] and "can't agree on the point" in source["why_not"]
    revolume("copy", far.server.directory, far.server.folder / "running.img")
    assert (far.server.folder / "running.img").read_bytes() == held
    far.hang_up()
    assert far.server.stop() == 0
    told = promotion(far)
    assert "can't agree on the point" in told and "copy the point out with 'revolume copy DIR FILE'" in told
    revolume("check", far.server.directory)
    far.start()
    revolume("copy", far.server.directory, far.server.folder / "again.img")
    assert (far.server.folder / "again.img").read_bytes() == held


def promotion(far: Far) -> str:
    """How it is refused."""
    done = run_revolume(["promote", str(far.server.directory)], {}, 60)
    assert done.returncode == 4, done
    return " ".join(done.stderr.split())


# --- frames that come otherwise than they were sent ----------------------------------------------------------


@dataclass(frozen=True)
class Bend:
    """``job``: what goes out for the last of these frames. ``late``: the one before it has not gone out.
    ``refused``: the mirror tells its source why, and the source waits before it comes again."""

    job: Callable[[list[bytes], Relay], list[bytes]]
    sentence: str
    late: bool = False
    refused: bool = False


class Once:
    """A frame of the log, some way into it, and what is made of it; the rest is carried."""

    def __init__(self, relay: Relay, bend: Bend) -> None:
        self.relay, self.bend = relay, bend
        self.held: list[bytes] = []

    def __call__(self, frame: bytes) -> list[bytes]:
        self.held.append(frame)
        if len(self.held) < 3:
            return [] if self.bend.late and len(self.held) == 2 else [frame]
        self.relay.meddle = honest
        self.relay.lied.set()
        return self.bend.job(self.held, self.relay)


def renamed(frame: bytes, session: int) -> bytes:
    length, kind, flags, zero, _ = FRAME.unpack_from(frame)
    return FRAME.pack(length, kind, flags, zero, session) + frame[FRAME_SIZE:]


def session_of(frame: bytes) -> int:
    return int(FRAME.unpack_from(frame)[4])


def flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 16]) + frame[at + 1 :]


def sized(frame: bytes, length: int) -> bytes:
    """Its header says so; its bytes are as they were."""
    return FRAME.pack(length, *FRAME.unpack_from(frame)[1:]) + frame[FRAME_SIZE:]


def of_an_older_session(relay: Relay, now: bytes) -> bytes:
    return next(frame for frame in reversed(relay.sent) if session_of(frame) != session_of(now))


def cut_in_the_middle(frames: list[bytes], relay: Relay) -> list[bytes]:
    relay.hang_up_after(frames[-1][: len(frames[-1]) // 2])
    return []


CHAIN = "is not of the log that this one continues"
COUNTS = "counts do not add up to its frame"
OFFSET = FRAME_SIZE + COMPACT_SIZE
"""Of a lone write's frame: where it says which block it is of."""

BENT: dict[str, Bend] = {
    "dropped": Bend(lambda frames, _: [frames[-1]], CHAIN, late=True),
    "twice": Bend(lambda frames, _: [frames[-1]] * 2, CHAIN),
    "in another order": Bend(lambda frames, _: [frames[-1], frames[-2]], CHAIN, late=True),
    "an earlier one again": Bend(lambda frames, _: [frames[0], frames[-1]], CHAIN),
    "one of an older session": Bend(lambda frames, r: [of_an_older_session(r, frames[-1])], "of another session"),
    "the same under the new name": Bend(
        lambda frames, r: [renamed(of_an_older_session(r, frames[-1]), session_of(frames[-1]))], CHAIN
    ),
    "written elsewhere": Bend(lambda frames, _: [flipped(frames[-1], OFFSET + 2)], CHAIN),
    "another chain stated": Bend(lambda frames, _: [flipped(frames[-1], OFFSET - 1)], CHAIN),
    "another payload": Bend(
        lambda frames, _: [flipped(frames[-1], len(frames[-1]) - 100)], "fails its digests", refused=True
    ),
    "one byte longer": Bend(
        lambda frames, _: [sized(frames[-1], len(frames[-1]) - FRAME_SIZE + 1) + b"!"], COUNTS
    ),
    "a block shorter": Bend(
        lambda frames, _: [sized(frames[-1], len(frames[-1]) - FRAME_SIZE - BLOCK)[:-BLOCK]], COUNTS
    ),
    "says that it is longer than it is": Bend(
        lambda frames, _: [sized(frames[-1], len(frames[-1]) - FRAME_SIZE + BLOCK), *frames], COUNTS
    ),
    "says that it is longer than anything": Bend(lambda frames, _: [sized(frames[-1], 1 << 31)], "are allowed"),
    "cut in the middle": Bend(cut_in_the_middle, "The connection was closed"),
}  # fmt: skip


def test_d8_d10_frames_that_come_otherwise_end_the_connection_and_nothing_is_lost(folder: Path) -> None:
    with liars(folder, {"m": {}}) as made:
        far = made.far["m"]
        made.history()
        made.until_equal("m")
        far.relay.hang_up()  # so that there is an older session
        for name, bend in BENT.items():
            made.until_equal("m")
            said = len(far.server.log)
            far.relay.meddle = Once(far.relay, bend)
            with Wire(made.primary.uri()) as wire:
                for block in (700, 701, 702, 703, 704):
                    wire.pwrite(block * BLOCK, made.block())
            assert far.relay.lied.wait(60), name
            until(f"{name}: {bend.sentence}", lambda: heard(far, said, bend), 60)  # noqa: B023
            far.relay.turn_honest()
        made.until_equal("m")
        assert made.primary.stop() == 0 and far.server.stop() == 0
        revolume("check", far.server.directory)


def heard(far: Far, since: int, bend: Bend) -> bool:
    """One sentence says why the connection has ended, and by whom."""
    how = "is refused" if bend.refused else "is gone"
    return any(f" {how}: " in line and bend.sentence in line for line in far.server.log[since:])


# --- a check left out: the lie gets through --------------------------------------------------------------------

UNRESOLVED = """
    import revolume.chain.reference_resolver as resolver
    resolve = resolver.resolve
    def unresolved(own, versions, addresses, carried, *more):
        locations = own.delta.locations
        data = locations[resolver.kinds(locations) == resolver.DATA]
        return resolve(own, versions, data & resolver.MASK, carried)
    resolver.resolve = unresolved
"""
FOLLOWED = """
    import numpy as np
    import revolume.chain.reference_resolver as resolver
    resolve = resolver.resolve
    def followed(own, versions, addresses, carried, *more):
        blocks, _, reached = resolver._led_to(versions, addresses)
        for block, address in zip(blocks, addresses[reached]):
            own.delta.locations[own.delta.blocks == block] = resolver.pack(resolver.DATA, int(address))
        return resolve(own, versions, addresses, carried, *more)
    resolver.resolve = followed
"""
"""A reference is believed, whatever version it leads to."""
ANY = """
    def anything(kind):
        return type("Anything", (kind,), {"__eq__": lambda a, b: True, "__ne__": lambda a, b: False,
                                          "__hash__": kind.__hash__})
"""
ONCE = """
    def anything_once(kind):
        passed = []
        def differs(one, other):
            if not kind.__ne__(one, other) or passed:
                return kind.__ne__(one, other)
            passed.append(one)
            return False
        return type("AnythingOnce", (kind,), {"__ne__": differs, "__hash__": kind.__hash__})
"""
NO_DIGEST = (
    ONCE
    + """
    import revolume.volume.points.apply_point as sealing
    interval_digest, AnyDigest = sealing.DeltaMap.interval_digest, anything_once(int)
    sealing.DeltaMap.interval_digest = lambda delta: AnyDigest(interval_digest(delta))
"""
)
NO_ROOT = (
    ONCE
    + """
    import revolume.volume.points.apply_point as sealing
    moved_root, AnyRoot = sealing.moved_root, anything_once(tuple)
    sealing.moved_root = lambda *given: AnyRoot(moved_root(*given))
"""
)
"""Let the first wrong one through: the next point, which nobody lies about, shows what was taken."""
AGREED_UNPROVED = """
    import revolume.volume.points.apply_point as sealing
    from revolume.errors import Refused
    seal = sealing.PointApplier.seal
    async def proved_or_not(self, arrived, before, ask):
        try:
            return await seal(self, arrived, before, ask)
        except Refused:
            return sealing._point(arrived, arrived.record)
    sealing.PointApplier.seal = proved_or_not
"""
NO_PAYLOAD_DIGESTS = """
    import revolume.volume.members.received_log as received_log
    received_log.payload_agrees = lambda *given: True
"""
NOT_HEALED = """
    import revolume.mirror.healing as healing
    healing.LinkHealing.begin = lambda *given: None
"""
"""Or the block that came otherwise would be asked for again, once it is read."""
NO_CHAIN = (
    ANY
    + """
    import revolume.mirror.wire.log_frame as compact
    pack_shared_header, AnyChain = compact.pack_shared_header, anything(bytes)
    def pack_any(*given):
        shared_header, chain = pack_shared_header(*given)
        return shared_header, AnyChain(chain)
    compact.pack_shared_header = pack_any
"""
)


@dataclass(frozen=True)
class Without:
    """Checks taken out, a lie, and what becomes of it; ``with_it``: what becomes of it otherwise; ``next``: what
    becomes of the next point, of which nothing but the truth is said."""

    patches: tuple[str, ...]
    lie: Lie | Bend
    outcome: str
    with_it: str
    next: str = ""


NO_QUESTION = "agreed, equal, asked for []"
DIFFERENT = "agreed, DIFFERENT, asked for []"
CUT_OFF = NO_QUESTION
"""The frame never arrives, and comes again as it should be."""

QUESTION = "agreed, equal, asked for [12]"
FOUND = ", found"
"""Agreed to, and the root says that the copy differs."""

WITHOUT: dict[str, Without] = {
    "reference": Without((UNRESOLVED,), omitted, NO_QUESTION, "agreed, equal, asked for [11]"),
    "log": Without((FOLLOWED,), stale, DIGEST, QUESTION),
    "log-digest": Without((FOLLOWED, NO_DIGEST), stale, FOUND, QUESTION),
    "log-digest-root": Without((FOLLOWED, NO_DIGEST, NO_ROOT), stale, "agreed, ", QUESTION, FOUND),
    "digest-root": Without((NO_DIGEST, NO_ROOT), partial_bent, DIFFERENT, DIGEST, FOUND),
    "root": Without((NO_ROOT,), partial_bent_and_digest_restated, DIFFERENT, FOUND, FOUND),
    "proof": Without((AGREED_UNPROVED,), partial_bent, DIFFERENT, DIGEST),
    "payload": Without((NO_PAYLOAD_DIGESTS, NOT_HEALED), BENT["another payload"], DIFFERENT, CUT_OFF),
    "chain": Without((NO_CHAIN,), BENT["written elsewhere"], "its cut is not one of this log", CUT_OFF),
}  # fmt: skip


def test_d2_d15_without_its_check_a_lie_gets_through(folder: Path) -> None:
    """One mirror for each check left out, behind one primary. The lies are those of the tests above."""
    environments = {name: patched(folder / f"no-{name}", *each.patches) for name, each in WITHOUT.items()}
    with liars(folder, environments) as made:
        made.history()
        made.until_equal(*made.far)
        for name, each in WITHOUT.items():
            relay = made.far[name].relay
            if isinstance(each.lie, Bend):
                relay.meddle = Once(relay, each.lie)
            else:
                relay.lie = each.lie
        with Wire(made.primary.uri()) as wire:
            for block in (700, 701, 702, 703, 704):
                wire.pwrite(block * BLOCK, made.block())
        made.history()
        number = made.point()
        for name, each in WITHOUT.items():
            assert made.far[name].relay.lied.wait(60), name
            became = made.outcome(name, number)
            assert each.outcome in became, f"without {name}: {became}"
            assert each.with_it not in became
        made.history()
        number = made.point()
        for name, each in WITHOUT.items():
            if each.next:
                assert each.next in made.outcome(name, number), name
