"""libnbd's tools against a real server process: what they learn of the export, copies both ways, the map."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from revolume.api.client import connect
from tests.support.programs import find, need, run
from tests.support.servers import KIND, Serve, Server, revolume, revolume_only
from tests.support.wire import Wire

pytestmark = pytest.mark.foreign
MiB = 1 << 20


@pytest.fixture
def image(folder: Path) -> Path:
    """64 MiB with data, holes, and a ragged pattern that no block boundary explains."""
    made = folder / "image"
    chance = random.Random(7)
    with made.open("wb") as file:
        file.truncate(64 * MiB)
        for at in (0, 5 * MiB + 512, 17 * MiB - 3, 40 * MiB, 64 * MiB - 4096):
            file.seek(at)
            file.write(chance.randbytes(min(3 * MiB + 77, 64 * MiB - at)))
    return made


def test_info_tells_size_and_abilities(used: Server) -> None:
    need("nbdinfo")
    told = json.loads(run("nbdinfo", "--json", used.uri()).stdout)
    assert told["protocol"] == "newstyle-fixed"
    assert told["TLS"] is used.tls
    assert told["structured"] is True
    (export,) = told["exports"]
    assert export["export-size"] == 64 * MiB
    assert "base:allocation" in export["contexts"]
    for ability in ("is_read_only", "is_rotational"):
        assert export[ability] is False
    for ability in ("can_flush", "can_fua", "can_trim", "can_zero", "can_df", "can_cache", "can_multi_conn"):
        assert export[ability] is True, ability
    if KIND != "nbdkit":  # its memory plugin states no block sizes
        assert export["block_size_minimum"] == 1
        assert export["block_size_preferred"] == 4096
        assert export["block_size_maximum"] >= (32 if KIND == "qemu-nbd" else 64) * MiB


@pytest.mark.parametrize("ability", ["multi-conn", "flush", "fua", "trim", "zero", "fast-zero", "df", "cache"])
def test_can(used: Server, ability: str) -> None:
    need("nbdinfo")
    run("nbdinfo", "--can", ability, used.uri())


def test_size_and_structured_reply(used: Server) -> None:
    need("nbdinfo")
    assert run("nbdinfo", "--size", used.uri()).stdout.strip() == str(64 * MiB)
    run("nbdinfo", "--can", "structured-reply", used.uri())
    assert run("nbdinfo", "--is", "read-only", used.uri(), ok=(2,)).returncode == 2


def test_list_names_the_export(used: Server) -> None:
    need("nbdinfo")
    told = json.loads(run("nbdinfo", "--list", "--json", used.uri("")).stdout)
    names = [export["export-name"] for export in told["exports"]]
    assert names == ([""] if KIND == "nbdkit" else ["vol"])


def test_copy_there_and_back(used: Server, image: Path, folder: Path) -> None:
    need("nbdcopy")
    run("nbdcopy", "--flush", "--connections=4", "--requests=32", image, used.uri())
    run("nbdcopy", used.uri(), folder / "back")
    run("cmp", image, folder / "back")


def test_dump_is_the_content(used: Server, image: Path) -> None:
    need("nbddump", "nbdcopy")
    run("nbdcopy", image, used.uri())
    dumped = run("nbddump", "--length=64", used.uri()).stdout
    first = image.read_bytes()[:16].hex(" ")
    assert dumped.splitlines()[0].startswith("0000000000: " + first[:23])


def test_map_tells_data_from_holes(server: Server, image: Path) -> None:
    need("nbdinfo", "nbdcopy")
    run("nbdcopy", "--destination-is-zero", image, server.uri())
    extents = json.loads(run("nbdinfo", "--map", "--json", server.uri()).stdout)
    assert sum(extent["length"] for extent in extents) == 64 * MiB
    end = 0
    data = set()
    for extent in extents:
        assert extent["offset"] == end and extent["length"] > 0
        end += extent["length"]
        if not extent["type"] & 2:  # does not say "reads as zeroes"
            data.update(range(extent["offset"] // 4096, -(-end // 4096)))
    content = image.read_bytes()
    zero = bytes(4096)
    really = {block for block in range(64 * MiB // 4096) if content[block * 4096 : block * 4096 + 4096] != zero}
    assert really <= data, "a block with data was said to read as zeroes"
    if KIND == "revolume":
        assert data == really, "a block that was never written was said to hold data"


def test_map_totals(server: Server) -> None:
    need("nbdinfo", "nbdcopy")
    totals = run("nbdinfo", "--map", "--totals", server.uri()).stdout
    assert "hole,zero" in totals and "100.0%" in totals


@revolume_only
def test_map_of_changes_since_a_moment(serve: Serve, folder: Path) -> None:
    """Changed blocks since a snapshot, as stock tools read them: a dirty bitmap."""
    need("nbdinfo", "qemu-img")
    server = serve("unix")
    with Wire(server.uri()) as wire:
        wire.pwrite(0, b"a" * 65536)
        wire.flush()
        revolume("snapshot", server.directory, "before")
        wire.pwrite(1 * MiB, b"b" * 8192)
        wire.pwrite(2 * MiB + 512, b"c" * 512)
        wire.trim(0, 4096)
        wire.flush()
    context = "qemu:dirty-bitmap:before"
    extents = json.loads(run("nbdinfo", f"--map={context}", "--json", server.uri()).stdout)
    dirty = [(extent["offset"], extent["length"]) for extent in extents if extent["type"] & 1]
    assert dirty == [(0, 4096), (1 * MiB, 8192), (2 * MiB, 4096)]
    told = run("qemu-img", "map", "--output=json", *server.qemu(**{"x-dirty-bitmap": context})).stdout
    changed = [(extent["start"], extent["length"]) for extent in json.loads(told) if not extent["data"]]
    assert changed == dirty, "qemu shows dirty extents as data: false"
    revolume("snapshot", server.directory, "later")
    early = run("nbdinfo", "--map=qemu:dirty-bitmap:later", server.uri("vol@before"), check=False)
    assert early.returncode != 0, "of a later moment there is no bitmap"
    assert "qemu:dirty-bitmap:before" in run("nbdinfo", server.uri("vol@later")).stdout


def test_plain_clients_are_refused_where_tls_is_required(serve: Serve) -> None:
    need("nbdinfo")
    server = serve("tls-tcp")
    said = run("nbdinfo", f"nbd://{server.address}/vol", check=False)
    assert said.returncode != 0
    assert "not supported" in said.stderr, "ERR_TLS_REQD is what libnbd tells as ENOTSUP"


def test_nbd_client_lists(used: Server) -> None:
    """nbd-client is of use without a kernel module in one thing: listing."""
    if KIND == "nbdkit":
        pytest.skip("nbdkit lists one export without a name")
    need("nbd-client")
    if used.unix:
        arguments = ["-unix", used.address]
    else:
        host, port = used.address.rsplit(":", 1)
        arguments = ["localhost" if used.tls else host, port]
    if used.tls:
        if used.unix:
            pytest.skip("nbd-client speaks TLS on TCP only")
        names = (("-certfile", "client-cert"), ("-keyfile", "client-key"), ("-cacertfile", "ca-cert"))
        for flag, file in names:
            arguments += [flag, f"{used.pki}/{file}.pem"]
        arguments += ["-tlshostname", "localhost"]
    program = find("nbd-client")
    assert program is not None
    said = run(program, "-l", *arguments).stdout
    assert re.search(r"^vol(:|$)", said, re.MULTILINE), said  # a description may follow


@revolume_only
def test_many_snapshots_are_listed_by_either_tool(serve: Serve) -> None:
    """Both ask about every export on one connection."""
    need("nbdinfo", "qemu-nbd")
    server = serve(size=MiB)
    client = connect(str(server.directory))
    assert client is not None
    with client:
        for number in range(40):
            client.snapshot(f"s{number}")
    listed = json.loads(run("nbdinfo", "--list", "--json", server.uri("")).stdout)
    assert len(listed["exports"]) == 41
    assert all(export["export-size"] == MiB for export in listed["exports"])
    told = run("qemu-nbd", "--list", "-k", server.address).stdout
    assert "exports available: 41" in told and "vol@s39" in told
