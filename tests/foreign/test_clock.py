"""A wall clock that is two days ahead for some seconds, under a real process, which libfaketime shows it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.servers import Serve, revolume, revolume_only
from tests.support.wire import Wire

pytestmark = [pytest.mark.foreign, revolume_only]
MiB = 1 << 20
SLACK_S = 0.05
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


def test_a_clock_ahead_for_seconds_destroys_nothing(serve: Serve, folder: Path) -> None:
    """With the default of what is kept: every moment of before is there, and -2s means two seconds ago."""
    if not LIBRARIES:
        pytest.skip("libfaketime is not installed")
    shown = folder / "clock"
    shown.write_text("+0")
    environment = {
        "LD_PRELOAD": str(LIBRARIES[0]), "FAKETIME_TIMESTAMP_FILE": str(shown), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1",
    }  # fmt: skip
    options = ("--segment-size", "1MiB", "--cp-interval", "200ms")
    server = serve("unix", options=options, environment=environment)

    def ask(*words: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(revolume(*words, server.directory, "--json"))
        return found

    written: list[tuple[float, float, int]] = []

    def write(wire: Wire) -> None:
        """Block 0 says which write it was; between which times it was made is noted."""
        value, before = len(written) + 1, time.monotonic()
        wire.pwrite(0, bytes([value]) * 4096)
        written.append((before, time.monotonic(), value))

    def right(seconds: int) -> bool:
        """Whether a view of so long ago shows a write that was the last one then."""
        before = time.monotonic() - seconds
        with Wire(server.uri(f"vol@-{seconds}s")) as view:
            after = time.monotonic() - seconds
            seen = view.pread(0, 1)[0]
        begun = [value for begin, _, value in written if begin <= after + SLACK_S]
        done = [value for _, end, value in written if end <= before - SLACK_S]
        return (done or [0])[-1] <= seen <= (begun or [0])[-1]

    with Wire(server.uri()) as wire:
        for step in range(1, 13):
            wire.pwrite(step * MiB, bytes([step]) * MiB)
        for _ in range(5):
            write(wire)
            time.sleep(0.2)
        shown.write_text("+2d")
        for _ in range(20):
            write(wire)
            time.sleep(0.2)
        ahead = int(str(ask("status")["time_ns"]))
        assert ahead - time.time_ns() > 86400 * 10**9, "labels follow what the clock says"
        write(wire)
        shown.write_text("+0")
        time.sleep(1.5)
        for _ in range(5):
            write(wire)
            time.sleep(0.2)
        assert all(right(seconds) for seconds in (1, 2, 3, 4, 5, 6, 8))
        told = ask("status")
        assert told["horizon_write"] == 0, "nothing has been folded away"
        assert abs(int(str(told["time_ns"])) - time.time_ns()) < 60 * 10**9
        events = str(told["events"])
        assert "set ahead" in events and "set back" in events
