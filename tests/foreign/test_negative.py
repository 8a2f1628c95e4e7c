"""Requests that libnbd would refuse to send, and the exact error that each gets; the handshake driven."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import libnbd_python, run
from tests.support.servers import KIND, Serve, Server, revolume, revolume_only

pytestmark = pytest.mark.foreign
MiB, GiB = 1 << 20, 1 << 30
SCRIPT = Path(__file__).with_name("libnbd_requests.py")


def drive(what: str, uri: str) -> dict[str, Any]:
    return json.loads(run(libnbd_python(), SCRIPT, what, uri).stdout)


EXPECTED = {
    "read past the end": "EINVAL",
    "read across the end": "EINVAL",
    "read at 2^63": "EINVAL",
    "read wrapping around": "EINVAL",
    "write past the end": "ENOSPC",
    "write across the end": "ENOSPC",
    "write wrapping around": "ENOSPC",
    "zero past the end": "ENOSPC",
    "zero across the end": "ENOSPC",
    "trim past the end": "EINVAL",
    "trim across the end": "EINVAL",
    "cache past the end": "EINVAL",
    "status past the end": "EINVAL",
    "read with an unknown flag": "EINVAL",
    "write with an unknown flag": "EINVAL",
    "write with DF": "EINVAL",
    "write with NO_HOLE": "EINVAL",
    "trim with FAST_ZERO": "EINVAL",
    "read with REQ_ONE": "EINVAL",
    "read with FUA": "ok",
    "flush with FUA": "ok",
    "trim with FUA": "ok",
    "zero with FUA": "ok",
    "read the last byte": "ok",
    "write the last byte": "ok",
    "still in step": True,
}


def test_wrong_requests_get_their_errors(used: Server) -> None:
    if KIND == "qemu-nbd":
        pytest.skip("qemu answers EINVAL where the protocol asks for ENOSPC")
    if KIND == "nbdkit" and used.tls:
        pytest.skip("nbdkit 1.32 loses its step when it refuses a write over TLS")
    told = drive("requests", used.uri())
    assert told == EXPECTED


def test_payload_of_64_mib(used: Server) -> None:
    if KIND == "qemu-nbd":
        pytest.skip("qemu takes 32 MiB")
    assert drive("payload", used.uri()) == {"write 64 MiB": "ok", "read 64 MiB": True}


def test_zero_and_trim_of_4_gib(serve: Serve) -> None:
    told = drive("huge", serve("unix", size=8 * GiB).uri())
    assert told.pop("fast zero") in ("ok", "ENOTSUP"), "a fast zero is done at once or refused at once"
    assert told == {
        "zero": "ok",
        "zeroed reads zero": True,
        "trim": "ok",
        "trimmed reads zero": True,
        "beyond is untouched": True,
        "no hole": "ok",
    }


@revolume_only
def test_a_moment_cannot_be_changed(serve: Serve, transport: str) -> None:
    server = serve(transport)
    run("qemu-io", *server.qemu(), "-c", "write -P 7 0 4k")
    revolume("snapshot", server.directory, "still")
    assert drive("readonly", server.uri("vol@still")) == {
        "read only": True,
        "write": "EPERM",
        "zero": "EPERM",
        "trim": "EPERM",
        "read": "ok",
    }


def test_handshake_in_every_order(used: Server) -> None:
    told = drive("handshake", used.uri())
    assert told["list"] == told["info"] == told["info again"] == told["go"] == told["read"] == "ok"
    assert told["contexts"] == "ok"
    assert told["base:allocation listed"] and told["base:allocation on"]
    assert not told["no:such-context on"]
    assert told["size by info"] == 64 * MiB
    assert told["abort"] == "ok"
    assert told["simple replies"] is True
    assert told["simple read"] == told["simple write"] == "ok"
    if not used.tls:
        assert told["export name size"] == 64 * MiB
        assert told["export name reads"] == "ok"
    if KIND == "nbdkit":
        return  # serves every name
    assert told["listed"] == ["vol"]
    for refused in ("info of nonsense", "info of a name of 4096 bytes", "go of a name of 4096 bytes"):
        assert told[refused] != "ok", refused
