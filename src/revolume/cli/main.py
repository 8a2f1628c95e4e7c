"""The command ``revolume``: finds the verb, runs it, and turns how it ended into words and a status.

Every verb is a function in a file of its name. It prints its result and returns an exit status (None is
0), or raises a RevolumeError, which carries its own status. Statuses: 0 done; 1 failed; 2 usage; 3 not
found; 4 refused for safety; 5 done, with a finding (damage, or a copy that is not whole); 6 timed out; 130
interrupted.

This file and the verbs' top levels import only what parsing needs: ``revolume --help`` must not wait for
numpy or an HTTP framework. A verb imports what it works with when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from revolume.cli.output import print_error
from revolume.cli.verbs import (
    bisect,
    branch,
    check,
    clone,
    copy,
    demote,
    detach,
    detach_clone,
    diff,
    du,
    fetch,
    grow,
    history,
    jobs,
    keep,
    mirror,
    points,
    promote,
    prove,
    restore,
    resync,
    salvage,
    scrub,
    serve,
    snapshot,
    status,
    switchover,
    verify,
    version,
    wait,
)
from revolume.errors import RevolumeError, UsageError
from revolume.host import descriptors
from revolume.host.log_sink import open_missing_streams

INTERRUPTED: Final = 130
_VERBS: Final = (
    serve, status, wait, points, snapshot, keep, restore, fetch, grow, promote, demote, switchover, detach, mirror,
    resync, verify, jobs, scrub, check, copy, clone, detach_clone, diff, history, du, salvage, bisect, prove,
    branch, version,
)  # fmt: skip


def _say_version(asked: bool) -> None:
    if asked:
        version.version()
        raise typer.Exit


def _application() -> typer.Typer:
    app = typer.Typer(
        name="revolume",
        help="Block volumes over NBD that remember every write.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_no_verb)
    for verb in _VERBS:
        verb.register(app)
    return app


def _no_verb(
    version: Annotated[
        bool, typer.Option("--version", help="Say which revolume this is.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Block volumes over NBD that remember every write."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    open_missing_streams()
    descriptors.raise_limit()
    words = list(sys.argv[1:] if arguments is None else arguments)
    words = words or ["--help"]
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    try:
        return int(_application()(args=words, prog_name="revolume", standalone_mode=False) or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:
        told = _told(error)
        print_error(told, as_json=as_json)
        return told.exit_status


def _told(error: Exception) -> RevolumeError:
    """``error`` in the shape that is printed: what went wrong, and what to do."""
    if isinstance(error, RevolumeError):
        return error
    if isinstance(error, _PARSE_ERRORS):
        words = error.format_message()  # type: ignore[attr-defined]
        context = getattr(error, "ctx", None)
        return UsageError("usage", _sentence(words), f"{context.command_path if context else 'revolume'} --help.")
    if isinstance(error, OSError):
        return RevolumeError("system", _sentence(_system_words(error)), "")
    if os.environ.get("REVOLUME_TRACEBACK"):
        raise error
    cause = f"{type(error).__name__}: {error}"
    return RevolumeError(
        "internal", _sentence(cause), "This is a fault of revolume's; REVOLUME_TRACEBACK=1 shows where."
    )


# What the parser raises for a wrong command line; the name of its module is not part of typer's interface.
_PARSE_ERRORS: Final = typer.BadParameter.__bases__


def _system_words(error: OSError) -> str:
    words = error.strerror or str(error)
    return f"{error.filename}: {words}" if error.filename is not None else words


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "?", "!")) else line + "."


def _reader_left() -> int:
    """Whoever read our output has gone; nothing more can be said, and Python must not try at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
