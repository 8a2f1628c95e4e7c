"""A new mirror over a link of a gigabit: how fast it comes up, and what that costs the source's clients.

The mirror lives in a network namespace behind a token bucket (`tbf`), so the link is a real TCP connection under
TLS with a real limit; its directory lies in memory, because two nodes do not share a disk. Needs root, `ip` and
`tc`; where they are missing the row is named and left out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load import Fio
from bench.mirrored import make_certificates
from bench.peers import REVOLUME, MiB, Revolume

SPACE, NEAR, FAR = "revolume-bench", "10.93.7.1", "10.93.7.2"
LINK_BYTES = 125_000_000
MEMORY = Path("/dev/shm")
PORT = 10977


class Limited:
    """A namespace at the other end of a limited pair of interfaces."""

    def __init__(self, rate: str = "1gbit") -> None:
        self.rate = rate

    def __enter__(self) -> Limited:
        self.__exit__()
        for words in (
            f"ip netns add {SPACE}",
            f"ip link add rvb0 type veth peer name rvb1 netns {SPACE}",
            f"ip addr add {NEAR}/24 dev rvb0",
            "ip link set rvb0 up",
            f"ip -n {SPACE} addr add {FAR}/24 dev rvb1",
            f"ip -n {SPACE} link set rvb1 up",
            f"ip -n {SPACE} link set lo up",
            f"tc qdisc add dev rvb0 root tbf rate {self.rate} burst 256kb latency 50ms",
        ):
            subprocess.run(words.split(), check=True, capture_output=True)
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", SPACE], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", "rvb0"], check=False, capture_output=True)


def available() -> bool:
    """Whether namespaces and tbf are to be had."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return False
    try:
        with Limited():
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


class Source(Revolume):
    """A volume that gets a mirror in the namespace when it is opened again."""

    name = "bring-up"

    def __init__(self, root: Path, size: int) -> None:
        super().__init__(root, size)
        self.mirrored = False

    def command(self, options: Sequence[str]) -> list[str]:
        command = [*super().command(options), "--tls-dir", str(self.folder / "pki")]
        return [*command, "--mirror-to", f"{FAR}:{PORT},mode=async,name=m"] if self.mirrored else command

    def told(self) -> dict[str, Any]:
        words = [self.program, "status", str(self.folder / "vol"), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)["mirrors"][0]
        return found


def bring_up(source: Source, load: Fio, seconds_max: float) -> dict[str, float]:
    """Figures of one mirror brought up: `link` share of the link used, `p99` beside the one before it."""
    make_certificates(source.folder / "pki", FAR)
    with tempfile.TemporaryDirectory(prefix="rvb-mirror-", dir=MEMORY if MEMORY.is_dir() else None) as there:
        return _bring_up(source, load, Path(there), seconds_max)


def _bring_up(source: Source, load: Fio, there: Path, seconds_max: float) -> dict[str, float]:
    source.start()
    Fio("write", MiB, 8, 600, amount=source.size).run(source.uri, source.size, 1)
    alone = load.run(source.uri, source.size, seed=2)
    source.stop()
    source.mirrored = True
    with Limited():
        words = ["ip", "netns", "exec", SPACE, str(REVOLUME), "serve", str(there / "mirror")]
        words += ["--mirror-listen", f"{FAR}:{PORT}", "--tls-dir", str(source.folder / "pki")]
        with (source.folder / "mirror.log").open("ab") as log:
            mirror = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            source.start(wait=120)
            return _measure(source, load, alone.p99_us, seconds_max)
        finally:
            source.stop()
            mirror.terminate()
            mirror.wait(120)


def _measure(source: Source, load: Fio, p99_alone: float, seconds_max: float) -> dict[str, float]:
    while not _base_bytes(source):
        time.sleep(0.05)
    began, first = time.monotonic(), _sent(source)
    beside = load.run(source.uri, source.size, seed=3)
    while not (now := source.told())["joined"]:
        if time.monotonic() - began > seconds_max:
            raise RuntimeError(f"the mirror did not come up within {seconds_max:.0f} s: {now['reason']}")
        time.sleep(0.2)
    took = time.monotonic() - began
    return {
        "seconds": took,
        "link": (_sent(source) - first) / took / LINK_BYTES,
        "p99": beside.p99_us / p99_alone,
    }


def _base_bytes(source: Source) -> float:
    try:
        return float(source.told()["base_bytes"])
    except subprocess.CalledProcessError:
        return 0.0


def _sent(source: Source) -> float:
    told = source.told()
    return float(told["base_bytes"]) + float(told["log_bytes"])
