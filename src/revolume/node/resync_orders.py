"""Resynchronising mirrors by order: which way each would be brought up to date, what that costs, and doing it.

A source does that by itself whenever it reaches a mirror; an order looks beforehand, says what is preferred, and
does not wait for the next attempt. What is preferred is durable until it is done. An order to cancel ends what is
being sent, and holds until another. Who answers at the address is asked with EXAMINE, which disturbs nobody.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace

from revolume.api.schemas import ResyncOrder as AskedResync
from revolume.api.schemas import ResyncSchema
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.mirror.catch_up_plan import CatchUpPlan, Rule, SourceFacts, plan_catch_up
from revolume.mirror.recovery.examine import examine
from revolume.mirror.source.gathered_facts import gather_facts, greeting
from revolume.mirror.source.mirror_source import MirrorSource
from revolume.mirror.source.progress import Phase, is_level
from revolume.mirror.source.time_to_protection import ASSUMED_BYTES_PER_S, to_send
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.wire.codec import Pin
from revolume.mirror.wire.examine_messages import Examined, as_welcome
from revolume.mirror.wire.tail_messages import Fetch
from revolume.mirror.wording import size_words
from revolume.node.mirror_links import MirrorLinks
from revolume.node.resync_preference import PREFERENCES, check_preference
from revolume.pace.limits import BulkLimits, checked_rate, parse_window
from revolume.volume.members.mirror import Mirror
from revolume.volume.metadata.resync_order import NO_ORDER, Prefer, ResyncOrder
from revolume.volume.primary import Volume


class ResyncOrders:
    """Of one open primary. ``context``: for TLS."""

    def __init__(self, host: Host, volume: Volume, links: MirrorLinks, context: ssl.SSLContext | None) -> None:
        self._host = host
        self._volume = volume
        self._links = links
        self._context = context

    async def resync(self, order: AskedResync) -> list[ResyncSchema]:
        """Each of these mirrors, or all: how it is brought up to date; and unless it is a dry run, that begins. Or
        that is cancelled. Refused: there is nothing that can be cancelled; NotFound: there is no mirror of that
        name; UsageError: a preference, rate or window that is none."""
        prefer = Prefer(PREFERENCES.index(check_preference(order.prefer)))
        sources, limits = self._sources(order.mirrors), _limits(order, self._links.pacer.limits)
        if order.cancel:
            return [await self._cancelled(source) for source in sources]
        if not order.dry_run:
            self._links.pacer.limits = limits
        wanted = ResyncOrder(prefer, order.take_back)
        return [await self._one(source, wanted, order.dry_run) for source in sources]

    def _sources(self, names: Sequence[str]) -> list[MirrorSource]:
        wanted = names or [mirror.name for mirror in self._volume.mirrors]
        if not wanted:
            raise NotFound("no-mirror", f"{self._volume.name} has no mirrors.", "Add one: 'revolume mirror add'.")
        return [self._source(name) for name in dict.fromkeys(wanted)]

    def _source(self, name: str) -> MirrorSource:
        self._volume.mirrors.get(name)
        source = self._links.get(name)
        if source is None:
            cause = f"It is not known where mirror {name} is."
            raise NotFound("no-address", cause, "Say where: 'revolume mirror set DIR NAME --address ADDR'.")
        return source

    async def _one(self, source: MirrorSource, order: ResyncOrder, dry_run: bool) -> ResyncSchema:
        try:
            there = await self._asked(source)
        except (OSError, RevolumeError) as error:
            return await self._away(source, order, dry_run, error)
        plan, size = await self._planned(source, there, order)
        if order.take_back and plan.rule == Rule.DIVERGED:  # which points both have, the two ends find out
            plan = CatchUpPlan(Rule.COMMON_POINT, f"{plan.reason} It takes them back, if both have a point.")
        if not dry_run and not plan.rule.refuses:
            await self._begin(source, order, plan.rule)
        return _told(source.progress.mirror.name, plan, size)

    async def _begin(self, source: MirrorSource, order: ResyncOrder, rule: Rule) -> None:
        """Durably, and at once unless what is wanted is under way."""
        progress, now_ns = source.progress, self._host.clock.monotonic_ns()
        goes_on = rule in (Rule.NOTHING, Rule.LOG) and progress.mirroring
        done = goes_on and is_level(progress, now_ns)
        await self._volume.mirrors.ordered(progress.mirror, NO_ORDER if done else order)
        under_way = progress.phase is Phase.SENDING_DIFFERENCE
        if not under_way and not goes_on:
            await source.again()

    async def _cancelled(self, source: MirrorSource) -> ResyncSchema:
        """What was ordered is dropped, durably; a difference that is being sent ends, and none begins."""
        mirror, phase = source.progress.mirror, source.progress.phase
        if not mirror.joined:
            raise Refused(
                "no-resync", f"Mirror {mirror.name} has not joined yet: it is a new mirror that is being made.",
                f"Give it up with 'revolume mirror remove DIR {mirror.name}'.",
            )  # fmt: skip
        if phase is Phase.JOINED:
            await self._volume.mirrors.ordered(mirror, NO_ORDER)
            told = f"Mirror {mirror.name} gets the log as it is written: there is nothing to cancel."
            return ResyncSchema(mirror.name, "cancelled", told, "", False, 0, 0.0, told)
        await self._volume.mirrors.ordered(mirror, ResyncOrder(cancelled=True))
        if phase is Phase.SENDING_DIFFERENCE:
            await source.again()
        reason = f"Mirror {mirror.name} gets no difference from now on; what has come of one stays there."
        hint = f"'revolume resync DIR --mirror {mirror.name}' goes on with it."
        return ResyncSchema(mirror.name, "cancelled", reason, hint, False, 0, 0.0, f"{reason} {hint}")

    async def _asked(self, source: MirrorSource) -> Examined:
        volume, mirror = self._volume, source.progress.mirror
        asked = Fetch(volume.volume_id, volume.manifest.state.node, VolumeSource(volume).end())
        return await examine(self._host, source.address, self._context, asked, mirror.peer or None)

    async def _away(
        self, source: MirrorSource, order: ResyncOrder, dry_run: bool, error: Exception
    ) -> ResyncSchema:
        mirror = source.progress.mirror
        if not dry_run:
            await self._volume.mirrors.ordered(mirror, order)
        reason = f"Mirror {mirror.name} at {source.address} can't be asked ({error_text(error).rstrip('.')})."
        then = "It is brought up to date as soon as it is back."
        return ResyncSchema(mirror.name, "away", reason, then, True, 0, 0.0, f"{reason} {then}")

    async def _planned(self, source: MirrorSource, there: Examined, order: ResyncOrder) -> tuple[CatchUpPlan, int]:
        """The plan, and the bytes that it sends."""
        volume, mirror = VolumeSource(self._volume, source.progress.mirror.state.history), source.progress.mirror
        hello = greeting(volume, mirror, self._volume.manifest.state.node, order)
        welcome = replace(as_welcome(there), points=_stands(there, volume))
        facts = await gather_facts(volume, mirror, hello, welcome)
        plan = plan_catch_up(facts, welcome)
        return plan, await self._bytes(plan.rule, facts, mirror, there)

    async def _bytes(self, rule: Rule, facts: SourceFacts, mirror: Mirror, there: Examined) -> int:
        if rule in (Rule.DIFFERENCE, Rule.DIRTY_REGIONS, Rule.LOG_TO_CUT) and facts.common is not None:
            costs = facts.common.costs
            differences = VolumeSource(self._volume).differences
            return max(costs.difference, await differences.left(facts.common.point))
        if rule in (Rule.LOG, Rule.BASE):
            return (await to_send(self._volume, mirror.state.history, there)).bytes
        return 0


def _stands(there: Examined, volume: VolumeSource) -> tuple[Pin, ...]:
    """The point at which a copy stands, if that is one of this volume's; else its newest ones that are."""
    own = volume.differences.known(there.agreed_point)
    roots = {entry.number: entry.root for entry in there.points}
    if own is None or own.position != there.agreed_position or roots.get(own.number, own.root) != own.root:
        return tuple(_in_common(there, volume))
    return (Pin(own.number, own.position, own.chain),)


def _in_common(there: Examined, volume: VolumeSource) -> Iterator[Pin]:
    for entry in there.points:
        own = volume.differences.known(entry.number)
        if own is not None and (own.position, own.root) == (entry.position, entry.root):
            yield Pin(own.number, own.position, own.chain)


def _limits(order: AskedResync, present: BulkLimits) -> BulkLimits:
    """What bulk is allowed from now on, until the node is started anew."""
    rate, window = present.rate, present.window
    if order.rate is not None:
        rate = checked_rate(order.rate, str(order.rate)) if order.rate else 0
    if order.window is not None:
        window = parse_window(order.window) if order.window else None
    return BulkLimits(rate, window)


def _told(name: str, plan: CatchUpPlan, size: int) -> ResyncSchema:
    seconds, refused = size / ASSUMED_BYTES_PER_S, plan.rule.refuses
    rate = size_words(ASSUMED_BYTES_PER_S)
    sends = f" {size_words(size)} to send, about {seconds:.0f} s at an assumed {rate}/s."
    told = f"Mirror {name}: {plan.rule.label}. {plan.reason}{sends if size else ''}"
    return ResyncSchema(name, plan.rule.label, plan.reason, plan.hint, refused, size, seconds, told)
