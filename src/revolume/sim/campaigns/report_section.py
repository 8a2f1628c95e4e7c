"""What one part of the proof came to: a small file in ``.proof/``, from which ``report`` makes a section.

    {"part": "campaign", "title": "…", "order": 10, "counts": {"seeds": 2041, …},
     "failures": ["one sentence each, with the command that replays it"], "notes": ["…"],
     "commit": "1a2b3c4", "when": "2026-01-01 12:00 UTC", "seconds": 1200.0}

A part is written when it is over, however it went; one that has not been written has not been shown.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass, field

FOLDER = ".proof"


@dataclass(slots=True)
class ReportSection:
    """One section: what was counted, what failed, and what should be known of it."""

    part: str
    title: str
    order: int
    counts: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commit: str = ""
    when: str = ""
    seconds: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def write(self, folder: str = FOLDER) -> None:
        """It is over."""
        self.commit = self.commit or commit()
        self.when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        self.seconds = self.seconds or round(time.monotonic() - self._began, 1)
        os.makedirs(folder, exist_ok=True)
        values = {name: value for name, value in asdict(self).items() if not name.startswith("_")}
        path = os.path.join(folder, f"{self.part}.json")
        with open(f"{path}.new", "w") as file:
            json.dump(values, file, indent=1)
        os.replace(f"{path}.new", path)


def read(folder: str = FOLDER) -> list[ReportSection]:
    """All parts that were written, in their order."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".json")) if os.path.isdir(folder) else []
    parts = []
    for name in names:
        with open(os.path.join(folder, name)) as file:
            values = json.load(file)
        fields = ReportSection.__dataclass_fields__
        known = {key: values[key] for key in values if key in fields and key != "_began"}
        parts.append(ReportSection(**{"title": values["part"], "order": 90, **known}))
    return sorted(parts, key=lambda part: (part.order, part.part))


def commit() -> str:
    """What the tree is at."""
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"
