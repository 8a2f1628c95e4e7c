"""Where a mirror of a volume is, what it is for, and whose certificate it must show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from revolume.errors import UsageError
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState
from revolume.volume.metadata.on_lost import AS_IT_IS, DEADLINE_MS_MAX, DEADLINE_MS_MIN, AskedOnLost

MODES: Final = ("sync", "async")
LOST_POLICIES: Final = ("block", "detach")
NAME_BYTES_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class MirrorTo:
    """One mirror that a service is to feed. ``None`` leaves it to what is known of the mirror, or to the
    default."""

    address: str
    sync: bool | None
    name: str
    peer: str | None = None
    """The name for which its certificate must be valid, instead of the address's host."""
    history: History | None = None
    lost: AskedOnLost = AS_IT_IS
    """What becomes of answers when it is lost."""
    named: bool = True
    """Somebody has given it this name; otherwise it is called by its address."""

    @property
    def mode(self) -> MirrorMode | None:
        """What was asked for, if anything was."""
        if self.sync is None:
            return None
        return MirrorMode.SYNC if self.sync else MirrorMode.ASYNC


def known_on_lost(policy: str | None, deadline_s: float | None, where: str) -> AskedOnLost:
    """What is asked for when a mirror is lost. UsageError."""
    if policy is not None and policy not in LOST_POLICIES:
        raise UsageError(
            "on-lost", f"{where[:200]!a}: {policy[:80]!a} is no policy for a lost mirror.",
            "block: replies wait for a lost sync mirror; detach: it is given up when its deadline has passed, "
            "until it is level again.",
        )  # fmt: skip
    deadline_ms = None if deadline_s is None else round(deadline_s * 1000)
    if deadline_ms is not None and not DEADLINE_MS_MIN <= deadline_ms <= DEADLINE_MS_MAX:
        raise UsageError(
            "deadline", f"{where[:200]!a}: {deadline_s:g} s is no deadline.",
            f"Give one from {DEADLINE_MS_MIN // 1000} s to {DEADLINE_MS_MAX // 1000} s, below clients' time-outs.",
        )  # fmt: skip
    return AskedOnLost(None if policy is None else policy == "detach", deadline_ms)


def known_history(history: str | None, where: str) -> History | None:
    """How much of the past a new mirror gets; None: nothing was said. UsageError."""
    if history is None:
        return None
    try:
        return History(history)
    except ValueError:
        raise UsageError(
            "mirror-history", f"{where[:200]!a}: {history[:80]!a} is not a history.", "It is named, all or none."
        ) from None


def known_mode(mode: str | None, where: str) -> bool | None:
    """Whether it is sync; None: nothing was said. UsageError."""
    if mode is None:
        return None
    if mode not in MODES:
        raise UsageError("mirror-mode", f"{where[:200]!a}: {mode[:80]!a} is not a mode.", "It is sync or async.")
    return mode == "sync"


def fit_name(name: str) -> str:
    """A mirror's name. UsageError: it is none."""
    if not name or not name.isprintable() or len(name.encode()) > NAME_BYTES_MAX:
        raise UsageError(
            "mirror-name", f"{name[:80]!a} is not a name for a mirror.", "Use 1 to 255 bytes of printable text."
        )
    return name


def as_recorded(mirror: MirrorState) -> MirrorTo:
    """A mirror as the manifest has it."""
    return MirrorTo(mirror.address, None, mirror.name)
