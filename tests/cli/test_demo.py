"""The demo, as ``make demo`` runs it: in under a minute, and every claim in it holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("mke2fs", path="/usr/sbin:/sbin:" + os.environ["PATH"]) is None, reason="no e2fsprogs"
)
def test_every_claim_of_the_demo_holds(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "demo"],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("✓") >= 25
    assert not (folder / ".demo").exists(), "it clears up behind itself"
