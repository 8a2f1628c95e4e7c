"""What an operator learns without looking: levels in the log, ``--on-event``, the state. Real processes."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.pairs import Pair
from tests.support.servers import Serve, Server, revolume, revolume_only
from tests.support.until import until
from tests.support.wire import Wire, WireError

pytestmark = revolume_only
BLOCK = 4096
MiB = 1 << 20
COMMAND = """#!/bin/sh
{ printf '%s|%s|%s|' "$REVOLUME_EVENT" "$REVOLUME_VOLUME" "$REVOLUME_MESSAGE"; cat; } >> "$1"
exit "$2"
"""


def status(server: Server) -> dict[str, Any]:
    return Pair.status(server)


def logged(server: Server, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    return [line for line in lines if line.get("kind") == kind]


@pytest.fixture
def command(folder: Path) -> Path:
    made = folder / "on-event"
    made.write_text(COMMAND)
    made.chmod(0o755)
    return made


def heard(file: Path) -> list[tuple[str, str, str, dict[str, Any]]]:
    """(kind, volume, message, the object) of each run of the command that has ended."""
    if not file.exists():
        return []
    rows = [line.split("|", 3) for line in file.read_text().splitlines(keepends=True)]
    return [(row[0], row[1], row[2], json.loads(row[3])) for row in rows if row[-1].endswith("}\n")]


def test_a_reply_that_waits_for_a_lost_mirror(folder: Path, command: Path) -> None:
    """The state says so, in text and JSON alike; the loss is a warning; the command is run; all ends by itself."""
    told = folder / "told"
    options = ("--cp-interval", "1s", "--on-event", f"{command} {told} 0")
    with contextlib.closing(Pair(folder, options=options)) as both:
        both.start()
        with Wire(both.primary.uri()) as wire:
            wire.pwrite(0, b"a" * BLOCK)
            both.cable.cut()
            both.wait("the loss is noticed", lambda: both.state()["state"] == "connecting")
            thread = threading.Thread(target=wire.pwrite, args=(0, b"b" * BLOCK))
            thread.start()
            state = until("it waits", lambda: (s := status(both.primary))["state"] == "waiting" and s)
            assert "Replies wait for mirror" in state["reason"] and "lost for" in state["reason"]
            assert "waiting: Replies wait for mirror" in revolume("status", both.primary.directory)
            lost = until("it is heard", lambda: [each for each in heard(told) if each[0] == "mirror-lost"])[0]
            assert lost[1] == "vol" and lost[3]["level"] == "warning" and lost[3]["message"] == lost[2]
            until(
                "it is a warning",
                lambda: any(line["level"] == "warning" for line in logged(both.primary, "mirror-lost")),
            )
            both.cable.mend()
            thread.join(30)
            until("it is back", lambda: heard(told)[-1][0] == "mirror-back")
            assert status(both.primary)["state"] == "online"


def test_a_command_that_is_not_there_is_refused_at_the_start(folder: Path) -> None:
    command = ("serve", folder / "v", "--size", "8M", "--on-event", "no-such-program x")
    revolume(*command, ok=(2,))
    assert not (folder / "v").exists()


def test_a_command_that_fails_or_hangs_costs_nothing(serve: Serve, folder: Path, command: Path) -> None:
    """It is logged once; the service goes on, and ends at once although the command still runs."""
    told = folder / "told"
    stuck = folder / "stuck"
    stuck.write_text("#!/bin/sh\nsleep 1000\n")
    stuck.chmod(0o755)
    little = ("--budget", "16MiB", "--segment-size", "512KiB", "--spare", "2MiB", "--keep", "0s")
    gone = folder / "gone"
    gone.symlink_to(stuck)
    for line in (f"{command} {told} 3", str(gone), str(stuck)):
        server = serve("unix", options=(*little, "--cp-interval", "200ms", "--on-event", line))
        gone.unlink(missing_ok=True)
        gone.symlink_to(stuck if line == f"{command} {told} 3" else folder / "nothing")
        with Wire(server.uri()) as wire:
            wire.pwrite(0, b"a" * BLOCK)
            for _ in range(2):
                view = Wire(server.uri("vol@now"))
                for turn in range(20):
                    wire.pwrite(turn % 8 * MiB, os.urandom(MiB))
                view.socket.close()
        began = time.monotonic()
        assert server.stop() == 0 and time.monotonic() - began < 10
        failed = [line for line in server.log if "the command of --on-event failed" in line]
        assert len(failed) == ("stuck" not in line)
    assert [each[0] for each in heard(told)][:1] == ["gave-way"]


def test_damage_met_by_a_read_until_it_is_overwritten(serve: Serve) -> None:
    """The state, the ranges, an error in the log, once for all reads of it."""
    server = serve("unix")
    with Wire(server.uri()) as wire:
        wire.pwrite(0, b"a" * 16 * BLOCK)
        wire.flush()
        spoil(server.directory, b"a" * 16 * BLOCK, (5, 6, 9))
        for block in (5, 6, 9, 5, 6, 9):
            with pytest.raises(WireError):
                wire.pread(block * BLOCK, BLOCK)
        with pytest.raises(WireError):
            wire.pread(0, 16 * BLOCK)
        assert wire.pread(7 * BLOCK, BLOCK) == b"a" * BLOCK
        state = status(server)
        assert state["state"] == "degraded" and "blocks 5 to 6, 9" in state["reason"]
        assert state["damaged"] == [[5, 2], [9, 1]]
        until("each is logged", lambda: len(logged(server, "damage")) >= 3)
        assert len(logged(server, "damage")) == 3
        with Wire(server.uri("vol@now")) as past, pytest.raises(WireError):
            past.pread(9 * BLOCK, BLOCK)
        until("it is told whose", lambda: any("of vol@w" in line["event"] for line in logged(server, "damage")))
        assert all(line["level"] == "error" for line in logged(server, "damage")[:3])
        wire.pwrite(5 * BLOCK, b"b" * 2 * BLOCK)
        until("half of it is healed", lambda: status(server)["damaged"] == [[9, 1]])
        wire.trim(9 * BLOCK, BLOCK)
        until("all of it is", lambda: status(server)["state"] == "online")


def spoil(directory: Path, content: bytes, blocks: tuple[int, ...]) -> None:
    """Behind the server's back, where the log has this content."""
    for file in sorted((directory / "log").iterdir()):
        at = file.read_bytes().find(content)
        if at >= 0:
            with file.open("r+b") as opened:
                for block in blocks:
                    opened.seek(at + block * BLOCK)
                    opened.write(b"SPOILT")
            return
    pytest.fail("the log does not have it")


def test_clients_that_are_turned_away(serve: Serve) -> None:
    """Counted, and logged at most once a second for each kind of reason."""
    server = serve("tcp", options=("--max-connections", "3"))
    for _ in range(20):
        with pytest.raises(WireError):
            Wire(server.uri("no-such-volume"))
    held = [Wire(server.uri()) for _ in range(3)]
    for _ in range(10):
        with pytest.raises((OSError, ConnectionError)):
            Wire(server.uri())
    counts = until("all are counted", lambda: (r := status(server)["refused"]).get("limit", 0) >= 10 and r)
    assert counts["export"] == 20
    server.until_said("no-such-volume")
    told = [json.loads(line) for line in server.log if "nbd client turned away" in line]
    exports = [line for line in told if line["kind"] == "export"]
    assert 1 <= len(exports) < 15 and "no-such-volume" in exports[0]["cause"]
    for wire in held:
        wire.close()
