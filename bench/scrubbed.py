"""How fast a scrub reads, beside ``cat`` of the same directory in the same minutes.

Both read from the device: the scrub goes past the page cache, and before ``cat`` the files are dropped from it. A
rate is bytes that were read (of sparse files what they take) by seconds.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from bench.memory import forget
from bench.peers import REVOLUME


def cat_rate(folder: Path) -> float:
    """Bytes a second."""
    forget(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    taken = sum(min(path.stat().st_size, path.stat().st_blocks * 512) for path in paths)
    began = time.monotonic()
    for path in paths:
        subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"], check=True)
    return taken / (time.monotonic() - began)


def scrub_rate(folder: Path) -> float:
    """Bytes a second. RuntimeError: it has found damage, or did not end."""
    done = subprocess.run([REVOLUME, "scrub", folder, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"scrub: exit {done.returncode}: {done.stderr[-500:]}")
    result = json.loads(done.stdout)["result"]
    return float(result["bytes_read"]) / (result["ended_ns"] - result["started_ns"]) * 1e9
