"""A base that gives way again and again is begun anew less and less often."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from revolume.host import real_host
from revolume.mirror.source.mirror_source import BACKOFF_SECONDS, GAVE_WAY_SECONDS, MirrorSource


def test_each_time_it_waits_longer_until_a_base_is_whole() -> None:
    told: list[str] = []
    feed: Any = SimpleNamespace(end=0, end_address=0, oldest=0)
    origin: Any = SimpleNamespace(base_point=lambda mirror: None, feed=feed)
    mirror: Any = SimpleNamespace(name="m")
    source = MirrorSource(real_host(), origin, mirror, "unix:/nowhere", b"n" * 16, None, told.append)
    progress = source.progress
    for wanted in (*GAVE_WAY_SECONDS, GAVE_WAY_SECONDS[-1]):
        source._note_base_gone()
        assert 0.7 * wanted <= source._pause_seconds() <= wanted
        assert f"about {wanted:.0f} s" in told[-1]
    progress.attempt_failed("nobody is there", 0)
    assert source._pause_seconds() > 100, "nothing has got through since"
    progress.become_greeting()
    progress.become_planning()
    lag: Any = SimpleNamespace(address=0, begin_flow=lambda now_ns: None)
    progress.become_joined(10**10, SimpleNamespace(), lag)  # type: ignore[arg-type]
    assert source._pause_seconds() <= BACKOFF_SECONDS[1]
