"""`revolume promote --nbd`: the mirror listens where clients knew the old primary, or nothing happens at all."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.mirrors import until_source_is_missed
from tests.support.pairs import Pair, pair
from tests.support.servers import REVOLUME
from tests.support.wire import Wire, WireError

MiB = 1 << 20
SIZE = 8 * MiB


def promote(both: Pair, *addresses: str, status: int = 0) -> dict[str, object]:
    """The answer, or the error."""
    words = [word for address in addresses for word in ("--nbd", address)]
    command = [str(REVOLUME), "promote", str(both.mirror.directory), *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=both.folder)
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    told: dict[str, object] = json.loads(done.stdout) if status == 0 else json.loads(done.stderr)["error"]
    return told


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_the_old_address_is_taken_over_or_nothing_happens(folder: Path, transport: str) -> None:
    with pair(folder, size=SIZE, transport=transport) as both:
        unix = transport == "unix"
        address = f"unix:{both.primary.address}" if unix else both.primary.address
        with Wire(both.primary.uri()) as wire:
            wire.pwrite(0, b"kept" * 1024)
        nothing_happened = [
            (("nowhere",), 2, "address-syntax"),
            ((address, address), 2, "address-twice"),
            (("192.0.2.1:10809",), 4, "plaintext"),
            (("0.0.0.0:0",), 4, "plaintext"),
            (("unix:/no/such/folder/s",), 1, "address-no-directory"),
            ((f"unix:{folder}/free", address), 1, "address-in-use"),  # the primary lives and listens
            ((f"unix:{folder}/free",), 4, "source-alive"),
        ]
        for addresses, status, code in nothing_happened:
            assert promote(both, *addresses, status=status)["code"] == code
            assert not (folder / "free").exists()
        assert both.status(both.mirror)["role"] == "secondary"
        with Wire(both.primary.uri()) as wire:
            wire.pwrite(4096, b"more" * 1024)  # answered: the mirror takes part as ever

        both.primary.kill()
        until_source_is_missed(both.mirror.directory)
        told = promote(both, "unix:p/s.sock" if unix else address, "unix:free")  # relative to where we are
        uris = [both.primary.uri("vol").replace("localhost", "127.0.0.1"), f"nbd+unix:///vol?socket={folder}/free"]
        assert told["nbd"] == uris
        assert both.status(both.mirror)["nbd"][-2:] == uris
        for uri in (*uris, both.mirror.uri("vol")):
            with Wire(uri) as wire:
                assert wire.pread(0, 8192) == b"kept" * 1024 + b"more" * 1024
                wire.pwrite(8192, b"new!" * 1024)
        assert promote(both, f"unix:{folder}/third", status=4)["code"] == "is-primary"
        assert both.mirror.stop() == 0
        assert not (folder / "free").exists(), "what was taken over is cleaned up as well"


def test_a_mirror_that_is_not_served_takes_nothing_over(folder: Path) -> None:
    with pair(folder, size=SIZE) as both:
        both.primary.kill()
        both.mirror.kill()
        assert promote(both, f"unix:{folder}/free", status=2)["code"] == "not-running"
        assert promote(both)["nbd"] == []


def test_what_is_taken_over_asks_for_certificates_where_the_mirror_does(folder: Path, pki: Path) -> None:
    with pair(folder, size=SIZE, pki=pki) as both:
        both.primary.kill()
        until_source_is_missed(both.mirror.directory)
        (uri,) = promote(both, "127.0.0.1:0")["nbd"]  # type: ignore[misc]
        assert uri.startswith("nbds://127.0.0.1:")
        with pytest.raises((WireError, ConnectionError)):
            Wire(uri.replace("nbds", "nbd"))
