"""O4, O8: a mirror that has come to rest stands at its source's point, with its root and its end of the log."""

from __future__ import annotations

from revolume.volume.primary import Volume
from revolume.volume.secondary import Secondary


def check_equal(volume: Volume, there: Secondary) -> list[str]:
    """Two roots are two volumes' sums over all blocks: equal roots, equal volumes."""
    wrong = [f"the mirror gave up: {there.failure}"] if there.failure is not None else []
    if volume.retained.points:
        here = volume.retained.points[-1]
        if (there.agreed.number, there.agreed.root) != (here.number, here.root):
            wrong.append(f"cp{there.agreed.number} at the mirror, cp{here.number} at the primary, or roots differ")
    at = volume.log.appender
    if (there.end.position, there.end.chain) != (at.position, at.chain):
        wrong.append(f"the mirror's log ends at {there.end.position}, the primary's at {at.position}")
    return wrong
