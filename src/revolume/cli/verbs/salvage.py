"""``revolume salvage DIR FILE``: the volume rebuilt from its self-describing records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from revolume.cli.options import FINDING, ForceOption, JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line, print_note
from revolume.cli.values import show_size

if TYPE_CHECKING:
    from revolume.offline.walk.report import Extents, SalvageReport

SHOWN = 20

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="Where the volume's content goes (sparse).")]


def register(app: typer.Typer) -> None:
    app.command()(salvage)


def salvage(
    volume: VolumeArgument, file: FileArgument, force: ForceOption = False, json: JsonOption = False
) -> int:
    """Rebuild a volume whose manifest or maps are lost.

    Only reads DIR; the content goes to FILE. Exit 5 if there are doubts about it.
    """
    from revolume.cli.copy_files import passing_name, refuse_overwriting
    from revolume.cli.target import existing
    from revolume.cli.verbs.check import refuse_running

    refuse_running(existing(volume), "salvaged")
    refuse_overwriting(file, force=force)
    from revolume.cli.progress import progress
    from revolume.host import real_host
    from revolume.offline.salvage.salvage import salvage as rebuild

    with progress(as_json=json) as report, passing_name(file) as passing:
        found = rebuild(real_host(), volume, passing, report)
    if json:
        print_json(found)
    else:
        _print(file, found)
    return 0 if found.good else FINDING


def _print(file: str, found: SalvageReport) -> None:
    for problem in found.problems:
        print_note(f"{problem.where}: {problem.what}")
    _print_blocks("lost", found.lost)
    _print_blocks("taken as found, their digests being lost", found.unproved)
    print_line(f"{file}: {show_size(found.size)} as of w{found.write}, {found.blocks} blocks with data")


def _print_blocks(what: str, extents: Extents) -> None:
    """The first ones; --json has them all."""
    if extents:
        shown = ", ".join(
            str(first) if count == 1 else f"{first}-{first + count - 1}" for first, count in extents[:SHOWN]
        )
        more = f" and {len(extents) - SHOWN} more stretches (--json has them all)" if len(extents) > SHOWN else ""
        print_note(f"{sum(count for _, count in extents)} blocks {what}: {shown}{more}")
