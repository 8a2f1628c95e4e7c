"""How long clients' writes are held when the link to a mirror is lost: a point is made in that moment.

    python -m bench.holds [--cuts 200] [--out FILE]

One pair of nodes on this machine, async, over a relay. While fio writes 4 KiB at random, 16 at once, as fast as it
can, the link is cut and mended again and again; after each cut the node says how long it held writes. Beside it,
fio's own latencies, in the same seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.resync import MiB, Pair, temporary_root
from revolume.api.client import connect

SIZE = 256 * MiB
WRITES = (
    "fio", "--name=w", "--rw=randwrite", "--bs=4k", "--iodepth=16", "--ioengine=nbd", f"--size={SIZE}",
    "--time_based=1", "--randrepeat=0", "--norandommap=1", "--output-format=json",
)  # fmt: skip


def percentile(values: list[float], part: float) -> float:
    """Of at least one value: what so much of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def mirror_of(pair: Pair) -> dict[str, Any]:
    """What the running primary says of its mirror; asked without a process of its own, which would be load."""
    client = connect(str(pair.root / "p"))
    assert client is not None
    with client:
        found: dict[str, Any] = client.status()["mirrors"][0]
    return found


def cut_and_mended(pair: Pair) -> dict[str, Any]:
    """The mirror as its primary says it is after the cut."""
    pair.relay.cut()
    pair.until("the loss is noticed", lambda: mirror_of(pair)["cut_point"] is not None)
    lost = mirror_of(pair)
    pair.relay.mend()
    pair.until("it is back", lambda: mirror_of(pair)["cut_point"] is None)
    return lost


def measured(pair: Pair, cuts: int) -> dict[str, Any]:
    """Milliseconds."""
    holds, last = list[float](), dict[str, Any]()
    load = subprocess.Popen(
        [*WRITES, f"--uri={pair.uri}", f"--runtime={cuts * 10}"], stdout=subprocess.PIPE, text=True
    )
    time.sleep(3.0)
    for number in range(cuts):
        last = cut_and_mended(pair)
        holds.append(last["cut_hold_ns"] / 1e6)
        if number % 20 == 19:
            print(f"{number + 1} cuts: p50 {percentile(holds, 0.5):.2f} ms, p99 {percentile(holds, 0.99):.2f} ms")
    load.terminate()
    told, _ = load.communicate()
    write = json.loads(told[told.index("{") :])["jobs"][0]["write"]
    return {
        "cuts": cuts,
        "iops": write["iops"],
        "p50_ms": percentile(holds, 0.5),
        "p99_ms": percentile(holds, 0.99),
        "max_ms": max(holds),
        "status_p99_ms": last["cut_hold_p99_ns"] / 1e6,
        "client_p99_ms": write["clat_ns"]["percentile"]["99.000000"] / 1e6,
        "client_max_ms": write["clat_ns"]["max"] / 1e6,
    }


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--cuts", type=int, default=200)
    asked.add_argument("--out", type=Path)
    options = asked.parse_args()
    with temporary_root() as root:
        pair = Pair(root, SIZE)
        try:
            found = measured(pair, options.cuts)
        finally:
            pair.close()
    print(json.dumps(found, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
