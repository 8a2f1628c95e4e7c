"""What a branch is called, and how many there may be.

It is opened as VOLUME@branch:NAME, a moment within it as VOLUME@branch:NAME:MOMENT. A snapshot's name has no
colon, and a branch's neither, so none can be called so.
"""

from __future__ import annotations

import re
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.errors import NotFound, Refused, UsageError
from revolume.volume.metadata.branch_moment import BranchMoment
from revolume.volume.metadata.manifest_state import Branch, State

BRANCH_PREFIX: Final = "branch:"
BRANCHES_MAX: Final = 16
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def branch_moment(name: str, moment: str = "") -> str:
    """The text by which the end of this branch is opened, or a named moment within it."""
    return f"{BRANCH_PREFIX}{name}:{moment}" if moment else BRANCH_PREFIX + name


def check_branch_name(name: str) -> str:
    """``name`` without the prefix, if a branch may bear it. UsageError otherwise."""
    bare = name.removeprefix(BRANCH_PREFIX)
    if _NAME.fullmatch(bare):
        return bare
    raise UsageError(
        "bad-branch-name",
        f"A branch cannot be called {name[:80]!a}.",
        "Its name has a-z, 0-9, '.', '_' and '-', 63 characters at most, beginning with a letter or digit.",
    )


def room_for_branch(state: State, name: str, path: str) -> None:
    """Refused if the name is taken, or there are as many as there may be."""
    if any(branch.name == name for branch in state.branches):
        raise Refused("branch-exists", f"{state.name} has a branch {name}.", "Choose another name.")
    if len(state.branches) >= BRANCHES_MAX:
        oldest = state.branches[0].name
        raise Refused(
            "too-many-branches",
            f"{state.name} has {len(state.branches)} branches, and there may be no more.",
            f"Copy out what is needed of them, then drop one: 'revolume branch drop {path} {oldest}'.",
        )


def branch_named(state: State, name: str) -> Branch:
    """The branch of this name. NotFound: there is none."""
    found = next((branch for branch in state.branches if branch.name == name), None)
    if found is None:
        known = ", ".join(branch.name for branch in state.branches) or "none"
        raise NotFound("no-branch", f"{state.name} has no branch {name}.", f"It has: {known}.")
    return found


def moment_named(branch: Branch, name: str) -> BranchMoment:
    """The moment of this name within the branch. NotFound: it holds none."""
    found = next((moment for moment in branch.moments if moment.name == name), None)
    if found is None:
        known = ", ".join(moment.name for moment in branch.moments) or "none"
        raise NotFound("no-branch-moment", f"Branch {branch.name} has no moment {name}.", f"It has: {known}.")
    return found


def write_on(state: State, name: str, moment: str) -> WriteNumber:
    """The last write of a branch, or of a moment within it. NotFound: there is none."""
    branch = branch_named(state, name)
    return moment_named(branch, moment).write if moment else branch.write


def names_not_kept(branch: Branch) -> tuple[str, ...]:
    """Names that were given on the branch, and whose moments it does not hold."""
    held = {moment.name for moment in branch.moments}
    return tuple(name for name in branch.snapshots if name not in held)
