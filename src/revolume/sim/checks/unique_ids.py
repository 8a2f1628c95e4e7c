"""What names one thing never names another: numbers of writes, of openings, and of the uses of segments.

A crash may take back what was named, and nobody would see a name given out again in what is left. So each life of
a directory is compared with the one before it, as that was when it ended. A transfer is named by its opening's
number and its position; positions may come again, so an opening's number must not.
"""

from __future__ import annotations

from revolume.volume.core import Core
from revolume.volume.manifest import Role


def check_given_once(last: Core | None, core: Core, who: str) -> list[str]:
    """``last``: the core of the same directory's life before; None: this is the first."""
    if last is None:
        return []
    wrong = _uses(last, core)
    if last.manifest.state.role == core.manifest.state.role == Role.PRIMARY:
        if core.appender.epoch <= last.appender.epoch:
            wrong.append(f"opening {core.appender.epoch} follows on opening {last.appender.epoch}: transfers get")
        if core.appender.write < last.appender.write:
            wrong.append(f"behind w{core.appender.write}, and there was w{last.appender.write}: writes get")
    return [f"{who}: {found} names for the second time" for found in wrong]


def _uses(last: Core, core: Core) -> list[str]:
    before = last.pool.by_use
    newest = max(before, default=0)
    return [
        f"use {use} was one of another file, or over: segments get"
        for use, segment in sorted(core.pool.by_use.items())
        if use <= newest and (use not in before or before[use].index != segment.index)
    ]
