"""A check left out of a real daemon, by a patch at its start.

The patch is Python text that Python itself runs before the program (``sitecustomize``), found over PYTHONPATH: the
product has no switch for it. A test that passes under such a patch as it does without proves nothing.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path


def patched(folder: Path, *patches: str) -> dict[str, str]:
    """The environment of a daemon that starts with these patches."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text("\n".join(map(textwrap.dedent, patches)))
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))}
