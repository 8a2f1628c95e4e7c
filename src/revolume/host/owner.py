"""Whose a directory and its files are: whether it may be trusted, and who shall own what is made in it."""

from __future__ import annotations

import os

from revolume.errors import Refused


def like_directory(directory_fd: int, name: str) -> None:
    """Give what was made under ``name`` the owner of its directory. Only root can do so; what other users make is
    theirs already."""
    if os.geteuid() != 0:
        return
    owner = os.fstat(directory_fd)
    if (owner.st_uid, owner.st_gid) != (0, 0):
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=directory_fd, follow_symlinks=False)


def trusted(directory: str) -> str:
    """``directory``, unless it is another user's: what lies there would be taken for a volume, a socket there for
    its server. Root works for anybody, and everybody trusts root. Refused otherwise."""
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
