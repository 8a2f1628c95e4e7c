"""A proof that the kernel does not let run is named in the last line of the run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest
from tests.support.programs import kernel_lacks

@pytest.mark.parametrize("each", [1, 2])
def test_a_mount(each):
    kernel_lacks("it gives us no /dev/fuse")

@pytest.fixture
def ground():
    kernel_lacks("it has no xfs")

def test_power_cut(ground): ...
def test_other(): pytest.skip("not of interest")
def test_done(): ...
"""


@pytest.mark.parametrize(
    ("selected", "named"),
    [("", "test_these.py::test_a_mount, test_these.py::test_power_cut"), ("done or other", "none")],
)
def test_the_last_line_names_what_the_kernel_did_not_let_run(tmp_path: Path, selected: str, named: str) -> None:
    (tmp_path / "test_these.py").write_text(TESTS)
    words = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", tmp_path, tmp_path]
    command = [sys.executable, "-m", "pytest", "-q", *map(str, words), "-k", selected]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == f"proofs skipped for want of the kernel: {named}", done.stdout
