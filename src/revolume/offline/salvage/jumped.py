"""Salvage of a copy that has jumped, and that no opening has come to since: what arrived, over the image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

from revolume.errors import Damaged
from revolume.host.disk import Directory
from revolume.offline.salvage.output_image import OutputImage
from revolume.volume.jump.jump_tables import open_table
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest_state import Jump

Say = Callable[[str, str], None]


def take_jump(
    output: OutputImage, directory: Directory, volume: bytes, jump: Jump, say: Say, held: ExitStack
) -> None:
    """Put what arrived into the output. ``say``: what can't be had of it; the image's blocks stand there then."""
    if not jump.tables:
        return
    try:
        staged = held.enter_context(closing(directory.child(layout.JUMP)))
        file = held.enter_context(closing(staged.open(layout.JUMP_BLOCKS, write=False)))
    except FileNotFoundError as error:
        say(layout.JUMP, f"{error.filename} is missing")
        return
    for number in (table.number for table in jump.tables):
        try:
            with closing(open_table(staged, volume, number)) as table:
                for piece in table.pieces():
                    output.take_placed(file, piece)
        except (Damaged, OSError) as error:
            what = error.cause if isinstance(error, Damaged) else f"{error}."
            say(f"{layout.JUMP}/{layout.jump_table_name(number)}", what)
