"""A policy as people write it: ``every-write=24h every-cp=3d hourly=7d daily=30d``; a plain ``24h`` is the first.

``every-6h=14d`` keeps the first point of each six hours; hourly is every-1h, daily every-1d. Each tier has to keep
something longer than all finer ones do, or it would say nothing.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from revolume.errors import UsageError
from revolume.history.moments import format_span, parse_span
from revolume.volume.metadata.keep_policy import KeepPolicy, Tier, WhenFull
from revolume.volume.space.policy_stops import TIER_PINS_MAX

EVERY_WRITE: Final = "every-write"
EVERY_POINT: Final = "every-cp"
_NAMED: Final = {"hourly": 3_600_000, "daily": 86_400_000}
_EXAMPLE: Final = "As in: every-write=24h every-cp=3d hourly=7d daily=30d."
_WHEN_FULL: Final = {"shrink": WhenFull.SHRINK, "block": WhenFull.BLOCK, "refuse": WhenFull.REFUSE}


def parse_policy(text: str) -> KeepPolicy:
    """The policy that a text says. UsageError: it is none, or contradicts itself."""
    words = text.replace(",", " ").split()
    if len(words) == 1 and "=" not in words[0]:
        return KeepPolicy(_span_ms(words[0]))
    spans = dict[int, tuple[str, int]]()
    for word in words:
        name, equals, span = word.partition("=")
        if not equals:
            raise _bad(f"{word[:80]!a} names no tier.", _EXAMPLE)
        period_ms = _period_ms(name)
        if period_ms in spans:
            raise _bad(f"{name} says how long something is kept for which {spans[period_ms][0]} has said it.")
        spans[period_ms] = name, _span_ms(span)
    if 0 not in spans:
        raise _bad(f"It does not say for how long every write is kept ({EVERY_WRITE}).", _EXAMPLE)
    _check(sorted(spans.items()))
    tiers = tuple(Tier(period, span) for period, (_, span) in sorted(spans.items()) if period > 1)
    return KeepPolicy(spans[0][1], spans[1][1] if 1 in spans else 0, tiers)


def _period_ms(name: str) -> int:
    """0: every write, 1: every point, else the period of a tier."""
    if name in (EVERY_WRITE, EVERY_POINT):
        return int(name == EVERY_POINT)
    if name in _NAMED:
        return _NAMED[name]
    if name.startswith("every-"):
        try:
            period_ms = _span_ms(name.removeprefix("every-"))
        except UsageError:
            period_ms = 0
        if period_ms >= 1000:
            return period_ms
    known = ", ".join((EVERY_WRITE, EVERY_POINT, *_NAMED))
    raise _bad(f"There is no tier {name[:80]!a}.", f"There are {known}, and every-6h for other periods.")


def _check(spans: list[tuple[int, tuple[str, int]]]) -> None:
    """``spans``: (period, (tier, span)), the finest first."""
    finer = ""
    longest_ms = 0
    for period_ms, (name, span_ms) in spans:
        if not span_ms:
            raise _bad(f"{name}=0 keeps nothing.", "Leave it out, or say for how long.")
        if span_ms <= longest_ms:
            raise _bad(f"{name} keeps nothing that {finer} does not keep as long.", "Give it a longer span.")
        if span_ms < period_ms:
            raise _bad(f"The span of {name} is shorter than its period.", "Give it a longer span.")
        if period_ms > 1 and span_ms // period_ms > TIER_PINS_MAX:
            cause = f"{name} would keep {span_ms // period_ms} points; a tier keeps {TIER_PINS_MAX:,} at most."
            raise _bad(cause, "Give it a shorter span, or use a tier of longer periods.")
        finer, longest_ms = name, span_ms


def _span_ms(text: str) -> int:
    if text == "0":
        return 0
    if found := re.fullmatch(r"([0-9]{1,9})ms", text):
        return int(found[1])
    return parse_span(text) * 1000


def _bad(cause: str, hint: str = "") -> UsageError:
    return UsageError("bad-policy", cause, hint)


def parse_when_full(text: str) -> WhenFull:
    """shrink, block or refuse. UsageError: it is none of them."""
    if text not in _WHEN_FULL:
        raise UsageError("bad-when-full", f"{text[:80]!a} is not known.", "There are shrink, block and refuse.")
    return _WHEN_FULL[text]


def format_policy(policy: KeepPolicy) -> str:
    """The text that ``parse_policy`` reads as this policy, but for what happens when there is no room."""
    if not policy.pins:
        return _span(policy.every_write_ms)
    words = [f"{EVERY_WRITE}={_span(policy.every_write_ms)}"]
    if policy.every_point_ms:
        words.append(f"{EVERY_POINT}={_span(policy.every_point_ms)}")
    names = {period: name for name, period in _NAMED.items()}
    words += [
        f"{names.get(tier.period_ms, f'every-{_span(tier.period_ms)}')}={_span(tier.span_ms)}"
        for tier in policy.tiers
    ]
    return " ".join(words)


def _span(span_ms: int) -> str:
    if span_ms and span_ms % 1000:
        return f"{span_ms}ms"
    seconds = span_ms // 1000
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return format_span(seconds) if seconds else "0"


def with_when_full(policy: KeepPolicy, text: str | None) -> KeepPolicy:
    """The policy with what happens when there is no room; None: as it is."""
    return policy if text is None else replace(policy, when_full=parse_when_full(text))


def show_when_full(when_full: WhenFull) -> str:
    """As ``parse_when_full`` reads it."""
    return next(text for text, each in _WHEN_FULL.items() if each == when_full)
