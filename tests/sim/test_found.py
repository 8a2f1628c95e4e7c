"""What simulated worlds have found, each as a scenario of its own: seeds forget when code changes, these don't."""

from __future__ import annotations

from revolume.sim.chance import Chance
from revolume.sim.checks.clean import check_clean
from revolume.sim.platter import KEPT, Cut
from revolume.sim.worlds.primary import PrimaryWorld


class Found(PrimaryWorld):
    """A world whose operator does one thing."""

    steps = 1

    def operations(self) -> dict[str, int]:
        return {"scenario": 1}


def test_check_after_a_fold_that_did_not_come_to_its_flip() -> None:
    """The image's digests are a point ahead of the horizon then: no reason to say that roots are wrong."""

    class Crash(Found):
        async def op_scenario(self) -> None:
            service = self.service
            assert service is not None
            await self.patiently("a fold stops half-way", self._folded, 60)
            assert self.a.process is None, "the fold was stopped between its digests and the manifest"
            assert check_clean(self.a, self.a.platter, "half-folded") == []
            await self.start()

        async def _folded(self) -> bool:
            pages: list[str] = []

            def before(number: int, what: str) -> None:
                pages.append(what)
                if pages[-3:] == ["rename", "dirsync", "write"] and "punch" not in pages[-6:]:
                    names = self.a.platter.root.memory["vol"]
                    assert hasattr(names, "pending")
                    if "image.pages.new" not in names.memory and "create" in pages[-8:]:  # type: ignore[attr-defined]
                        self.service = None
                        self.a.power_cut(Cut(lambda ordinal: KEPT, Chance(0)))

            self.a.platter.before_change = before
            await self.op_point()
            return self.a.process is None

    verdict = Crash(7).live()
    assert verdict.wrong == []
