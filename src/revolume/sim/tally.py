"""What a part of the proof came to, as the small file that the joint report is made of."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field

FOLDER = ".proof"


@dataclass(slots=True)
class Section:
    """``counts``: a table, in this order. ``failures``: sentences, each with one command that replays it."""

    part: str
    title: str
    order: int
    counts: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def write(self, path: str | None = None) -> None:
        """Into ``.proof/``, or where it is wanted."""
        if path is None:
            os.makedirs(FOLDER, exist_ok=True)
        with open(path or f"{FOLDER}/{self.part}.json", "w") as file:
            json.dump(asdict(self), file, indent=1)
