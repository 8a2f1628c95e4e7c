"""The arguments that verbs share, so that one word means one thing in every verb."""

from __future__ import annotations

from typing import Annotated, Final

import typer

# The exit status of a verb that has done its work and found something wrong (the table is in cli/main.py).
FINDING: Final = 5

VolumeArgument = Annotated[str, typer.Argument(metavar="DIR", help="The volume's directory.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs; errors too.")]
SuspectOption = Annotated[
    bool,
    typer.Option("--suspect", help="Moments that are suspect too: this copy may not have them as they were."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
