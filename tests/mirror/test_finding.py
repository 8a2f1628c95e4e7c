"""The finding: a copy whose volume root is not its source's at a point goes on, says so, and is not forgotten."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest

from revolume.errors import Refused
from revolume.mirror.recovery.promotion_proof import Proof, with_finding
from revolume.mirror.wire.frames import Type
from revolume.offline.check.check import check
from revolume.volume.members.found_differences import FoundDifferences
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.positions import NOTHING
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState
from revolume.volume.secondary_status import secondary_status
from revolume.volume.state.events import EventKind, Events
from revolume.volume.suspect.marks import Marks
from revolume.volume.suspect.suspect_rows import OPEN, ROW
from tests.mirror.harness import run, until, world
from tests.mirror.scripted import Claim, Stage
from tests.mirror.test_claims_d_lies import content, digest_of, history, on_stage, wrong_root
from tests.mirror.test_hostile import BLOCK

pytestmark = pytest.mark.timeout(120)


def other_content(claim: Claim) -> None:
    """A block that travels in the record has other content here than there, and nothing but the root says so."""
    claim.partials[5] = content(1234)
    claim.content[5] = content(1234)
    claim.digest = digest_of(claim)


def told(made: Stage) -> list[str]:
    return [event.message for event in made.secondary.events.all() if event.kind == EventKind.DIVERGED]


async def found(made: Stage, lie: object = wrong_root) -> None:
    """Point 3 is not the copy's."""
    history(made)
    await made.agreed()
    history(made)

    def bent(claim: Claim) -> None:
        claim.content = dict(made.script.content)
        lie(claim)  # type: ignore[operator]

    await made.agreed(bent)
    assert made.secondary.agreed.number == 3


def test_the_log_goes_on_and_the_copy_says_since_when_it_differs() -> None:
    async def scenario(made: Stage) -> None:
        await found(made)
        assert made.secondary.failure is None and made.secondary.why_not_promotable == ""
        assert made.secondary.differs_since == 3 and "found at cp3" in told(made)[0]
        assert "found at cp3" in secondary_status(made.secondary).reason
        await made.holds()
        await made.crash()
        assert made.secondary.differs_since == 3
        history(made)
        await made.agreed()
        assert made.secondary.differs_since == 3, "since when is not told anew"
        await made.holds()

    on_stage(scenario)


def test_a_check_says_that_a_verification_is_due_and_finds_no_damage() -> None:
    async def scenario(made: Stage) -> None:
        await found(made)
        for _ in range(2):
            await made.close()
            report = check(made.host, str(made.path))
            assert not report.problems, report.problems
            assert "since cp3" in report.incomplete and "verification is due" in report.incomplete
            await made.open()
            await made.fold()  # the image holds what its point's root does not say
        await made.close()

    on_stage(scenario)


def test_a_root_that_differs_without_a_finding_is_damage_to_a_check() -> None:
    async def scenario(made: Stage) -> None:
        await found(made)
        await made.secondary.suspect.forget_finding(1)
        assert made.secondary.differs_since == 3
        state = made.secondary.manifest.manifest.state
        made.secondary.manifest.manifest.state = dataclasses.replace(
            state, suspect=dataclasses.replace(state.suspect, finding=None)
        )
        await made.close()
        assert any("root" in problem.what for problem in check(made.host, str(made.path)).problems)

    on_stage(scenario)


def test_a_verification_ends_it_and_what_was_before_is_no_damage_later() -> None:
    async def scenario(made: Stage) -> None:
        await found(made)
        history(made)
        await made.agreed()
        await made.secondary.proved_equal(4)
        assert made.secondary.differs_since == 0
        assert secondary_status(made.secondary).state == "online"
        await made.crash()
        assert made.secondary.differs_since == 0
        await made.close()
        report = check(made.host, str(made.path))
        assert report.good, (report.problems, report.incomplete)
        await made.open()
        await made.fold()
        for _ in range(6000):
            if made.secondary.manifest.state.suspect.finding is None:
                break
            await asyncio.sleep(0.01)
        assert made.secondary.manifest.state.suspect.finding is None, "nothing is left of it in the log"
        await made.close()
        made.check()

    on_stage(scenario)


def test_it_is_proved_at_a_point_that_has_been_folded_meanwhile() -> None:
    """The comparison took its time: what it proved holds all the same, and the mirror is not refused for it."""

    async def scenario(made: Stage) -> None:
        await found(made)
        history(made)
        await made.agreed()
        rows = np.array([(7, 1, 1, OPEN)], ROW)
        await made.secondary.add_marks(Marks(bytes(16), 4, 0, "it was compared", rows))
        history(made)
        await made.agreed()
        await made.fold()
        assert made.secondary.retained.numbered(4) is None
        await made.secondary.proved_equal(4)
        assert made.secondary.differs_since == 0
        assert all((each.rows["until"] < OPEN).all() for each in made.secondary.suspect.periods.marks)
        with pytest.raises(Refused, match="does not stand"):
            await made.secondary.proved_equal(made.secondary.agreed.number + 1)
        await made.close()

    on_stage(scenario)


def test_a_second_finding_is_told_as_the_first_was() -> None:
    async def scenario(made: Stage) -> None:
        await found(made)
        history(made)
        await made.agreed()
        await made.secondary.proved_equal(4)
        history(made)

        def bent(claim: Claim) -> None:
            claim.content = dict(made.script.content)
            wrong_root(claim)

        await made.agreed(bent)
        assert made.secondary.differs_since == 3, "the log of the first is still there"
        assert len(told(made)) == 2
        await made.close()
        assert not check(made.host, str(made.path)).problems

    on_stage(scenario)


def test_other_content_in_a_record_is_found_by_the_root_alone() -> None:
    async def scenario(made: Stage) -> None:
        await found(made, other_content)
        assert made.secondary.differs_since == 3
        await made.close()

    on_stage(scenario)


def test_the_source_hears_of_it_in_every_session_until_it_is_equal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            w.log.write(0, os.urandom(BLOCK))
            w.source.start()
            await w.arrived()
            there = w.shelf.secondary
            assert there is not None
            there.agree(4)
            there.differs_since = 5
            there.agree(5)
            there.agree(6)
            await until(lambda: w.origin.differing == [5])
            session = w.source._session
            assert session is not None
            await session.link.close()
            await until(lambda: w.origin.differing == [5, 5])
            session = w.source._session
            assert session is not None
            there.proved_equal = proved(there)  # type: ignore[method-assign]
            await session.suspect.equal(there.agreed)
            assert w.origin.differing == [5, 5, 0]

    def proved(there: object) -> object:
        async def proved_equal(point: int) -> None:
            there.differs_since = 0  # type: ignore[attr-defined]

        return proved_equal

    run(scenario)


def test_a_target_that_says_nonsense(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with world(tmp_path) as w:
            w.log.write(0, os.urandom(BLOCK))
            w.source.start()
            await w.arrived()
            target = w.target.current
            assert target is not None
            target.link.send_control(Type.DIVERGED, b"four")
            await until(lambda: any("not what its type says" in text for text in w.source_told))

    run(scenario)


def test_whoever_serves_the_volume_is_asked_for_a_verification_once_a_session() -> None:
    async def scenario() -> None:
        events = Events(lambda: 0)
        differences = FoundDifferences(events)
        mirror = Mirror(MirrorState.unjoined("m", MirrorMode.SYNC))
        differences.told(mirror, 5)
        differences.told(mirror, 5)
        assert await differences.next() is mirror and mirror.differs_since == 5
        assert [event.kind for event in events.all()] == [EventKind.DIVERGED]
        again = asyncio.create_task(differences.next())
        await asyncio.sleep(0)
        assert not again.done()
        mirror.begin_session(NOTHING)
        differences.told(mirror, 5)
        assert await again is mirror
        differences.told(mirror, 0)
        assert mirror.differs_since == 0 and "equal again" in events.all()[-1].message

    run(scenario)


def test_a_promotion_says_it() -> None:
    assert with_finding(Proof("Nothing is lost."), 0).told == "Nothing is lost."
    proof = with_finding(Proof("Nothing is lost."), 7)
    assert (
        proof.told.startswith("Nothing is lost. It was found to differ from its source at cp7") and not proof.code
    )
