"""What a verb that opens a moment does with one that is suspect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from revolume.cli.values import counted
from revolume.errors import Refused


def refuse_suspect(moment: dict[str, Any], *, suspect: bool) -> None:
    """Refused: the moment (``MomentSchema``) is suspect, and nobody has said that it is wanted all the same."""
    found = moment.get("suspect")
    if not found or suspect:
        return
    good = [
        f"{side} it cp{point['number']} (w{point['write']})"
        for side, point in (("before", found["good_before"]), ("behind", found["good_after"]))
        if point
    ]
    nearest = f"Good here are, nearest, {' and '.join(good)}." if good else "No point here is good."
    meant = f"w{moment['write']}"
    cause = f"{moment['asked']}{f' ({meant})' if meant != moment['asked'] else ''} is {found['told']}."
    raise Refused("suspect-moment", cause, f"{nearest} {found['elsewhere']} --suspect takes it all the same.")


def suspect_period(period: Mapping[str, Any]) -> str:
    """A period (``SuspectStatus``) in words."""
    upto = "on, not repaired yet" if period["until"] is None else f"to before w{period['until']}"
    return f"from w{period['since']} {upto}: {counted(period['blocks'], 'block')}: {'; '.join(period['causes'])}"
