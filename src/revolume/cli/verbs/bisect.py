"""``revolume bisect DIR -- CMD``: the last moment at which a command succeeds.

First over the consistency points, then over the writes between the last good and the first bad one, so
the answer names a single write. The verb says what it was asked and prints what was found; the order of
the search is ``bisect_search.py``, a try of the command is ``bisect_command.py``, the volume is behind
``open_session.py``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from revolume.cli.options import JsonOption, SuspectOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note
from revolume.cli.suspect_moments import refuse_suspect
from revolume.cli.values import parse_seconds, show_time
from revolume.errors import NotFound, UsageError
from revolume.history.moments import parse_moment

if TYPE_CHECKING:
    from revolume.cli.bisect_command import BisectCommand
    from revolume.cli.volume_session import VolumeSession

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
    suspect: SuspectOption = False,
    json: JsonOption = False,
) -> None:
    """Find the last moment at which a command succeeds."""
    import asyncio

    from revolume.cli.bisect_command import bisect_command
    from revolume.cli.target import existing

    for moment in (since, until):
        if moment is not None:
            parse_moment(moment)
    request = BisectRequest(
        directory=existing(volume),
        command=bisect_command(command, None if timeout is None else parse_seconds(timeout), verbose=verbose),
        since=since,
        until=until,
        points_only=points_only,
        tries_max=tries,
        quiet=json,
        suspect=suspect,
    )
    found = asyncio.run(_find(request))
    if json:
        print_json(found)
    else:
        _print(found)


@dataclass(frozen=True, slots=True)
class BisectRequest:
    """What is looked for, and where."""

    directory: str
    command: BisectCommand
    since: str | None
    until: str | None
    points_only: bool
    tries_max: int
    quiet: bool
    suspect: bool


@dataclass(frozen=True, slots=True)
class BisectResult:
    """Two moments beside each other: the command succeeds at the first and not at the second."""

    good: dict[str, Any]
    bad: dict[str, Any]
    runs: int


async def _find(request: BisectRequest) -> BisectResult:
    from revolume.cli.bisect_search import narrow
    from revolume.cli.open_session import open_session

    async with open_session(request.directory) as session:
        command_runs = CommandRuns(request, session)
        points = await _candidates(request, session)
        good, bad = await _search(command_runs, points, request.tries_max)
        if not request.points_only:
            if good is None:
                every = range(points[0], points[-1] + 1)
                good, bad = await _search(command_runs, every, request.tries_max - command_runs.runs)
            elif bad is not None:
                good, bad = await narrow(good, bad, command_runs.succeeds, command_runs.exists)
        if good is None:
            raise _good_nowhere(command_runs.runs)
        if bad is None:
            raise _bad_nowhere(good)
        return BisectResult(await session.moment(f"w{good}"), await session.moment(f"w{bad}"), command_runs.runs)


async def _search(
    command_runs: CommandRuns, writes: Sequence[int], tries_max: int
) -> tuple[int | None, int | None]:
    """The last good and the first bad of these writes. (None, _): none is good. (last, None): the last is."""
    from revolume.cli.bisect_search import bracket, narrow

    async def succeeds(index: int) -> bool | None:
        return await command_runs.succeeds(writes[index])

    async def exists(index: int) -> bool:
        return await command_runs.exists(writes[index])

    good, bad = await bracket(len(writes), tries_max, succeeds)
    if good is not None and bad is not None:
        good, bad = await narrow(good, bad, succeeds, exists)
    return None if good is None else writes[good], None if bad is None else writes[bad]


async def _candidates(request: BisectRequest, session: VolumeSession) -> list[int]:
    """The writes at which consistency points lie, and both ends of what was asked, oldest first."""
    points = [int(point["write"]) for point in await session.points()]
    last = int((await session.moment(request.until or "now"))["write"])
    first = int((await session.moment(request.since))["write"]) if request.since else await session.oldest()
    if first > last:
        raise UsageError("bad-range", "--from is later than --to.", "Exchange them.")
    return sorted({first, last, *(write for write in points if first <= write <= last)})


class CommandRuns:
    """Runs the command on a moment, counts, and says how it went."""

    def __init__(self, request: BisectRequest, session: VolumeSession) -> None:
        self._request = request
        self._session = session
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
            moment = await self._session.moment(f"w{write}")
        except NotFound:
            return None
        if moment["write"] != write:
            return None  # it was left out by a crash
        refuse_suspect(moment, suspect=self._request.suspect)
        return str(moment["export"])

    async def _judged(self, write: int, export: str) -> bool:
        self.runs += 1
        good = await self._run(export)
        if not self._request.quiet:
            print_note(f"w{write}: {'good' if good else 'bad'}")
        return good

    async def _run(self, export: str) -> bool:
        command, uri = self._request.command, self._session.uri(export)
        if not command.needs_file:
            return await command.succeeds(uri=uri, moment=export, file=None)
        from revolume.cli.transfer import pull

        descriptor, path = tempfile.mkstemp(prefix="revolume-", suffix=".img")
        try:
            async with self._session.remote(export) as remote:
                await pull(remote, descriptor, _silent)
            return await command.succeeds(uri=uri, moment=export, file=path)
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


def _print(found: BisectResult) -> None:
    for side, moment in (("last good", found.good), ("first bad", found.bad)):
        point = moment["point_before"]
        after = f", after cp{point['number']} of {show_time(point['time_ns'])}" if point else ""
        print_line(f"{side}: {moment['export']} of {show_time(moment['time_ns'])}{after}")
    print_note(f"{found.runs} runs")
