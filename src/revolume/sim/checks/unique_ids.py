"""What names one thing never names another: numbers of writes, of openings, and of the uses of segments.

A crash may take back what was named, and nobody would see a name given out again in what is left. So each life of
a directory is compared with the one before it, as that was when it ended. A transfer is named by its opening's
number and its position; positions may come again, so an opening's number must not.
"""

from __future__ import annotations

from revolume.volume.metadata.manifest_state import Role
from revolume.volume.volume_base import OpenVolume


def check_given_once(last: OpenVolume | None, volume: OpenVolume, who: str) -> list[str]:
    """``last``: the volume of the same directory's life before; None: this is the first. An unfinished base that
    began anew meanwhile was nobody's state: what it had named is gone with it."""
    if last is None or last.manifest.state.created_ns != volume.manifest.state.created_ns:
        return []
    wrong = _uses(last, volume)
    if last.manifest.state.role == volume.manifest.state.role == Role.PRIMARY:
        before, now = last.log.appender, volume.log.appender
        if now.epoch <= before.epoch:
            wrong.append(f"opening {now.epoch} follows on opening {before.epoch}: transfers get")
        if now.write < before.write:
            wrong.append(f"behind w{now.write}, and there was w{before.write}: writes get")
    return [f"{who}: {found} names for the second time" for found in wrong]


def _uses(last: OpenVolume, volume: OpenVolume) -> list[str]:
    before = last.log.pool.by_use
    newest = max(before, default=0)
    return [
        f"use {use} was one of another file, or over: segments get"
        for use, segment in sorted(volume.log.pool.by_use.items())
        if use <= newest and (use not in before or before[use].index != segment.index)
    ]
