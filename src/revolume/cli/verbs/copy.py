"""``revolume copy``: a volume or a moment of it into a file, or a file into a volume.

Which of the two is the volume is seen from what is there: the volume is a directory, the file is not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revolume.cli.options import ForceOption, JsonOption, SuspectOption
from revolume.cli.output import print_json, print_line
from revolume.cli.suspect_moments import refuse_suspect
from revolume.cli.target import Target, parse_target
from revolume.cli.values import show_size
from revolume.errors import NotFound, Refused, UsageError
from revolume.history.moments import format_moment

if TYPE_CHECKING:
    from revolume.cli.progress import Report
    from revolume.cli.volume_session import VolumeSession

_IMAGE_SUFFIXES = (".img", ".raw", ".qcow2", ".qcow", ".iso", ".vmdk", ".vdi", ".vhd", ".vhdx", ".dd", ".bin")
"""Who copies a file to such a name, where there is nothing, does not mean a volume's directory."""

SourceArgument = Annotated[
    str, typer.Argument(metavar="FROM", help="DIR, DIR@MOMENT, or a file.", show_default=False)
]
TargetArgument = Annotated[str, typer.Argument(metavar="TO", help="A file, or DIR.", show_default=False)]


def register(app: typer.Typer) -> None:
    app.command()(copy)


def copy(
    source: SourceArgument,
    target: TargetArgument,
    force: ForceOption = False,
    suspect: SuspectOption = False,
    json: JsonOption = False,
) -> None:
    """Copy a volume into a file, or a file into a volume.

    Sparse both ways. DIR@MOMENT copies the volume as it was at that moment. A file goes into a volume that is
    empty, or into a new one in DIR (a name like disk.img needs a slash behind it: a file may have been meant).
    """
    import asyncio

    from revolume.cli.progress import progress

    _refuse_streams(source, target)
    if os.path.isfile(source) or _is_device(source):
        _volume_target(source, target)
        with progress(as_json=json) as report:
            answer = asyncio.run(_push(source, target, report, force=force))
    else:
        wanted = _volume_source(source, target)
        with progress(as_json=json) as report:
            answer = asyncio.run(_pull(wanted, target, report, force=force, suspect=suspect))
    if json:
        print_json(answer)
    else:
        data, size = show_size(answer["data_bytes"]), show_size(answer["size"])
        print_line(f"{answer['from']} -> {answer['to']}: {size}, of which {data} not zero")


def _refuse_streams(*names: str) -> None:
    """Elsewhere - is a stream; a file of that name, and a success, would be misread in a pipe."""
    if "-" in names:
        raise UsageError(
            "no-stream", "A copy is sparse: it goes from or to a file, not a stream.",
            "Name a file (./- is one), or read the volume over NBD: nbdcopy URI -.",
        )  # fmt: skip


def _is_device(path: str) -> bool:
    import stat

    return os.path.exists(path) and stat.S_ISBLK(os.stat(path).st_mode)


def _volume_source(source: str, target: str) -> Target:
    wanted = parse_target(source)
    if not os.path.isdir(wanted.directory):
        cause = f"There is neither a volume nor a file {wanted.directory}."
        raise NotFound("no-such-source", cause, "FROM is DIR, DIR@MOMENT or a file.")
    if os.path.isdir(target):
        raise UsageError(
            "two-volumes", f"{target} is a directory, and so is the source.", "One of the two is a file."
        )
    return wanted


def _volume_target(source: str, target: str) -> None:
    wanted = parse_target(target)
    if wanted.moment is not None:
        raise UsageError("past-is-fixed", "A moment cannot be written to.", f"Copy into {wanted.directory}.")
    if os.path.lexists(target) and not os.path.isdir(target):
        raise UsageError(
            "two-files", f"{source} and {target} are both files.", "One of the two is a volume's directory."
        )
    if not os.path.lexists(target) and target.lower().endswith(_IMAGE_SUFFIXES):
        raise UsageError(
            "two-files", f"{target} does not exist and has an image file's name, and {source} is a file.",
            f"cp or qemu-img copies files; for a new volume in a directory of that name say {target}/.",
        )  # fmt: skip


async def _pull(wanted: Target, file: str, report: Report, *, force: bool, suspect: bool) -> dict[str, Any]:
    from revolume.cli.copy_files import refuse_overwriting, target_file

    refuse_overwriting(file, force=force)
    from revolume.cli.open_session import open_session
    from revolume.cli.transfer import pull

    async with open_session(wanted.directory) as session:
        export = await _export(session, wanted, suspect=suspect)
        async with session.remote(export) as remote:
            with target_file(file, remote.size) as opened:
                copied = await pull(remote, opened.descriptor, report, sparse=opened.sparse)
            return _answer(remote.name, file, copied.size, copied.data)


async def _export(session: VolumeSession, wanted: Target, *, suspect: bool) -> str:
    """The name that opens what is wanted. Refused: it is suspect, and nobody has said that it may be."""
    if wanted.moment is None and not suspect:
        return ""  # where the present itself is suspect, it is refused where it is opened
    moment = await session.moment("now" if wanted.moment is None else format_moment(wanted.moment))
    refuse_suspect(moment, suspect=suspect)
    return "" if wanted.moment is None and not moment.get("suspect") else str(moment["export"])


async def _push(file: str, directory: str, report: Report, *, force: bool) -> dict[str, Any]:
    from revolume.cli.copy_files import source_file
    from revolume.cli.open_session import open_session
    from revolume.cli.transfer import holds_data, push

    with source_file(file) as (descriptor, size):
        opening = open_session(directory, create_size=_whole_sectors(size))
        async with opening as session, session.remote("") as remote:
            if remote.size < size:
                cause = f"{file} has {size} bytes, the volume {remote.size}."
                raise Refused("volume-too-small", cause, f"revolume grow {directory} {size}.")
            if not force and await holds_data(remote):
                hint = "--force overwrites it; what it held stays in its history."
                raise Refused("volume-not-empty", f"The volume {directory} holds data.", hint)
            copied = await push(descriptor, size, remote, report, overwrite=force)
            return _answer(file, remote.name, copied.size, copied.data)


def _whole_sectors(size: int) -> int:
    return -(-size // 512) * 512


def _answer(source: str, target: str, size: int, data: int) -> dict[str, Any]:
    return {"from": source, "to": target, "size": size, "data_bytes": data}
