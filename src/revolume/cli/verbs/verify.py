"""``revolume verify DIR``: compare mirrors with their primary, and put right what differs."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from revolume.cli.job_wait import exit_status, run_job
from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing
from revolume.cli.values import parse_seconds, parse_size
from revolume.errors import UsageError

_LEFT: Final = 1
_MirrorOption = Annotated[str | None, typer.Option("--mirror", metavar="NAME", help="Only this one.")]
_QuickOption = Annotated[
    bool, typer.Option("--quick", help="Believe the stored digests: no content is read on either side.")
]
_NoRepairOption = Annotated[bool, typer.Option("--no-repair", help="Only say what differs; exit status 1 then.")]
_RegionOption = Annotated[
    list[str] | None,
    typer.Option("--region", metavar="OFFSET+LENGTH", help="Only this part of the volume. Repeatable."),
]
_TimeoutOption = Annotated[
    str | None, typer.Option("--timeout", help="Then stop waiting for it, with exit status 6; it goes on.")
]


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    volume: VolumeArgument,
    mirror: _MirrorOption = None,
    quick: _QuickOption = False,
    no_repair: _NoRepairOption = False,
    region: _RegionOption = None,
    timeout: _TimeoutOption = None,
    json: JsonOption = False,
) -> None:
    """Compare a volume's mirrors with it, block by block, and put right what differs; the primary is right.

    Clients go on writing meanwhile. Both sides read what they hold and check it against its digests, unless
    --quick is given. What differed is put right as part of a new point of the mirror's; its history before that
    is marked suspect. Exit status: 0 they are equal, 5 they differed and are equal now, 1 something is left.
    """
    from revolume.api.client import connect

    orders = {
        "mirror": mirror,
        "quick": quick,
        "repair": not no_repair,
        "regions": list(map(_region, region or [])),
    }
    client = connect(existing(volume))
    if client is None:
        raise UsageError("not-served", f"{volume} is not being served.", "Serve it: 'revolume serve DIR'.")
    with client:
        seconds = None if timeout is None else parse_seconds(timeout)
        job = run_job(client, "verify", orders, timeout_s=seconds, as_json=json)
    if json:
        print_json(job)
    else:
        print_line(job["result"]["told"])
    raise typer.Exit(_status(job))


def _status(job: dict[str, Any]) -> int:
    return exit_status(job) if job["result"]["good"] else _LEFT


def _region(text: str) -> tuple[int, int]:
    offset, plus, length = text.partition("+")
    if not plus:
        raise UsageError("bad-region", f"{text[:80]!a} is not a region.", "Say OFFSET+LENGTH, as in 1G+64M.")
    return parse_size(offset), parse_size(length)
