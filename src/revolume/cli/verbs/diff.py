"""``revolume diff DIR FROM [TO]``: where a volume changed between two moments, and how much of it.

What is asked over NBD is what any client can ask: the export of the later moment, and its bitmap of changes since
the earlier one. So it is by the block, 4 KiB, and says where was written, also where the same bytes were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from revolume.cli.options import JsonOption, SuspectOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note, print_table
from revolume.cli.suspect_moments import refuse_suspect
from revolume.cli.values import counted, show_size
from revolume.errors import UsageError
from revolume.history.moments import parse_moment

if TYPE_CHECKING:
    from revolume.cli.progress import Report

_SHOWN: Final = 20
_STEP: Final = 1 << 30
_BITMAP: Final = "qemu:dirty-bitmap:"

SinceArgument = Annotated[str, typer.Argument(metavar="FROM", help="The earlier moment.", show_default=False)]
UptoArgument = Annotated[str, typer.Argument(metavar="[TO]", help="The later one; the present if left out.")]
AllOption = Annotated[bool, typer.Option("--all", help=f"Every stretch, not only the first {_SHOWN}.")]


def register(app: typer.Typer) -> None:
    app.command()(diff)


def diff(
    volume: VolumeArgument,
    since: SinceArgument,
    upto: UptoArgument = "now",
    every: AllOption = False,
    suspect: SuspectOption = False,
    json: JsonOption = False,
) -> None:
    """Say where a volume changed between two moments."""
    import asyncio

    from revolume.cli.progress import progress
    from revolume.cli.target import existing

    for moment in (since, upto):
        parse_moment(moment)
    with progress(as_json=json) as report:
        found = asyncio.run(_diff(existing(volume), since, upto, report, suspect=suspect))
    if json:
        print_json(found)
    else:
        _print(found, every=every)


async def _diff(directory: str, since: str, upto: str, report: Report, *, suspect: bool) -> dict[str, Any]:
    from revolume.cli.open_session import open_session

    async with open_session(directory) as session:
        earlier, later = await session.moment(since), await session.moment(upto)
        for moment in (earlier, later):
            refuse_suspect(moment, suspect=suspect)
        if earlier["write"] > later["write"]:
            cause = f"{since} (w{earlier['write']}) is later than {upto} (w{later['write']})."
            raise UsageError("bad-range", cause, "Name the earlier moment first.")
        context = f"{_BITMAP}w{earlier['write']}"
        async with session.remote(later["export"], (context,)) as remote:
            extents: list[tuple[int, int]] = []
            for at in range(0, remote.size, _STEP):
                report("compared", at, remote.size)
                await _add(extents, remote.changed_extents(context, at, min(_STEP, remote.size - at)))
    return {
        "from": earlier, "to": later, "bytes": sum(length for _, length in extents),
        "extents": [{"offset": offset, "length": length} for offset, length in extents],
    }  # fmt: skip


async def _add(extents: list[tuple[int, int]], found: Any) -> None:
    """Those that touch are one."""
    async for offset, length in found:
        if extents and sum(extents[-1]) == offset:
            offset, length = extents[-1][0], extents.pop()[1] + length
        extents.append((offset, length))


def _print(found: dict[str, Any], *, every: bool) -> None:
    extents: Sequence[dict[str, int]] = found["extents"]
    between = f"between w{found['from']['write']} and w{found['to']['write']}"
    if not extents:
        print_line(f"nothing was written {between}")
        return
    shown = extents if every else extents[:_SHOWN]
    print_table(
        ("OFFSET>", "LENGTH>", ""),
        [(str(each["offset"]), str(each["length"]), show_size(each["length"])) for each in shown],
    )
    if len(shown) < len(extents):
        print_note(f"{len(extents) - len(shown)} more: --all shows them.")
    print_line(f"{show_size(found['bytes'])} in {counted(len(extents), 'stretch')} changed {between}")
