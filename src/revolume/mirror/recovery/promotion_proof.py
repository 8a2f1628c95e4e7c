"""What proves that a promotion loses nothing that was answered: docs/promotion.md has the table.

The decision is pure; what it needs of the other copies is asked for with EXAMINE, which disturbs nobody.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from revolume.blocks.numbers import WriteNumber
from revolume.errors import RevolumeError
from revolume.history.moments import format_time
from revolume.host import Host
from revolume.host.clock import within
from revolume.mirror.recovery.examine import examine
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.examine_messages import Examined
from revolume.mirror.wire.tail_messages import Fetch
from revolume.volume.members.lost_mirrors import majority_of
from revolume.volume.metadata.manifest_state import Member, MirrorMode
from revolume.volume.suspect.suspicion import Suspicion

ANSWER_S: Final = 2.0
ALIVE: Final = "A primary that still lives may answer clients without this copy from now on."


@dataclass(frozen=True, slots=True)
class Proof:
    """``told``: what is lost, or that nothing is. With a ``code`` the promotion is refused unless it is insisted
    on; ``hint``: what else can be done."""

    told: str
    code: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Vote:
    """What another copy says of this one. ``vouches``: it has this one as required, and knows of no detach;
    ``knows``: it knows of one."""

    name: str
    vouches: bool = False
    knows: bool = False


def prove(
    node: bytes,
    members: Sequence[Member],
    newest: tuple[WriteNumber, int],
    lease_s: float | None,
    votes: Sequence[Vote],
) -> Proof:
    """``members``: as the copy's log has them to its end; ``node``: the copy's id; ``newest``: the last write that
    it has, and its time; ``lease_s``: seconds for which its lease still holds, None: it is not served, so it has
    none."""
    own = next((member for member in members if member.node == node), None)
    if own is None:
        return Proof("This copy's log does not say which copies there are: it proves nothing.")
    if own.mode is None:
        return Proof("This copy was the primary.")
    if own.mode == MirrorMode.ASYNC or not own.joined:
        why = "is an async mirror" if own.mode == MirrorMode.ASYNC else "had not joined"
        last = f"w{newest[0]} ({format_time(newest[1])})"
        return Proof(f"This copy {why}: what was answered after {last} is lost, if anything was.")
    if own.detached or any(vote.knows for vote in votes):
        return _refused("mirror-detached", "it was detached when it was lost, and is not known to be level again")
    if lease_s:
        return Proof(
            f"Nothing that was answered is lost: its in-sync lease holds for {lease_s:.1f} s more. {ALIVE}"
        )
    if (copies := copies_of(members)) > 2:
        return _by_majority(copies, votes)
    if not own.deadline_ms:
        return Proof(
            "Nothing that was answered is lost, unless this mirror was detached while it was unreachable."
        )
    held = "it is not served, so it has no in-sync lease" if lease_s is None else "its in-sync lease has run out"
    return _refused("lease-ran-out", f"{held}: it may have been detached")


def with_finding(proof: Proof, point: int) -> Proof:
    """The proof, and that the copy was found to differ from its source at this point, if it was."""
    if not point:
        return proof
    more = (
        f"It was found to differ from its source at cp{point}, and nothing has proved it right since: some blocks "
        "may not be what was written."
    )
    return replace(proof, told=f"{proof.told} {more}")


def with_suspicion(proof: Proof, present: Suspicion | None) -> Proof:
    """The proof, and what is known to be wrong in what the copy has now."""
    if present is None:
        return proof
    what = f"{present.blocks} blocks are suspect: {'; '.join(present.causes)}"
    return replace(proof, told=f"{proof.told} In what it has now {what}, and nothing has put them right since.")


def copies_of(members: Sequence[Member]) -> int:
    """By which is decided: the primary, and every mirror that has joined."""
    return 1 + sum(member.joined and member.mode is not None for member in members)


def _by_majority(copies: int, votes: Sequence[Vote]) -> Proof:
    vouching, needed = 1 + sum(vote.vouches for vote in votes), majority_of(copies)
    if vouching >= needed:
        return Proof(
            f"Nothing that was answered is lost: {vouching} of {copies} copies know of no detach of it. {ALIVE}"
        )
    silent = ", ".join(vote.name for vote in votes if not vote.vouches) or "the others"
    cause = f"only {vouching} of {copies} copies know that it was not detached, and {needed} would prove it"
    return _refused("no-majority", cause, f"Start {silent}, or promote another mirror")


def _refused(code: str, why: str, what: str = "Promote another mirror, or bring its source back") -> Proof:
    hint = f"{what}. With --yes (or --force) it is promoted as it is."
    return Proof(f"This copy may lack answered writes: {why}.", code, hint)


async def asked_votes(
    host: Host, volume: bytes, node: bytes, members: Sequence[Member], context: ssl.SSLContext | None
) -> tuple[Vote, ...]:
    """What the other copies that have joined say, as far as they answer within two seconds. Between two copies
    there is nobody to be asked."""
    if copies_of(members) <= 2:
        return ()
    others = [m for m in members if m.mode is not None and m.joined and m.node != node and m.address]
    question = Fetch(volume, node, NOWHERE)
    return tuple(await asyncio.gather(*(_vote(host, question, other, context) for other in others)))


async def _vote(host: Host, question: Fetch, other: Member, context: ssl.SSLContext | None) -> Vote:
    try:
        found = await within(host.clock, ANSWER_S, examine(host, other.address, context, question))
    except (OSError, RevolumeError):
        return Vote(other.name)
    return vote_of(other, found, question)


def vote_of(other: Member, found: Examined, question: Fetch) -> Vote:
    """Of the copy that answers at ``other``'s address. Another one than that has no vote."""
    if not found.whole or found.volume != question.volume or found.node != other.node:
        return Vote(other.name)
    own = next((member for member in found.members if member.node == question.node), None)
    return Vote(other.name, own is not None and own.required, own is not None and own.detached)
