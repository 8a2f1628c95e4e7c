"""``DIR@MOMENT``: which volume, and when.

A moment holds neither '@' nor '/', so the last '@' of the last part of the path begins it; a directory
whose own name has an '@' is taken as it stands if it exists.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from revolume.errors import NotFound, Refused, UsageError
from revolume.history.moments import Moment, check_volume_name, parse_moment


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
        raise UsageError("not-a-volume", f"{directory} is no directory, so it is no volume.")
    hint = f"revolume serve {directory} --size SIZE makes one."
    raise NotFound("no-such-volume", f"There is no volume {directory}.", hint)


def trusted(directory: str) -> str:
    """``directory``, unless it is another user's: what lies there would be taken for a volume, a socket there for
    its server. Root works for anybody, and everybody trusts root."""
    try:
        owner = os.stat(directory).st_uid
    except (FileNotFoundError, NotADirectoryError):
        return directory
    if os.geteuid() not in (0, owner) and owner != 0:
        raise Refused(
            "not-ours", f"{directory} belongs to another user (uid {owner}).",
            "Work on it as that user; or, if you trust what is in it, make it yours with chown.",
        )  # fmt: skip
    return directory


def holds_volume(directory: str) -> bool:
    """Is there a volume already?"""
    return any(os.path.exists(os.path.join(directory, name)) for name in ("manifest.a", "manifest.b"))


def wanted_name(directory: str, name: str | None = None) -> str | None:
    """The name asked for. A new volume without one gets its directory's, which must then be fit for it."""
    if name is not None:
        return check_volume_name(name)
    if holds_volume(directory):
        return None
    try:
        return check_volume_name(os.path.basename(os.path.abspath(directory)))
    except UsageError as error:
        error.hint = "Give the volume a name with --name, or its directory another."
        raise
