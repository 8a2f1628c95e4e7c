"""``revolume version``."""

from __future__ import annotations

import typer

from revolume import __version__
from revolume.cli.options import JsonOption
from revolume.cli.output import print_json, print_line


def register(app: typer.Typer) -> None:
    app.command()(version)


def version(json: JsonOption = False) -> None:
    """Say which revolume this is."""
    if json:
        print_json({"version": __version__})
    else:
        print_line(f"revolume {__version__}")
