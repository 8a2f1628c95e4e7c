"""``revolume bisect DIR -- CMD``: the last moment at which a command succeeds.

First over the consistency points, then over the writes between the last good and the first bad one, so
the answer names a single write. The verb says what it was asked and prints what was found; the order of
the search is ``search.py``, a try of the command is ``trial.py``, the volume is behind ``door.py``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
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
TriesOption = Annotated[
    int, typer.Option("--tries", min=1, help="Moments to try at most before giving up on a good one.")
]
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
    from revolume.cli.search import narrow

    async with open_door(asked.directory) as door:
        tried = Tries(asked, door)
        points = await _candidates(asked, door)
        good, bad = await _search(tried, points, asked.tries_max)
        if not asked.points_only:
            if good is None:
                every = range(points[0], points[-1] + 1)
                good, bad = await _search(tried, every, asked.tries_max - tried.runs)
            elif bad is not None:
                good, bad = await narrow(good, bad, tried.succeeds, tried.exists)
        if good is None:
            raise _good_nowhere(tried.runs)
        if bad is None:
            raise _bad_nowhere(good)
        return Found(await door.moment(f"w{good}"), await door.moment(f"w{bad}"), tried.runs)


async def _search(tried: Tries, writes: Sequence[int], tries_max: int) -> tuple[int | None, int | None]:
    """The last good and the first bad of these writes. (None, _): none is good. (last, None): the last is."""
    from revolume.cli.search import bracket, narrow

    async def succeeds(index: int) -> bool | None:
        return await tried.succeeds(writes[index])

    async def exists(index: int) -> bool:
        return await tried.exists(writes[index])

    good, bad = await bracket(len(writes), tries_max, succeeds)
    if good is not None and bad is not None:
        good, bad = await narrow(good, bad, succeeds, exists)
    return None if good is None else writes[good], None if bad is None else writes[bad]


async def _candidates(asked: Asked, door: Door) -> list[int]:
    """The writes at which consistency points lie, and both ends of what was asked, oldest first."""
    points = [int(point["write"]) for point in await door.points()]
    last = int((await door.moment(asked.until or "now"))["write"])
    first = int((await door.moment(asked.since))["write"]) if asked.since else await door.oldest()
    if first > last:
        raise UsageError("bad-range", "--from is later than --to.", "Exchange them.")
    return sorted({first, last, *(write for write in points if first <= write <= last)})


class Tries:
    """Runs the command on a moment, counts, and says how it went."""

    def __init__(self, asked: Asked, door: Door) -> None:
        self._asked = asked
        self._door = door
        self._known: dict[int, bool | None] = {}
        self.runs = 0

    async def succeeds(self, write: int) -> bool | None:
        """Does the command succeed after this write? None: there is no write of this number."""
        if write not in self._known:
            export = await self._export(write)
            self._known[write] = None if export is None else await self._judged(write, export)
        return self._known[write]

    async def exists(self, write: int) -> bool:
        return await self._export(write) is not None

    async def _export(self, write: int) -> str | None:
        try:
            moment = await self._door.moment(f"w{write}")
        except NotFound:
            return None
        return str(moment["export"]) if moment["write"] == write else None  # it was left out by a crash

    async def _judged(self, write: int, export: str) -> bool:
        self.runs += 1
        good = await self._run(export)
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


def _good_nowhere(runs: int) -> NotFound:
    cause = f"The command succeeds at none of the {runs} moments tried."
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
