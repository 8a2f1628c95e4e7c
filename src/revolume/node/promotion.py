"""A mirror becomes a primary: in a running service without its listeners going, or in its directory.

    asked → the addresses that it takes over are bound, or it is refused
          → refused while the source lives or the base is not whole
          → nothing is offered, connections end, views close, the source's listener goes
          → the copy is closed and opened as primary (``OpenOptions.promote``); it is offered
          → the addresses are served

If it can't be opened as primary it is served as the mirror that it was, and the error is the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from revolume.api.schemas import PromotedSchema
from revolume.blocks.numbers import Position
from revolume.errors import Refused, RevolumeError
from revolume.host import Host
from revolume.mirror.recovery.newest_opening import handed_over
from revolume.mirror.recovery.promotion_proof import Proof, asked_votes, prove, with_finding, with_suspicion
from revolume.node.primary_role import open_promoted
from revolume.node.role import Role
from revolume.node.role_changes import GRACE_S, RoleChanges
from revolume.node.secondary_role import LACKS_HINT, SecondaryRole
from revolume.node.service_options import history_preserving, open_options
from revolume.node.takeover import reserve
from revolume.volume.metadata.bound_source import detached_words, why_no_proof
from revolume.volume.metadata.former import Former
from revolume.volume.metadata.manifest_state import Role as ManifestRole
from revolume.volume.open.directory_state import stated
from revolume.volume.open.open import deal_with_received
from revolume.volume.primary import Volume


class Promotion:
    """Of a running service's volume."""

    def __init__(self, changes: RoleChanges) -> None:
        self._changes = changes
        self._taking_over: asyncio.Task[None] | None = None

    async def promote(
        self, current: Callable[[], Role], addresses: Sequence[str], others: Sequence[str] = (), yes: bool = False
    ) -> PromotedSchema:
        """Make the mirror a primary, which listens at ``addresses`` too. Refused, or why it can't be opened;
        without ``yes`` also if a mirror at one of the ``others`` has more, or if this one lacks what it had
        acknowledged."""
        async with self._changes.turn:
            role = current()
            if not isinstance(role, SecondaryRole):
                raise Refused("is-primary", f"{role.name} is a primary already.", "There is nothing to be done.")
            takeover = await reserve(self._changes.server, self._changes.options, addresses)
            try:
                role.refuse_promotion(yes)
                if not yes:
                    await role.refuse_taken_over()
                if others and not yes:
                    await role.refuse_shorter(others)
                    role.refuse_promotion(yes)  # its source may have come back while they were asked
                proof = await role.proof()
                refuse_unproved(proof, yes)
                promoted = replace(await self._promoted(role, None), proof=proof.told)
            except BaseException:
                takeover.close()
                raise
            uris = takeover.open(promoted.name)
            self._changes.announce(uris)
            return replace(promoted, nbd=uris)

    def take_over(self, current: Callable[[], Role], former: Former) -> None:
        """The source has handed over, and is no primary any more: begin to make this node one."""
        self._taking_over = asyncio.get_running_loop().create_task(self._take_over(current, former))

    async def _take_over(self, current: Callable[[], Role], former: Former) -> None:
        async with self._changes.turn:
            role = current()
            if not isinstance(role, SecondaryRole):
                return  # somebody was faster
            try:
                await self._promoted(role, former)
            except (OSError, RevolumeError) as error:
                self._changes.tell(f"{role.name} was handed over to this node, which can't take over: {error}")

    async def _promoted(self, mirror: SecondaryRole, former: Former | None) -> PromotedSchema:
        changes = self._changes
        changes.exports.withdraw(Refused("promoting", "The mirror is being promoted.", "Try again in a moment."))
        await changes.server.dismiss(GRACE_S)
        try:
            await mirror.close()
            primary = await open_promoted(changes.host, changes.options, changes.tell, former)
        except BaseException:
            await changes.serve_again()
            raise
        changes.become(primary)
        changes.tell(f"{primary.name} is a primary now, opening {primary.epoch}.")
        return _promoted_schema(primary.volume)


def _promoted_schema(volume: Volume) -> PromotedSchema:
    return PromotedSchema(
        name=volume.name, role="primary", epoch=volume.epoch, write=volume.write, point=volume.retained.last.number
    )


def refuse_unproved(proof: Proof, yes: bool) -> None:
    """Refused without ``yes`` where answered writes may be lost."""
    if proof.code and not yes:
        raise Refused(proof.code, proof.told, proof.hint)


async def promote_stopped(host: Host, directory: str, yes: bool = False) -> PromotedSchema:
    """Open the mirror in ``directory`` as primary once, and close it cleanly. No history is let go."""
    await host.work.call(_refuse_primary, host, directory, yes)
    options = history_preserving(directory)
    await deal_with_received(host, directory, open_options(options))
    state = await host.work.call(stated, host.disk, directory)
    votes = await asked_votes(host, state.volume, state.node, state.members, None)
    end = state.clean or state.durable
    proof = prove(state.node, state.members, (end.write, end.time_ns), None, votes)
    proof = with_finding(proof, state.suspect.differs_since)
    refuse_unproved(proof, yes)
    primary = await open_promoted(host, options, lambda sentence: None)
    proof = with_suspicion(proof, primary.volume.suspect.periods.at(primary.volume.write))
    promoted = replace(_promoted_schema(primary.volume), proof=proof.told)
    await primary.close()
    return promoted


def _refuse_primary(host: Host, path: str, yes: bool) -> None:
    state = stated(host.disk, path)
    if state.role == ManifestRole.PRIMARY:
        raise Refused("is-primary", f"{state.name} in {path} is a primary already.", "Serve it.")
    if state.handed_to and not yes:
        raise handed_over(state)
    if state.detached and not yes:
        raise Refused("not-proved", detached_words(state), LACKS_HINT)
    held = Position(max(state.durable.position, state.clean.position if state.clean else 0))
    if state.owes > held and not yes:
        raise Refused("lacks-acknowledged", why_no_proof(state, held), LACKS_HINT)
