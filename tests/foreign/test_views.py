"""Moments as exports, asked for by a client that shares no code with the server."""

from __future__ import annotations

import pytest

from tests.support.servers import Serve, Server, revolume, revolume_only
from tests.support.wire import Wire, WireError, digest

pytestmark = [pytest.mark.foreign, revolume_only]
MiB = 1 << 20


def test_moments_stand_still_while_the_volume_moves(serve: Serve) -> None:
    server = serve("unix")
    seen = {}
    with Wire(server.uri()) as wire:
        for step in range(5):
            wire.pwrite(step * 4096 + 17, bytes([65 + step]) * 5000)
            wire.zero(32 * MiB, 8192)
            name = f"step-{step}"
            revolume("snapshot", server.directory, name)
            seen[name] = digest(server.uri(f"vol@{name}"))
        assert len(set(seen.values())) == 5
        wire.pwrite(0, b"z" * MiB)
    assert {name: digest(server.uri(f"vol@{name}")) for name in seen} == seen
    assert server.stop() == 0
    server.start()
    assert {name: digest(server.uri(f"vol@{name}")) for name in seen} == seen


def test_a_writable_view_is_thrown_away(serve: Serve) -> None:
    """After a DISC at once; a connection that was merely lost finds its view again for a while."""
    server = serve("unix")
    with Wire(server.uri()) as wire:
        wire.pwrite(0, b"old" * 1000)
    revolume("snapshot", server.directory, "still")
    view = server.uri("vol@still,rw")
    with Wire(view) as wire:
        wire.pwrite(0, b"new")
        assert wire.pread(0, 6) == b"newold"
    with Wire(view) as wire:
        assert wire.pread(0, 6) == b"oldold", "it was thrown away"
        wire.pwrite(0, b"new")
        wire.socket.close()  # lost, without a word
    with Wire(view) as wire:
        assert wire.pread(0, 6) == b"newold", "the same client finds it again"
    with Wire(server.uri()) as wire:
        assert wire.pread(0, 6) == b"oldold"


@pytest.mark.parametrize("transport", ["unix"])
@pytest.mark.parametrize(
    "name",
    ["vol@nonsense", "vol@w999999999", "vol@cp999999", "vol@2001-01-01T00:00:00", "vol@", "other", "../vol",
     "vol@still,rx", "vol@" + "x" * 3000],
)  # fmt: skip
def test_moments_that_make_no_sense_are_refused(used: Server, name: str) -> None:
    with Wire(used.uri()) as wire:
        wire.pwrite(0, b"x")
    with pytest.raises((WireError, ConnectionError)):
        Wire(used.uri(name))
    with Wire(used.uri()) as wire:
        assert wire.pread(0, 1) == b"x"
