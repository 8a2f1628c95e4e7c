"""``revolume prove DIR -- CMD {uri}``: does a retained moment really hold what it should? A command says so.

The moment is opened as a throw-away writable export, so that a file system may replay its journal and a machine
may boot from it; nothing of that stays. The verdict is noted on the moment, and 'revolume points' shows it.
With ``--every`` it is done again and again, until it is stopped: for a service of its own beside the volume's.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from revolume.cli.options import FINDING, JsonOption, SuspectOption, VolumeArgument
from revolume.cli.output import print_json, print_json_line, print_line, print_note
from revolume.cli.suspect_moments import refuse_suspect
from revolume.cli.values import parse_seconds, show_time
from revolume.errors import NotFound, RevolumeError, UsageError
from revolume.history.moments import parse_moment

if TYPE_CHECKING:
    from revolume.api.client import ControlClient
    from revolume.cli.bisect_command import BisectCommand
    from revolume.cli.volume_session import VolumeSession

_TRIES_DEFAULT: Final = 16

CommandArgument = Annotated[
    list[str], typer.Argument(metavar="-- CMD...", help="The command; {uri} and {moment} in it are replaced.")
]
MomentOption = Annotated[
    str | None, typer.Option("--moment", metavar="MOMENT", help="This moment, in place of the newest point.")
]
FindOption = Annotated[
    bool, typer.Option("--find-good", help="If it does not pass, step back from point to point to one that does.")
]
TriesOption = Annotated[int, typer.Option("--tries", min=1, help="With --find-good: moments to try at most.")]
TimeoutOption = Annotated[str | None, typer.Option("--timeout", help="A run that takes longer does not pass.")]
EveryOption = Annotated[
    str | None, typer.Option("--every", metavar="SPAN", help="Again after each span, until it is stopped: 6h.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Show what the command prints.")]


def register(app: typer.Typer) -> None:
    app.command()(prove)


def prove(
    volume: VolumeArgument,
    command: CommandArgument,
    moment: MomentOption = None,
    find_good: FindOption = False,
    tries: TriesOption = _TRIES_DEFAULT,
    timeout: TimeoutOption = None,
    every: EveryOption = None,
    verbose: VerboseOption = False,
    suspect: SuspectOption = False,
    json: JsonOption = False,
) -> int:
    """Run a command on a retained moment, and note on it whether it passed.

    {uri} is an NBD URI that may be written to; what is written is thrown away. Exit 0 if a moment passed, 5 if
    none did.
    """
    from revolume.cli.bisect_command import bisect_command
    from revolume.cli.target import existing

    if moment is not None:
        parse_moment(moment)
    if moment is not None and every is not None:
        raise UsageError("usage", "--every takes the newest point of each time.", "Leave out --moment.")
    if not any("{uri}" in word for word in command):
        hint = "revolume prove DIR -- qemu-img check {uri}, for instance."
        raise UsageError("no-placeholder", "The command looks at no moment: it has no {uri}.", hint)
    wanted = bisect_command(command, None if timeout is None else parse_seconds(timeout), verbose=verbose)
    directory = existing(volume)
    order = ProveOrder(directory, wanted, moment, tries if find_good else 1, suspect, quiet=json)
    if every is not None:
        _prove_again_and_again(order, _span(every))
    proofs = _proofs(order)
    if json:
        print_json({"proofs": proofs})
    else:
        _print_end(proofs)
    return 0 if proofs[-1]["verdict"] == "passed" else FINDING


def _span(every: str) -> float:
    seconds = parse_seconds(every)
    if seconds <= 0:
        raise UsageError("usage", "--every takes a span above 0.", "--every 6h, for instance.")
    return seconds


@dataclass(frozen=True, slots=True)
class ProveOrder:
    """What is tried: the newest point, or ``moment``, then the points before it, ``tries`` in all."""

    directory: str
    command: BisectCommand
    moment: str | None
    tries: int
    suspect: bool
    quiet: bool


def _prove_again_and_again(order: ProveOrder, every_s: float) -> NoReturn:
    """A round each ``every_s`` seconds, from beginning to beginning, and a line for each. What can't be looked at
    in one (nobody serves it, there is no point yet) is looked at in the next."""
    # The one of asyncio only cancels the round's task: an interrupt at its very end would be lost.
    signal.signal(signal.SIGINT, _interrupted)
    passed: int | None = None
    while True:
        began = time.monotonic()
        try:
            proofs = _proofs(order, passed)
        except (RevolumeError, OSError) as error:
            _print_missed(error, as_json=order.quiet)
        else:
            if order.quiet:
                print_json_line({"proofs": proofs})
            elif proofs:
                _print_end(proofs)
            else:
                print_line(f"w{passed} is still the newest point, and has passed")
            passed = next((int(each["write"]) for each in proofs if each["verdict"] == "passed"), passed)
        time.sleep(max(0.0, began + every_s - time.monotonic()))


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _proofs(order: ProveOrder, passed: int | None = None) -> list[dict[str, Any]]:
    """The proofs of one round; none if ``passed`` is still the newest point."""
    import asyncio

    from revolume.api.client import connect

    client = connect(order.directory)
    if client is None:
        cause = f"{order.directory} is not being served."
        raise UsageError("not-served", cause, "Serve it: 'revolume serve DIR'.")
    with client:
        return asyncio.run(_proved(client, order, passed))


async def _proved(client: ControlClient, order: ProveOrder, known: int | None) -> list[dict[str, Any]]:
    """The proofs, in the order in which they were made: the last one passed, or none did. There are none if
    ``known``, which has passed, is still the newest point."""
    from revolume.cli.open_session import open_session

    proofs: list[dict[str, Any]] = []
    name = client.status()["name"]
    async with open_session(order.directory) as session:
        async for write in _candidates(session, order):
            if write == known and not proofs:
                break
            proofs.append(await _one(client, session, order, name, write))
            if proofs[-1]["verdict"] == "passed" or len(proofs) >= order.tries:
                return proofs
    return proofs


async def _candidates(session: VolumeSession, order: ProveOrder) -> AsyncIterator[int]:
    """Writes, newest first. NotFound: there is no point yet."""
    points: Sequence[int] = [int(point["write"]) for point in await session.points()]
    if order.moment is not None:
        first = int((await session.moment(order.moment))["write"])
    elif points:
        first = points[-1]
    else:
        raise NotFound("no-point", "There is no consistency point yet.", "Write first; or say --moment now.")
    yield first
    for write in reversed(points):
        if write < first:
            yield write


async def _one(
    client: ControlClient, session: VolumeSession, order: ProveOrder, name: str, write: int
) -> dict[str, Any]:
    refuse_suspect(await session.moment(f"w{write}"), suspect=order.suspect)
    export = f"{name}@w{write},rw{',suspect' if order.suspect else ''}"
    began = time.monotonic()
    passed = await order.command.succeeds(uri=session.uri(export), moment=export, file=None)
    took = time.monotonic() - began
    late = not passed and order.command.timeout_s is not None and took >= order.command.timeout_s
    verdict = "passed" if passed else "timed-out" if late else "failed"
    proof = client.prove(write, verdict, int(took * 1000), " ".join(order.command.words)[:400])
    if not order.quiet:
        print_note(f"w{write}: {verdict} in {took:.1f} s")
    return proof


def _print_missed(error: RevolumeError | OSError, *, as_json: bool) -> None:
    if as_json:
        print_json_line({"proofs": [], "code": getattr(error, "code", "system"), "message": str(error)})
    else:
        print_note(f"Not looked at this time: {error}")


def _print_end(proofs: list[dict[str, Any]]) -> None:
    last = proofs[-1]
    if last["verdict"] == "passed":
        print_line(f"w{last['write']} passed (cp{last['point']}), noted {show_time(last['time_ns'])}")
    else:
        tried = "It" if len(proofs) == 1 else f"None of {len(proofs)}"
        print_line(f"{tried} did not pass: w{last['write']} {last['verdict']}")
