"""Whose the files are: root that works on another user's volume must not lock that user out."""

from __future__ import annotations

import os


def like_directory(directory_fd: int, name: str) -> None:
    """What was made under ``name`` belongs to whom the directory belongs to. Only root can make it so; what others
    make is theirs already."""
    if os.geteuid() != 0:
        return
    owner = os.fstat(directory_fd)
    if (owner.st_uid, owner.st_gid) != (0, 0):
        os.chown(name, owner.st_uid, owner.st_gid, dir_fd=directory_fd, follow_symlinks=False)
