"""The server on the memory export, judged by programs that are not ours.

No store stands behind it: what fails here is the protocol's fault alone. The same programs judge the whole
in ``tests/foreign``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from revolume.host import real_host
from revolume.host.tls import server_context
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.server.server import Server
from tests.nbd.memory import Memory, MemoryExports
from tests.support.programs import libnbd_python, need, run

pytestmark = pytest.mark.foreign
MiB = 1 << 20


@dataclass
class Place:
    """Where the running server is."""

    unix: str
    tcp: str
    memory: Memory


@contextmanager
def running(folder: Path, pki: Path | None = None, size: int = 64 * MiB) -> Iterator[Place]:
    """The server in a loop and a thread of its own."""
    ready: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, Place]] = []
    begun = threading.Event()

    async def serve() -> None:
        host, memory, stop = real_host(), Memory(size), asyncio.Event()
        tls = server_context(str(pki), verify_peer=True) if pki else None
        server = Server(host, MemoryExports(memory), Limits(), tls, tls is not None)
        unix = await server.listen(f"unix:{folder}/n.sock")
        tcp = await server.listen("127.0.0.1:0")
        names = [uri.replace("/?", "/vol?") if "?" in uri else uri + "vol" for uri in (unix, tcp)]
        ready.append((asyncio.get_running_loop(), stop, Place(*names, memory)))
        begun.set()
        await stop.wait()
        await server.stop(1.0)
        await host.work.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert begun.wait(60)
    loop, stop, place = ready[0]
    try:
        yield place
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
    assert not thread.is_alive()
    assert place.memory.open == 0


@pytest.fixture
def place(folder: Path) -> Iterator[Place]:
    with running(folder) as found:
        yield found


def test_nbdinfo_finds_everything_we_offer(place: Place):
    need("nbdinfo")
    shown = run("nbdinfo", place.tcp).stdout
    for line in (
        "protocol: newstyle-fixed without TLS, using structured packets",
        'export="vol"',
        "base:allocation",
        "qemu:dirty-bitmap:b0",
        "can_multi_conn: true",
        "can_fast_zero: true",
        "can_df: true",
        "can_cache: true",
        "can_fua: true",
        "block_size_minimum: 1",
        "block_size_preferred: 4096",
        "block_size_maximum: 67108864",
    ):
        assert line in shown, line
    listed = run("nbdinfo", "--list", place.tcp.removesuffix("vol")).stdout
    assert listed.count("export=") == 2
    assert run("nbdinfo", "--size", place.unix).stdout.strip() == str(64 * MiB)


def test_nbdcopy_there_and_back(place: Place, folder: Path):
    need("nbdcopy", "nbdinfo")
    image, back = folder / "image", folder / "back"
    data = bytearray(64 * MiB)
    data[5 * MiB : 6 * MiB] = b"\xa5" * MiB
    data[40 * MiB + 123 : 40 * MiB + 5000] = b"z" * 4877
    image.write_bytes(data)
    run("nbdcopy", "--flush", "--connections=4", "--requests=32", image, place.unix)
    run("nbdcopy", place.tcp, back)
    assert back.read_bytes() == data
    assert place.memory.data == data
    totals = run("nbdinfo", "--map", "--totals", place.unix).stdout
    assert "hole,zero" in totals


def test_qemu_writes_reads_compares_and_maps(place: Place, folder: Path):
    need("qemu-io", "qemu-img")
    commands = (
        "write -P 0xa5 1M 64k",
        "write -f -P 0x5a 2M 64k",
        "read -P 0xa5 1M 64k",
        "write -z -u 3M 1M",
        "read -P 0 3M 1M",
        "discard 2M 64k",
        "read -P 0 2M 64k",
        "write -P 7 513 1000",
        "read -P 7 513 1000",
        "write -P 9 4M 30M",
        "read -P 9 4M 30M",
        "flush",
    )
    spelled = [word for command in commands for word in ("-c", command)]
    for uri in (place.unix, place.tcp):
        shown = run("qemu-io", "-f", "raw", *spelled, uri).stdout
        assert "failed" not in shown
    image = folder / "image"
    image.write_bytes(place.memory.data)
    assert "identical" in run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, place.tcp).stdout
    assert '"zero": true' in run("qemu-img", "map", "--output=json", "-f", "raw", place.unix).stdout


@pytest.mark.parametrize("extra", [("--bs=4k",), ("--bsrange=512-70k", "--bs_unaligned")], ids=["4k", "odd"])
def test_fio_verifies_what_it_wrote(place: Place, folder: Path, extra: tuple[str, ...]):
    need("fio")
    run(
        "fio",
        "--name=v",
        "--ioengine=nbd",
        f"--uri={place.unix}",
        "--rw=randwrite",
        "--iodepth=16",
        "--size=16m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--serialize_overlap=1",
        "--fsync=64",
        f"--aux-path={folder}",
        *extra,
    )


NEGATIVE = """
import errno, nbd
h.set_strict_mode(0)
h.set_handshake_flags(nbd.HANDSHAKE_FLAG_MASK)
h.connect_uri(URI)
size = h.get_size()
def refused(number, call, *arguments, **words):
    try:
        call(*arguments, **words)
    except nbd.Error as error:
        assert error.errnum == number, (call, error)
    else:
        raise AssertionError(call)
refused(errno.EINVAL, h.pread, 512, size)
refused(errno.EINVAL, h.pread, 512, size - 511)
refused(errno.ENOSPC, h.pwrite, bytes(512), size - 511)
refused(errno.ENOSPC, h.zero, 512, size)
refused(errno.EINVAL, h.trim, 512, size)
refused(errno.EINVAL, h.cache, 512, size)
refused(errno.EINVAL, h.pread, 512, 0, flags=nbd.CMD_FLAG_NO_HOLE)
refused(errno.EINVAL, h.pwrite, bytes(512), 0, flags=nbd.CMD_FLAG_DF)
refused(errno.EINVAL, h.trim, 512, 0, flags=nbd.CMD_FLAG_REQ_ONE)
refused(errno.EINVAL, h.flush, flags=1 << 9)
h.pwrite(b"still here", 7, nbd.CMD_FLAG_FUA)
assert h.pread(10, 7) == b"still here"
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
assert h.pread(10, 7, nbd.CMD_FLAG_DF) == bytes(10)
h.flush()
h.shutdown()
"""

OPTIONS = """
import nbd
h.set_opt_mode(True)
h.add_meta_context("base:allocation")
h.connect_uri(URI)
names = []
h.opt_list(lambda name, description: names.append(name))
assert names == ["vol", "vol@then"], names
h.set_export_name("nope")
try:
    h.opt_info()
except nbd.Error:
    pass
else:
    raise AssertionError("no such export")
h.set_full_info(True)
h.set_export_name("vol@then")
h.opt_info()
assert h.is_read_only()
assert h.get_canonical_export_name() == "vol@then"
assert "bytes in memory" in h.get_export_description()
found = []
h.opt_list_meta_context(found.append)
assert found == ["base:allocation"], found
h.set_export_name("vol")
h.opt_go()
assert not h.is_read_only()
entries = []
h.block_status(65536, 0, lambda context, offset, extents, error: entries.append((context, extents)))
assert entries == [("base:allocation", [65536, 3])], entries
h.shutdown()
h2 = nbd.NBD()
h2.set_opt_mode(True)
h2.connect_uri(URI)
h2.opt_abort()
"""


@pytest.mark.parametrize("script", [NEGATIVE, OPTIONS], ids=["negative-requests", "options"])
def test_libnbd_asks_what_polite_clients_do_not(place: Place, script: str):
    python = libnbd_python()
    run(python, "-c", f"import nbd\nh = nbd.NBD()\nURI = {place.unix!r}\n{script}")


def test_tls_with_libnbd_and_qemu(folder: Path, pki: Path):
    need("nbdinfo", "nbdcopy", "qemu-img")
    with running(folder, pki) as place:
        image = folder / "image"
        data = bytes(range(256)) * (64 * MiB // 256)
        image.write_bytes(data)
        run("nbdcopy", image, f"{place.unix}&tls-certificates={pki}")
        back = folder / "back"
        host, port = place.tcp.removeprefix("nbds://").removesuffix("/vol").split(":")
        run("nbdcopy", f"nbds://localhost:{port}/vol?tls-certificates={pki}", back)
        assert back.read_bytes() == data
        shown = run(
            "qemu-img",
            "info",
            "--object",
            f"tls-creds-x509,id=t,dir={pki},endpoint=client",
            "--image-opts",
            f"driver=nbd,server.type=inet,server.host={host},server.port={port},export=vol,tls-creds=t",
        ).stdout
        assert "64 MiB" in shown
        refused = run("nbdinfo", place.tcp.replace("nbds", "nbd"), check=False)
        assert refused.returncode != 0
