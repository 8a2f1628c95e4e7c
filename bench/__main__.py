"""python -m bench [--scale NAME] [--only ROW…] [--peer NAME…] [--dry]"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path

from bench.chart import chart
from bench.memory import Filler
from bench.plan import FULL, SCALES, rows, targets
from bench.report import beside, costs, judge, ratios, save, table, verdicts
from bench.run import KNOWN, Bench

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    asked = argparse.ArgumentParser(prog="bench", description="One table beside the C servers.")
    asked.add_argument(
        "--scale", choices=list(SCALES), default=FULL.name, help="a few minutes, twenty, or an hour and more"
    )
    asked.add_argument("--only", nargs="*", default=[], metavar="ROW", help="some rows by key")
    asked.add_argument("--peer", nargs="*", default=[], metavar="NAME", help="some peers by name")
    asked.add_argument(
        "--data", type=Path, default=ROOT / ".bench", help="where the stores are made (a real disk)"
    )
    asked.add_argument(
        "--out", type=Path, help="where results go (default docs/bench; quick, or with a choice: DATA)"
    )
    options = asked.parse_args()
    scale = SCALES[options.scale]
    partial = bool(scale.name == "quick" or options.only or options.peer)
    out = options.out or (options.data if partial else ROOT / "docs" / "bench")
    plan = [row for row in rows(scale) if not options.only or row.key in options.only]
    options.data.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory(prefix="rvb-") as sockets:
        bench = Bench(options.data, Path(sockets), scale, options.peer, lambda text: print(text, flush=True))
        for kind in KNOWN:
            if not bench.make(kind).available():
                bench.notes.append(f"{kind.name}: {kind.program} is not installed")
                print(bench.notes[-1])
        gc.disable()
        bench.filler.fill(6 * scale.fill_seconds)
        print(f"memory: {touches(bench.filler)}", flush=True)
        for row in plan:
            print(f"{row.title}", flush=True)
            bench.interleaved(row)
        own = {
            "memory-sparse": bench.memory_sparse,
            "memory-full": bench.memory_full,
            "crash-open": bench.crash_open,
            "new-mirror": bench.new_mirror,
            "scrub": bench.scrub,
        }
        for key, measure in own.items():
            ours = not options.peer or "revolume" in options.peer
            if ours and (not options.only or key in options.only):
                print(key, flush=True)
                try:
                    measure()
                except (RuntimeError, OSError) as error:
                    bench.notes.append(f"{key}: {error}")
                    print(f"  {error}")

    bench.filler.remove()
    peers = [kind.name for kind in KNOWN if not options.peer or kind.name in options.peer]
    judged = judge(targets(scale), bench.results)
    print("\n" + table(plan, peers, bench.results))
    print("\n" + costs(plan, peers, bench.results))
    print(beside(ratios(plan, bench.results)) + "\n")
    print(verdicts(judged))
    told = save(out / "results.json", scale, plan, bench.results, judged, bench.notes, bench.filler.told())
    (out / "results.svg").write_text(chart(told))
    print(f"\nsaved: {out / 'results.json'}, {out / 'results.svg'}")
    return 0


def touches(filler: Filler) -> str:
    """What touching a page of memory cost before and after all of it was touched."""
    if filler.first_us is None or filler.again_us is None:
        return "nothing was free"
    return f"{filler.first_us:.1f} µs a page at its first touch, {filler.again_us:.1f} µs afterwards"


if __name__ == "__main__":
    sys.exit(main())
