"""What proves that a promotion loses nothing: each row of the table in docs/promotion.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.mirror.recovery.promotion_proof import Vote, copies_of, prove
from revolume.volume.metadata.manifest_state import Member, MirrorMode

HERE, P, OTHER = b"h" * 16, b"p" * 16, b"o" * 16
OWN = Member("m1", HERE, "a:1", MirrorMode.SYNC, True)
PRIMARY = Member("p", P, "p:1", None, True)
SECOND = Member("m2", OTHER, "b:1", MirrorMode.SYNC, True)
DETACH = replace(OWN, deadline_ms=20_000)
YES, NO, KNOWS = Vote("m2", vouches=True), Vote("m2"), Vote("m2", knows=True)


@pytest.mark.parametrize(
    ("own", "others", "lease", "votes", "code", "words"),
    [
        (OWN, (), 0.0, (), "", "unless this mirror was detached while it was unreachable"),
        (OWN, (), None, (), "", "unless this mirror was detached"),
        (DETACH, (), 3.2, (), "", "holds for 3.2 s more"),
        (DETACH, (), 0.0, (), "lease-ran-out", "may lack answered writes: its in-sync lease has run out"),
        (DETACH, (), None, (), "lease-ran-out", "it is not served"),
        (replace(DETACH, detached=True), (), 3.2, (), "mirror-detached", "it was detached"),
        (replace(OWN, detached=True), (), 0.0, (), "mirror-detached", "it was detached"),
        (OWN, (SECOND,), 0.0, (YES,), "", "2 of 3 copies know of no detach"),
        (OWN, (SECOND,), 0.0, (NO,), "no-majority", "only 1 of 3 copies"),
        (OWN, (SECOND,), 0.0, (KNOWS,), "mirror-detached", "it was detached"),
        (DETACH, (SECOND,), 0.0, (YES,), "", "2 of 3"),
        (DETACH, (SECOND,), 0.0, (NO,), "no-majority", "only 1 of 3"),
        (DETACH, (SECOND,), 1.0, (NO,), "", "in-sync lease holds"),
        (DETACH, (SECOND,), 1.0, (KNOWS,), "mirror-detached", "it was detached"),
        (replace(OWN, mode=MirrorMode.ASYNC), (), 0.0, (), "", "async mirror: what was answered after w8 (1970-"),
        (replace(OWN, joined=False), (), 0.0, (), "", "had not joined"),
        (replace(OWN, mode=None), (), 0.0, (), "", "was the primary"),
        (replace(OWN, node=OTHER), (), 0.0, (), "", "proves nothing"),
    ],
)  # fmt: skip
def test_a_row(
    own: Member, others: tuple[Member, ...], lease: float | None, votes: tuple[Vote, ...], code: str, words: str
) -> None:
    proof = prove(HERE, (PRIMARY, own, *others), (WriteNumber(8), 0), lease, votes)
    assert proof.code == code and words in proof.told
    assert bool(proof.hint) == bool(code)


def test_two_majorities_of_the_copies_have_one_in_common() -> None:
    third = replace(SECOND, name="m3", node=b"3" * 16)
    former = replace(PRIMARY, name="q", node=b"q" * 16)
    assert copies_of((PRIMARY, former, OWN, SECOND, third)) == 4
    assert (
        prove(HERE, (PRIMARY, OWN, SECOND, third), (WriteNumber(8), 0), 0.0, (YES, Vote("m3"))).code
        == "no-majority"
    )
    assert prove(HERE, (PRIMARY, OWN, SECOND, third), (WriteNumber(8), 0), 0.0, (YES, YES)).code == ""
