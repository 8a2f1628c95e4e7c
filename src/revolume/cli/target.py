"""``DIR@MOMENT``: which volume, and when.

A moment holds neither '@' nor '/', so the last '@' of the last part of the path begins it; a directory
whose own name has an '@' is taken as it stands if it exists.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from revolume.errors import NotFound, UsageError
from revolume.history.moments import Moment, check_volume_name, parse_moment
from revolume.host.owner import trusted


@dataclass(frozen=True, slots=True)
class Target:
    """A volume's directory and, where one was given, a moment of it."""

    directory: str
    moment: Moment | None = None


def parse_target(text: str) -> Target:
    """What ``text`` names. Raises UsageError for a moment that makes no sense."""
    head, name = os.path.split(text)
    before, at, moment = name.rpartition("@")
    if not at or os.path.isdir(text):
        return Target(text)
    if not before and not head:
        raise UsageError("no-directory", f"{text!a} names no directory.", "Write DIR@MOMENT, as in ./vm1@-10m.")
    return Target(os.path.join(head, before), parse_moment(moment))


def existing(directory: str) -> str:
    """``directory`` if there is one, and it may be trusted. Raises NotFound, UsageError, Refused."""
    if os.path.isdir(directory):
        return trusted(directory)
    if os.path.lexists(directory):
        raise UsageError("not-a-volume", f"{directory} is not a directory, so it is not a volume.")
    before, at, _ = directory.rpartition("@")
    if at and os.path.isdir(before):
        raise UsageError(
            "no-moment-here", f"{directory} is a moment, and this verb takes a volume.", f"Name {before}."
        )
    hint = f"Look at the path. A new volume is made by 'revolume serve {directory} --size SIZE'."
    raise NotFound("no-such-volume", f"There is no volume {directory}.", hint)


def wanted_name(directory: str, name: str | None = None) -> str | None:
    """The name asked for. A new volume without one gets its directory's, which must then be fit for it."""
    from revolume.host.real.disk import RealDisk
    from revolume.volume.open.directory_state import holds_volume

    if name is not None:
        return check_volume_name(name)
    if holds_volume(RealDisk(), directory):
        return None
    try:
        return check_volume_name(os.path.basename(os.path.abspath(directory)))
    except UsageError as error:
        error.hint = f"Give the volume a name with --name, or its directory another. {error.hint}"
        raise
