"""Chance from a seed: one stream for each purpose, so that one more draw here moves nothing there."""

from __future__ import annotations

import random


class Chance(random.Random):
    """A stream of its own; ``stream`` makes others from the same seed by name."""

    def __init__(self, seed: int, name: str = "") -> None:
        super().__init__(f"{seed}/{name}")
        self.origin = seed
        self._name = name

    def stream(self, name: str) -> Chance:
        """The stream of that name: the same whoever asks, and whenever."""
        return Chance(self.origin, f"{self._name}/{name}")

    def hit(self, probability: float) -> bool:
        """True so often."""
        return probability > 0 and self.random() < probability

    def delay(self, typical_s: float) -> float:
        """A time around ``typical_s``, sometimes much longer, never none."""
        return typical_s * (0.2 + self.expovariate(1.25))


class SimEntropy:
    """Tokens for names: ``host.Entropy``."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance

    def token(self, n: int) -> bytes:
        """``n`` bytes that nobody else has drawn."""
        return self._chance.randbytes(n)
