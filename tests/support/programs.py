"""Programs that are not ours: found, required by name, run with a deadline.

A test that needs a program says so with `need(...)`. Where it is missing the test is skipped with the
package's name; with CI=true that is a failure, because a suite that quietly skips its judges proves
nothing. What the *kernel* lacks (`kernel_lacks`) is skipped everywhere, since no package could bring it; the last
line of a run names each such test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

PACKAGES = {
    "nbdinfo": "libnbd-bin",
    "nbdcopy": "libnbd-bin",
    "nbddump": "libnbd-bin",
    "nbdfuse": "libnbd-bin",
    "nbdkit": "nbdkit",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "fio": "fio",
    "nbd-client": "nbd-client",
    "fusermount3": "fuse3",
    "losetup": "mount",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.btrfs": "btrfs-progs",
}


def missing(reason: str) -> None:
    """Skip, or under CI fail, the running test for want of a package."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


KERNEL_LACKS = "the kernel: "


def kernel_lacks(reason: str) -> NoReturn:
    """Skip the running test: this kernel, or what we may do with it, has not what it takes."""
    pytest.skip(KERNEL_LACKS + reason)


def skipped_for_the_kernel(skipped: Iterable[Any]) -> str:
    """One line that names the tests among these reports that the kernel did not let run."""
    names = {report.nodeid.partition("[")[0] for report in skipped if KERNEL_LACKS in str(report.longrepr)}
    told = ", ".join(sorted(name.removeprefix("tests/") for name in names)) or "none"
    return f"proofs skipped for want of the kernel: {told}"


def find(program: str) -> str | None:
    return shutil.which(program, path=SYSTEM_PATH)


def need(*programs: str) -> None:
    for program in programs:
        if find(program) is None:
            missing(f"{program} is not installed (package {PACKAGES.get(program, program)})")


def need_kernel() -> None:
    """A mounted file system on an NBD export takes root, fuse and loop devices."""
    if os.geteuid() != 0:
        kernel_lacks("mounting takes root")
    for device in ("/dev/fuse", "/dev/loop-control"):
        try:
            os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            kernel_lacks(f"it gives us no {device}: {error.strerror}")
    free = run("losetup", "-f", check=False)
    if free.returncode != 0:
        kernel_lacks(f"it gives us no loop device: {free.stderr.strip()}")


def libnbd_python() -> str:
    """An interpreter that has libnbd's own bindings: Debian builds them for /usr/bin/python3 only."""
    for candidate in ("/usr/bin/python3", find("python3")):
        if candidate is None or not Path(candidate).exists():
            continue
        if subprocess.run([candidate, "-c", "import nbd"], capture_output=True).returncode == 0:
            return candidate
    missing("libnbd's Python bindings are not installed (package python3-libnbd)")
    raise AssertionError("unreachable")


def run(
    *command: str | os.PathLike[str],
    check: bool = True,
    timeout: float = 120,
    env: dict[str, str] | None = None,
    ok: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[str]:
    """Run one program to its end. A failure shows the command line and everything it said."""
    done = subprocess.run(
        [os.fspath(part) for part in command],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        env={**os.environ, "PATH": SYSTEM_PATH, "LC_ALL": "C", **(env or {})},
    )
    if check and done.returncode not in ok:
        line = " ".join(os.fspath(part) for part in command)
        pytest.fail(f"exit {done.returncode}: {line}\n{done.stdout}\n{done.stderr}", pytrace=True)
    return done
