"""The JSON of the faces: what HTTP answers and ``--json`` prints, the same objects in both.

Times are given twice, as nanoseconds since 1970 (``time_ns``, for programs) and as RFC 3339 in UTC
(``time``, for people). Digests are hexadecimal strings, since many JSON readers keep only 53 bits of a
number. ``export`` is the export name under which the moment can be opened. A primary's mirrors are told as
``mirror/mirror_status.py`` has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from revolume.api.problems import problem
from revolume.history.moments import (
    format_time,
)
from revolume.jobs.job import Job


@dataclass(frozen=True, slots=True)
class BaseSchema:
    """A base that is being received: its point, and the number of the first block that is not yet here."""

    point: int
    next_block: int
    blocks: int


@dataclass(frozen=True, slots=True)
class SourceSchema:
    """At a mirror: how far it has come, and its source, connected or not ``since`` then. ``base``: None once the
    base is complete. ``before``: of a copy that was the primary and has heard of no other since, what to do;
    ``removed``: of one that is no member of the volume any more, that, why, and what to do; "" of any other."""

    listening: str
    connected: bool
    peer: str
    source_epoch: int
    since: str
    since_ns: int
    reason: str
    received: int
    durable: int
    agreed_point: int
    agreed_position: int
    base: BaseSchema | None
    failure: str
    promotable: bool
    why_not: str
    source_name: str = ""
    refusals: int = 0
    level_at: int = 0
    before: str = ""
    removed: str = ""
    on_lost: str = ""
    deadline_seconds: float = 0.0
    detached: bool = False
    differs_since: int = 0
    """Not 0: at this point it was found to differ from its source, and nothing has proved it equal since."""
    lease_seconds: float = 0.0
    """For so long it may still take itself for in sync; 0: it may not, or needs no lease."""


@dataclass(frozen=True, slots=True)
class MirrorOrder:
    """What is asked for of a mirror: its address, its mode (sync, async), how much of the past its base begins
    with (named, all, none), the name that its certificate must have, and what becomes of answers when it is lost
    (block, detach), after how many seconds. None: as it is, or the default."""

    name: str
    address: str | None = None
    mode: str | None = None
    history: str | None = None
    peer: str | None = None
    on_lost: str | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class AddedMirrorSchema:
    """A mirror that was added. ``told`` says all of it in sentences. ``answers``: somebody is at its address.
    ``send_bytes``, of base and log, have to be sent before it protects anything; ``seconds`` is how long that
    takes at ``assumed_bytes_per_s``, which nobody has measured yet."""

    name: str
    address: str
    mode: str
    told: str
    answers: bool
    send_bytes: int
    assumed_bytes_per_s: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MirrorSetSchema:
    """What was changed of a mirror, in sentences."""

    name: str
    told: str


@dataclass(frozen=True, slots=True)
class ResyncOrder:
    """``mirrors``: their names, none for all; ``prefer``: auto, history or bytes. ``take_back``: one that has gone
    its own way takes back what it wrote alone. ``rate``: bytes a second of bulk from now on, 0 for no limit;
    ``window``: of the day, as in 22:00-06:00, "" for always; None: as it is. ``cancel``: what was ordered is
    dropped, a difference that is being sent ends, and none begins until another order."""

    mirrors: tuple[str, ...] = ()
    prefer: str = "auto"
    take_back: bool = False
    dry_run: bool = False
    rate: int | None = None
    window: str | None = None
    cancel: bool = False


@dataclass(frozen=True, slots=True)
class ResyncSchema:
    """How one mirror is brought up to date. ``strategy``: the rule by its name, "away" or "cancelled";
    ``refused``: nothing begins, and ``hint`` says what to do; ``send_bytes`` have to be sent, which takes
    ``seconds`` at an assumed rate; ``told`` says it in a sentence."""

    name: str
    strategy: str
    reason: str
    hint: str
    refused: bool
    send_bytes: int
    seconds: float
    told: str


@dataclass(frozen=True, slots=True)
class MemberSchema:
    """A copy of the volume, as this one knows it up to where its log reaches. ``mode``: "primary" for the one that
    is the primary, or was; ``node``: "" until a copy has joined; ``this``: it is this one."""

    name: str
    node: str
    address: str
    mode: str
    joined: bool
    required: bool
    this: bool


@dataclass(frozen=True, slots=True)
class PromotedSchema:
    """A mirror that has become a primary: its opening, what it begins with, and the URIs where it is found from
    now on besides those where the mirror was. ``proof``: what is lost by that, or that nothing is, in a
    sentence."""

    name: str
    role: str
    epoch: int
    write: int
    point: int
    nbd: tuple[str, ...] = ()
    proof: str = ""


@dataclass(frozen=True, slots=True)
class DemotedSchema:
    """A primary that has become a mirror's copy: the point and write at which it stands, where its log ends, where
    it listens for a source ("": it is not served), and all of it in a sentence."""

    name: str
    role: str
    point: int
    write: int
    position: int
    listening: str
    told: str


@dataclass(frozen=True, slots=True)
class SwitchedSchema:
    """A primary that has handed over to its mirror ``to``, whose opening is ``epoch`` (0: it has not connected
    yet): the last point of the former, where it listens as a mirror, and all of it in a sentence."""

    name: str
    to: str
    epoch: int
    point: int
    listening: str
    told: str


UNDO_FOR_S: Final = 7 * 86400.0
"""So long what was before a restore is kept, unless more or less is asked for."""


@dataclass(frozen=True, slots=True)
class RestoreOrder:
    """Bring a volume back to the moment ``to``, or, with ``undo``, to what was before the last restore: in the
    bytes [``begin``, ``end``), or all of it. ``dry_run``: only say what differs. ``disconnect``: end the
    connections of clients that may write. ``undo_for``: seconds of lived time for which what was before is kept as
    a snapshot; 0: until it is dropped."""

    to: str = ""
    undo: bool = False
    begin: int | None = None
    end: int | None = None
    dry_run: bool = False
    yes: bool = False
    disconnect: bool = False
    undo_for: float = UNDO_FOR_S


@dataclass(frozen=True, slots=True)
class RestoredSchema:
    """A restore to the write ``write`` with its label, by the write ``write_now``: the snapshot of what was before
    (empty: nothing has been changed), how many bytes of content and of zeroes differ, the volume's size now and
    then, and all of it in a sentence."""

    name: str
    write: int
    time_ns: int
    write_now: int
    before: str
    restored: bool
    bytes: int
    zero_bytes: int
    size: int
    size_then: int
    told: str


@dataclass(frozen=True, slots=True)
class RestoreStatusSchema:
    """The restore that is under way: what it does (empty: there is none), and how many bytes of ``total`` it has
    dealt with; ``told``: how the last one since the start of the service ended."""

    stage: str = ""
    done: int = 0
    total: int = 0
    told: str = ""


@dataclass(frozen=True, slots=True)
class JobSchema:
    """A long operation. ``state``: queued, running, done, failed, cancelled. ``done`` of ``total`` in ``unit``; 0:
    not known. ``result``: what the kind of job says of its end. ``finding``: it is done, and something is wrong
    with what it looked at. ``error``: of one that failed, as HTTP tells errors. Times: "" before they come."""

    id: str
    kind: str
    what: str
    state: str
    stage: str
    done: int
    total: int
    unit: str
    started: str
    started_ns: int
    ended: str
    ended_ns: int
    finding: bool
    result: dict[str, Any]
    error: dict[str, Any] | None


def job_schema(job: Job) -> JobSchema:
    return JobSchema(
        id=job.id,
        kind=job.kind,
        what=job.what,
        state=str(job.state),
        stage=job.stage,
        done=job.done,
        total=job.total,
        unit=job.unit,
        started=format_time(job.started_ns) if job.started_ns else "",
        started_ns=job.started_ns,
        ended=format_time(job.ended_ns) if job.ended_ns else "",
        ended_ns=job.ended_ns,
        finding=job.outcome.finding,
        result=dict(job.outcome.result),
        error=problem(job.error)[1] if job.error is not None else None,
    )
