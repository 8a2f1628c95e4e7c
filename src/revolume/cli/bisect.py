"""``revolume bisect DIR -- CMD``: the last moment at which a command succeeds.

First over the consistency points, then over the writes between the last good and the first bad one, so
the answer names a single write. The verb says what it was asked and prints what was found; the order of
the search is ``search.py``, a try of the command is ``trial.py``, the volume is behind ``door.py``.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note
from revolume.cli.values import parse_seconds, show_time
from revolume.errors import NotFound, UsageError
from revolume.history.moments import parse_moment

if TYPE_CHECKING:
    from revolume.cli.door import Door
    from revolume.cli.trial import Trial

_TRIES_DEFAULT: Final = 256

CommandArgument = Annotated[
    list[str],
    typer.Argument(metavar="-- CMD...", help="The command; {uri}, {file} and {moment} in it are replaced."),
]
FromOption = Annotated[str | None, typer.Option("--from", metavar="MOMENT", help="Look at nothing before this.")]
ToOption = Annotated[str | None, typer.Option("--to", metavar="MOMENT", help="Look at nothing after this.")]
PointsOnlyOption = Annotated[
    bool, typer.Option("--points-only", help="Consistency points only, not the writes between.")
]
TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="A run that takes longer (30s) does not succeed.")
]
TriesOption = Annotated[int, typer.Option("--tries", min=1, help="Points to try at most before giving up.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what the command prints.")]


def register(app: typer.Typer) -> None:
    app.command()(bisect)


def bisect(
    volume: VolumeArgument,
    command: CommandArgument,
    since: FromOption = None,
    until: ToOption = None,
    points_only: PointsOnlyOption = False,
    timeout: TimeoutOption = None,
    tries: TriesOption = _TRIES_DEFAULT,
    verbose: VerboseOption = False,
    json: JsonOption = False,
) -> None:
    """Find the last moment at which a command succeeds."""
    import asyncio

    from revolume.cli.target import existing
    from revolume.cli.trial import trial

    for moment in (since, until):
        if moment is not None:
            parse_moment(moment)
    asked = Asked(
        directory=existing(volume),
        trial=trial(command, None if timeout is None else parse_seconds(timeout), verbose=verbose),
        since=since,
        until=until,
        points_only=points_only,
        tries_max=tries,
        quiet=json,
    )
    found = asyncio.run(_find(asked))
    if json:
        print_json(found)
    else:
        _print(found)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for, and where."""

    directory: str
    trial: Trial
    since: str | None
    until: str | None
    points_only: bool
    tries_max: int
    quiet: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Two moments beside each other: the command succeeds at the first and not at the second."""

    good: dict[str, Any]
    bad: dict[str, Any]
    runs: int


async def _find(asked: Asked) -> Found:
    from revolume.cli.door import open_door
    from revolume.cli.search import bracket, narrow

    async with open_door(asked.directory) as door:
        writes = await _candidates(asked, door)
        tried = Tries(asked, door)
        good, bad = await bracket(len(writes), asked.tries_max, lambda index: tried.succeeds(writes[index]))
        if good is None:
            raise _good_nowhere(tried.runs, len(writes))
        if bad is None:
            raise _bad_nowhere(writes[good])
        good, bad = await narrow(good, bad, lambda index: tried.succeeds(writes[index]))
        last, first = writes[good], writes[bad]
        if not asked.points_only:
            last, first = await narrow(last, first, tried.succeeds)
        return Found(await door.moment(f"w{last}"), await door.moment(f"w{first}"), tried.runs)


async def _candidates(asked: Asked, door: Door) -> list[int]:
    """The writes at which consistency points lie, and both ends of what was asked, oldest first."""
    points = [int(point["write"]) for point in await door.points()]
    last = int((await door.moment(asked.until or "now"))["write"])
    first = points[0] if points else last
    if asked.since is not None:
        first = int((await door.moment(asked.since))["write"])
    if first > last:
        raise UsageError("bad-range", "--from is later than --to.", "Exchange them.")
    return sorted({first, last, *(write for write in points if first <= write <= last)})


class Tries:
    """Runs the command on a moment, counts, and says how it went."""

    def __init__(self, asked: Asked, door: Door) -> None:
        self._asked = asked
        self._door = door
        self.runs = 0

    async def succeeds(self, write: int) -> bool:
        self.runs += 1
        good = await self._run((await self._door.moment(f"w{write}"))["export"])
        if not self._asked.quiet:
            print_note(f"w{write}: {'good' if good else 'bad'}")
        return good

    async def _run(self, export: str) -> bool:
        trial, uri = self._asked.trial, self._door.uri(export)
        if not trial.needs_file:
            return await trial.succeeds(uri=uri, moment=export, file=None)
        from revolume.cli.transfer import pull

        descriptor, path = tempfile.mkstemp(prefix="revolume-", suffix=".img")
        try:
            async with self._door.remote(export) as remote:
                await pull(remote, descriptor, _silent)
            return await trial.succeeds(uri=uri, moment=export, file=path)
        finally:
            os.close(descriptor)
            os.unlink(path)


def _silent(stage: str, done: int, total: int) -> None:
    """Each run is told when it has ended."""


def _good_nowhere(runs: int, candidates: int) -> NotFound:
    cause = f"The command succeeds at none of the {runs} moments tried, of {candidates} points."
    hint = "See with --verbose what it says; --from, --to and --tries say where and how long to look."
    return NotFound("good-nowhere", cause, hint)


def _bad_nowhere(write: int) -> NotFound:
    cause = f"The command succeeds at the last moment of all, w{write}: there is nothing to find."
    return NotFound("bad-nowhere", cause, "Put --to before the last good moment if you look for an earlier one.")


def _print(found: Found) -> None:
    for side, moment in (("last good", found.good), ("first bad", found.bad)):
        point = moment["point_before"]
        after = f", after cp{point['number']} of {show_time(point['time_ns'])}" if point else ""
        print_line(f"{side}: {moment['export']} of {show_time(moment['time_ns'])}{after}")
    print_note(f"{found.runs} runs")
