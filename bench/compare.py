"""What comparing a mirror with its primary costs: seconds, and bytes on the link between them.

    python -m bench.compare [--size 4GiB] [--share 0.1] [--out FILE]

One pair of nodes on this machine, over a relay that counts; the volume is full of random bytes. Compared are equal
copies, whole and by stored digests, and copies that differ in a share of their blocks, which are put right. Beside
it, in the same run: `qemu-img compare` of the two exports, which reads both over NBD and puts nothing right, and
`rsync -c --inplace` of two files with the same differences.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers import REVOLUME, MiB
from bench.resync import BLOCK, GiB, Pair, temporary_root
from tests.support.divergence import plant_in_log

Result = dict[str, Any]


class ComparedPair(Pair):
    """A primary and its mirror, whose copy can be made to differ."""

    def plant(self, share: float) -> int:
        """Blocks at equal distances, in a share (percent) of the volume; how many."""
        self.until_level()
        self._mirror.terminate()
        self._mirror.wait(60)
        step = max(1, int(100 / share))
        contents = {block: os.urandom(BLOCK) for block in range(step // 2, self.size // BLOCK, step)}
        plant_in_log(self.root / "m", contents)
        self._mirror = self._serve("m", "--mirror-listen", f"unix:{self.root}/far")
        self.until("it is back", lambda: self.mirror()["state"] == "in sync")
        return len(contents)

    def verify(self, what: str, *words: str) -> Result:
        """Seconds, bytes on the link, and what was found."""
        self.until_level()
        self.relay.carried, began = 0, time.monotonic()
        done = subprocess.run(
            [REVOLUME, "verify", str(self.root / "p"), *words, "--json"], capture_output=True, text=True
        )
        took, carried = time.monotonic() - began, self.relay.carried
        found = json.loads(done.stdout)["result"]["mirrors"]["m"]
        return _result(f"verify {' '.join(words)}".strip(), what, took, carried, different=found["different"])


def _result(by: str, what: str, took: float, carried: int, **more: Any) -> Result:
    return {"by": by, "what": what, "seconds": took, "carried": carried, **more}


def qemu_img(pair: ComparedPair, what: str) -> Result | None:
    """The two exports, read over NBD: all of both."""
    if shutil.which("qemu-img") is None:
        return None
    ends = [f"nbd+unix:///?socket={pair.root}/{name}/nbd.sock" for name in ("p", "m")]
    began = time.monotonic()
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", *ends], capture_output=True)
    return _result("qemu-img compare", what, time.monotonic() - began, 2 * pair.size)


def rsync(root: Path, size: int, share: float) -> Result | None:
    """Two files with such differences, by checksums."""
    if shutil.which("rsync") is None:
        return None
    old, new = root / "old.img", root / "new.img"
    with old.open("wb") as file:
        for _ in range(size // MiB):
            file.write(os.urandom(MiB))
    shutil.copyfile(old, new)
    with new.open("r+b") as file:
        for block in range(0, size // BLOCK, max(1, int(100 / share))):
            file.seek(block * BLOCK)
            file.write(os.urandom(BLOCK))
    words = ["rsync", "-c", "--inplace", "--no-whole-file", "--stats", str(new), str(old)]
    began = time.monotonic()
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    took = time.monotonic() - began
    numbers = [int(found.replace(",", "")) for found in re.findall(r"Total bytes \w+: ([\d,]+)", done.stdout)]
    for place in (old, new):
        place.unlink()
    return _result("rsync -c --inplace", f"{share} % different", took, sum(numbers))


def measured(root: Path, size: int, share: float, say: Callable[[Result], None]) -> None:
    """Everything, one after the other; ``say`` gets each result."""
    pair = ComparedPair(root, size)
    try:
        pair.write("sequential", 100, 1)
        say(pair.verify("equal"))
        say(pair.verify("equal", "--quick"))
        if (other := qemu_img(pair, "equal")) is not None:
            say(other)
        for words in ((), ("--quick",)):
            pair.plant(share)
            say(pair.verify(f"{share} % different", *words))
    finally:
        pair.close()
    if (other := rsync(root, size, share)) is not None:
        say(other)


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--size", type=float, default=4.0, help="GiB")
    asked.add_argument("--share", type=float, default=0.1, help="percent of the blocks that differ")
    asked.add_argument("--out", type=Path)
    options = asked.parse_args()
    size, found = int(options.size * GiB), list[Result]()

    def say(result: Result) -> None:
        found.append(result)
        share = result["carried"] / size
        what = f"{result['by']:24} {result['what']:18}"
        print(f"{what} {result['seconds']:7.2f} s {result['carried'] / MiB:10.3f} MiB ({share:.4%})", flush=True)

    with temporary_root() as root:
        measured(root, size, options.share, say)
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
