"""A pair whose mirror's copy diverges silently, and is verified: the pair's own troubles, fewer of them."""

from __future__ import annotations

from collections.abc import Sequence

from revolume.resync.cuts import PlainCut
from revolume.sim.worlds.pair.world import PairWorld
from revolume.sim.worlds.world import MiB, Verdict
from revolume.volume.state.events import EventKind

ATTEMPTS = 5


class ComparisonWorld(PairWorld):
    """At the end the mirror is verified until nothing is wrong; then all is judged as for any pair."""

    name = "comparison"
    steps = 9

    def operations(self) -> dict[str, int]:
        return {
            "diverge": 8, "verify": 8, "kill": 1, "power": 1, "kill_mirror": 2, "power_mirror": 2, "stop": 1,
            "cut": 2, "point": 2, "slow": 1, "slow_link": 1, "snapshot": 1,
        }  # fmt: skip

    def groups(self) -> Sequence[object]:
        return (*super().groups(), self.comparisons)

    def live(self) -> Verdict:
        verdict = super().live()
        self.happened.update({f"- {what}": count for what, count in self.comparisons.counts.items()})
        return verdict

    def budgets(self, segment: int, *, small: bool) -> tuple[int, ...]:
        """An image folded between a divergence and its finding does not sum up to its point: damage to a check."""
        return (64 * MiB,)

    async def _judge(self) -> None:
        for _ in range(ATTEMPTS):
            await self.patiently("the mirror is connected", self.pair.caught_up, 60)
            await self.comparisons.ended()
            if await self.comparisons.verify():
                break
        else:
            self.say("no verification ends well" + self.state())
        await self._goes_on_equal()
        await super()._judge()

    async def _goes_on_equal(self) -> None:
        """With nobody writing: blocks are planted and put right once more, and points behind that have the root
        that the mirror comes to by itself."""
        pair = self.pair
        found = self._findings()
        await self.comparisons.op_diverge()
        await self.comparisons.verify()
        assert pair.primary is not None
        await pair.first.run(pair.primary.volume.cut_anew(PlainCut(pair.primary.volume)))
        await self.patiently("the mirror agrees once more", pair.caught_up, 60)
        if self._findings() != found:
            self.say("the mirror finds that it differs, although no client wrote what was planted")

    def _findings(self) -> int:
        there = self.pair.there
        events = there.events.all() if there is not None else ()
        return sum(event.count for event in events if event.kind is EventKind.DIVERGED)
