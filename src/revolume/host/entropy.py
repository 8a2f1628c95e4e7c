"""Chance: tokens that nobody else has drawn, for the names of epochs, volumes and sessions."""

from __future__ import annotations

import os
from typing import Protocol


class Entropy(Protocol):
    def token(self, n: int) -> bytes:
        """``n`` random bytes, unguessable."""


class RealEntropy:
    __slots__ = ()

    token = staticmethod(os.urandom)
