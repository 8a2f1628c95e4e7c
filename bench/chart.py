"""The table as bars: each row relative to nbdkit's file plugin. SVG by hand; readable on light and dark
pages.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape
from typing import Any

COLOURS = {
    "revolume": "#2f7ed8",
    "nbdkit file": "#8a8f98",
    "qemu-nbd": "#b9bec6",
    "nbdkit memory": "#d9a441",
    "fio on a file": "#6aa84f",
}
_LEFT, _WIDTH, _BAR, _GAP = 330, 460, 11, 16
_BASE = "nbdkit file"
_FURTHEST = 4.0  # longer bars are cut, and marked »


def chart(told: Mapping[str, Any]) -> str:
    bars, y = [], 56
    groups = [(row, _relative(row)) for row in told["rows"]]
    scale = _WIDTH / _FURTHEST
    for row, group in groups:
        if not group:
            continue
        middle = y + len(group) * _BAR / 2 + 4
        bars.append(f'<text x="{_LEFT - 10}" y="{middle:.0f}" text-anchor="end">{escape(row["title"])}</text>')
        for peer, (value, text) in group.items():
            width = max(1.0, min(value, _FURTHEST) * scale)
            text = f"» {text}" if value > _FURTHEST else text
            bars.append(
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR - 2}" fill="{COLOURS[peer]}"/>'
                f'<text class="v" x="{_LEFT + width + 5:.1f}" y="{y + _BAR - 3}">{escape(text)}</text>'
            )
            y += _BAR
        y += _GAP
    key, x = [], _LEFT
    for peer, colour in COLOURS.items():
        key.append(
            f'<rect x="{x}" y="20" width="11" height="11" fill="{colour}"/>'
            f'<text x="{x + 16}" y="30">{escape(peer)}</text>'
        )
        x += 28 + 7 * len(peer)
    line = _LEFT + scale
    key.append(f'<line x1="{line:.1f}" x2="{line:.1f}" y1="44" y2="{y}" stroke="#8a8f98" stroke-dasharray="3 3"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 110} {y}" '
        f'font-family="sans-serif" font-size="12"><style>text{{fill:#555}}.v{{font-size:9px}}'
        f"@media(prefers-color-scheme:dark){{text{{fill:#bbb}}}}</style>\n"
        f"<title>Beside nbdkit's file plugin (dashed line), median of repetitions, longer is better</title>\n"
        + "\n".join(key + bars)
        + "\n</svg>\n"
    )


def _relative(row: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    medians = {
        peer: statistics.median(values["rate"]) for peer, values in row["peers"].items() if "rate" in values
    }
    base = medians.get(_BASE) or next(iter(medians.values()), 1.0)
    unit = "" if row["metric"] == "iops" else " MB/s"
    return {peer: (medians[peer] / base, f"{medians[peer]:,.0f}{unit}") for peer in COLOURS if peer in medians}
