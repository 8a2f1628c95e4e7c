"""Readers of the past beside a volume whose log has little room, as real processes: who has to give way, and that
the live volume's clients never notice. A snapshot need not: it keeps what changed since it, not the log."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress

import pytest

from tests.support.servers import Serve, Server, revolume, revolume_only
from tests.support.wire import Wire, WireError

pytestmark = [pytest.mark.foreign, revolume_only]
MiB = 1 << 20
LITTLE_ROOM = (
    "--budget", "48MiB", "--segment-size", "2MiB", "--spare", "8MiB", "--keep", "0s", "--cp-interval", "200ms",
)  # fmt: skip


def rewrite(wire: Wire, total: int, seed: int = 0) -> None:
    """So many bytes, over a small part of the volume again and again."""
    piece = os.urandom(MiB)
    for turn in range(total // MiB):
        wire.pwrite((turn + seed) % 12 * MiB, piece)


def status(server: Server) -> dict[str, object]:
    return json.loads(revolume("status", server.directory, "--json"))


def shut_down(error: BaseException) -> bool:
    """What a client of a view that gave way sees: the protocol's ESHUTDOWN, once; then it is disconnected."""
    return isinstance(error, OSError) or (isinstance(error, WireError) and error.errno == errno.ESHUTDOWN)


def test_an_idle_view_gives_way(serve: Serve) -> None:
    server = serve("unix", options=LITTLE_ROOM)
    with Wire(server.uri()) as wire:
        wire.pwrite(0, b"a" * 4096)
        idle = Wire(server.uri("vol@now"))
        assert idle.pread(0, 4096) == b"a" * 4096
        rewrite(wire, 150 * MiB)
        told = status(server)
        assert told["gave_way"] == 1 and told["state"] == "online", told
        assert any("view @w" in str(event) and "was ended" in str(event) for event in told["events"])  # type: ignore[attr-defined]
        with pytest.raises(WireError) as ended:
            idle.pread(0, 4096)
        assert ended.value.errno == errno.ESHUTDOWN
        with pytest.raises((OSError, ConnectionError)):
            idle.pread(0, 4096)
        with Wire(server.uri("vol@now")) as again:
            assert again.pread(0, 4096) == wire.pread(0, 4096)


def test_an_overlay_gives_way(serve: Serve) -> None:
    """While it is being written to; each answer that it gets is right until then."""
    server = serve("unix", options=LITTLE_ROOM)
    with Wire(server.uri()) as wire:
        wire.pwrite(0, b"a" * 4096)
        with suppress(OSError), Wire(server.uri("vol@now,rw")) as overlay:
            overlay.pwrite(8192, b"mine" * 1024)
            ended = None
            for turn in range(75):
                rewrite(wire, 2 * MiB, seed=turn)
                try:
                    assert overlay.pread(0, 12288) == b"a" * 4096 + bytes(4096) + b"mine" * 1024
                    overlay.pwrite(12288 + turn * 4096, b"x" * 4096)
                except (WireError, OSError) as error:
                    ended = error
                    break
            assert ended is not None and shut_down(ended)
        assert status(server)["state"] == "online"


def test_an_overlay_has_a_quota(serve: Serve) -> None:
    server = serve("unix", options=(*LITTLE_ROOM, "--overlay-quota", "4MiB"))
    with Wire(server.uri()) as wire, Wire(server.uri("vol@now,rw")) as overlay:
        for at in range(4):
            overlay.pwrite(at * MiB, b"x" * MiB)
        overlay.pwrite(0, b"y" * MiB)
        with pytest.raises(WireError) as full:
            overlay.pwrite(4 * MiB, b"x" * 4096)
        assert full.value.errno == errno.ENOSPC
        overlay.trim(MiB, MiB)
        overlay.pwrite(4 * MiB, b"z" * MiB)
        assert overlay.pread(4 * MiB, 5) == b"zzzzz" and overlay.pread(MiB, 2) == bytes(2)
        wire.pwrite(0, b"live" * 1024)
        held = [each for each in status(server)["holders"] if each["name"].startswith("overlay")]  # type: ignore[attr-defined]
        assert [each["bytes"] for each in held] == [4 * MiB]


def test_a_kept_snapshot_refuses_nothing_and_says_what_it_takes(serve: Serve) -> None:
    server = serve("unix", options=LITTLE_ROOM)
    with Wire(server.uri()) as wire:
        wire.pwrite(0, b"a" * 4096)
        revolume("snapshot", server.directory, "keep")
        with Wire(server.uri("vol@keep")) as open_all_along:
            rewrite(wire, 500 * MiB)
            assert open_all_along.pread(0, 4096) == b"a" * 4096
        told = status(server)
        assert told["state"] == "online" and told["gave_way"] == 0 and not told["forecast"], told
        (holder,) = told["holders"]  # type: ignore[misc]
        assert holder["name"] == "snapshot keep" and holder["pinned"] and 4096 <= holder["bytes"] < MiB  # type: ignore[index]
        with Wire(server.uri("vol@keep")) as kept:
            assert kept.pread(0, 4096) == b"a" * 4096 and kept.pread(MiB, 4096) == bytes(4096)
        revolume("snapshot", server.directory, "keep", "--drop")
        rewrite(wire, 20 * MiB)
        assert status(server)["state"] == "online"
