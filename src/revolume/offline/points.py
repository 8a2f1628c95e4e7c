"""Points, rebuilt the way a mirror builds them: from the references in their records."""

from __future__ import annotations

from collections.abc import Iterator

from revolume.offline.delta import Delta, Parts, own_delta, received_delta
from revolume.offline.findings import Findings
from revolume.offline.followed import FollowedRoot
from revolume.offline.references import Transfers
from revolume.offline.walked import Walked
from revolume.volume.compose import delta_digest
from revolume.volume.manifest import Role, State
from revolume.volume.sums import Sums


def verify_points(sums: Sums, state: State, walked: Walked, findings: Findings) -> None:
    """Every point behind the horizon: its references, its interval digest, its volume root."""
    table, root = Transfers(walked.pieces), FollowedRoot(state, sums)
    before = state.horizon.position, state.horizon.write
    for parts in _claimed(state, walked):
        last = parts[-1][0]
        mirrored = state.agreed.point
        delta = received_delta(parts, walked, table, before) if mirrored else own_delta(parts, table)
        before = last.position, last.write
        findings.points += 1
        problem = delta if isinstance(delta, str) else _problem(parts, delta, root)
        if problem:
            findings.say(f"cp{last.number}", problem)


def _claimed(state: State, walked: Walked) -> Iterator[Parts]:
    """The whole records. A mirror does not answer for points that it has not agreed to."""
    parts: Parts = []
    for part, columns, seals in walked.facts:
        parts = [*parts, (part, columns)] if part.part else [(part, columns)]
        answers = state.role == Role.PRIMARY or part.number <= state.agreed.point
        if seals and len(parts) == part.parts and state.horizon.point < part.number and answers:
            yield parts


def _problem(parts: Parts, delta: Delta, root: FollowedRoot) -> str:
    last = parts[-1][0]
    if delta_digest(*delta) != last.digest:
        return "the interval digest of its references is not the one stated"
    followed = root.after(last.number, delta)
    if followed is not None and followed != last.root:
        return "the volume root is not the one stated"
    return ""
