"""Prints the table, judges the targets, saves JSON."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.plan import Row, Scale, Target
from bench.run import Result

MiB = 1 << 20
Results = Mapping[tuple[str, str], Result]


def median(results: Results, side: tuple[str, str, str]) -> float | None:
    row, peer, figure = side
    result = results.get((row, peer))
    values = result.values.get(figure) if result else None
    return statistics.median(values) if values else None


def spread(values: list[float]) -> str:
    low, high = min(values), max(values)
    return "" if len(values) < 2 else f"{_short(low)}–{_short(high)}"


def _short(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.3g}"


def table(rows: Iterable[Row], peers: list[str], results: Results) -> str:
    """Median and (least–greatest) of the repetitions."""
    lines = [f"{'':52}" + "".join(f"{peer:>24}" for peer in peers)]
    for row in rows:
        cells = []
        for peer in peers:
            result = results.get((row.key, peer))
            values = result.values.get("rate") if result else None
            cells.append(f"{_short(statistics.median(values))} ({spread(values)})" if values else "–")
        lines.append(f"{row.title + ', ' + row.metric:52}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


BESIDE = {"revolume": ("nbdkit file", "qemu-nbd"), "revolume sync": ("qemu mirror job",)}


def ratios(rows: Iterable[Row], results: Results) -> list[dict[str, Any]]:
    """Every row of ours beside every peer of its kind, also where no target is set: won, even or lost."""
    found = []
    for row in rows:
        for ours, peers in BESIDE.items():
            left = median(results, (row.key, ours, "rate"))
            for peer in peers:
                right = median(results, (row.key, peer, "rate"))
                if left is not None and right:
                    value = left / right
                    verdict = "won" if value > 1.05 else "lost" if value < 0.95 else "even"
                    found.append(
                        {"row": row.title, "left": ours, "right": peer, "value": value, "verdict": verdict}
                    )
    return found


def beside(found: Iterable[Mapping[str, Any]]) -> str:
    """One line a row and peer."""
    return "\n".join(
        f"{one['row']:52}{one['left'] + ' / ' + one['right']:34}{one['value']:8.2f} ×   {one['verdict']}"
        for one in found
    )


COSTS = (
    ("p50", "median latency, µs", 1.0),
    ("cpu_per_gib", "CPU seconds per GiB", 1.0),
    ("amplification", "bytes to disk per client byte", 1.0),
    ("accounted", "… as accounted to the processes", 1.0),
    ("device_busy", "share of the time that the device was busy", 1.0),
    ("rss", "peak memory of the server, MiB", float(MiB)),
    ("rss_helper", "peak memory of a helper, MiB", float(MiB)),
)


def costs(rows: Iterable[Row], peers: list[str], results: Results) -> str:
    listed = list(rows)
    lines = []
    for figure, title, unit in COSTS:
        lines.append(f"{title:52}" + "".join(f"{peer:>24}" for peer in peers))
        for row in listed:
            found = [median(results, (row.key, peer, figure)) for peer in peers]
            if any(value is not None for value in found):
                cells = ["–" if value is None else f"{value / unit:.2f}" for value in found]
                lines.append(f"  {row.title:50}" + "".join(f"{cell:>24}" for cell in cells))
        lines.append("")
    return "\n".join(lines)


def judge(targets: Iterable[Target], results: Results) -> list[dict[str, Any]]:
    """Each target with its value and whether it is met; None where this run did not measure it."""
    judged = []
    for target in targets:
        left = median(results, target.left)
        right = median(results, target.right) if target.right else 1.0
        factor = median(results, target.times) if target.times else 1.0
        value = left / right * factor if left is not None and right and factor is not None else None
        met = None if value is None else (value >= target.bound if target.at_least else value <= target.bound)
        judged.append(
            {
                "title": target.title,
                "value": value,
                "bound": target.bound,
                "unit": target.unit,
                "at_least": target.at_least,
                "met": met,
            }
        )
    return judged


def verdicts(judged: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for one in judged:
        scale = MiB if one["unit"] == "MiB" else 1
        bound = f"{'≥' if one['at_least'] else '≤'} {one['bound'] / scale:g} {one['unit']}"
        value = "not measured" if one["value"] is None else f"{one['value'] / scale:.2f} {one['unit']}"
        verdict = {None: "", True: "met", False: "NOT met"}[one["met"]]
        lines.append(f"{one['title']:52}{value:>16}   target {bound:14} {verdict}")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    def version(*command: str) -> str:
        if shutil.which(command[0]) is None:
            return "not installed"
        done = subprocess.run(command, capture_output=True, text=True)
        return ((done.stdout or done.stderr).splitlines() or [""])[0]

    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": model[0].partition(":")[2].strip() if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "fio": version("fio", "--version"),
        "nbdkit": version("nbdkit", "--version"),
        "qemu-nbd": version("qemu-nbd", "--version"),
    }


def save(
    path: Path,
    scale: Scale,
    rows: list[Row],
    results: Results,
    judged: list[dict[str, Any]],
    notes: list[str],
    memory: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    told = {
        "format": 2,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "scale": asdict(scale),
        "state": "see bench/plan.py; free memory filled with page cache before each measured load",
        "memory": dict(memory or {}),
        "rows": [
            {
                "key": row.key,
                "title": row.title,
                "metric": row.metric,
                "peers": {peer: results[row.key, peer].values for peer in row.peers if (row.key, peer) in results},
            }
            for row in rows
        ],
        "ours": {
            key: result.values for (key, _), result in results.items() if key not in {row.key for row in rows}
        },
        "beside": ratios(rows, results),
        "targets": judged,
        "notes": notes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return told
