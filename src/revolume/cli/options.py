"""The arguments that verbs share, so that one word means one thing in every verb."""

from __future__ import annotations

from typing import Annotated

import typer

VolumeArgument = Annotated[str, typer.Argument(metavar="DIR", help="The volume's directory.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs; errors too.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
