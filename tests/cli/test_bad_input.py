"""Bad input to the real program: one clear sentence each, the right status or protocol error, nothing lost.

What goes wrong at the command line is a process that ends; what goes wrong on a socket is a connection that
ends, and the server goes on serving everybody else, without a word of Python in its log.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import xxhash

from tests.support.processes import run_revolume, start_program
from tests.support.programs import need, run
from tests.support.servers import REVOLUME, Serve, Server, without_folder
from tests.support.wire import Wire, WireError

BLOCK = 4096
MiB = 1 << 20
SIZE = 16 * MiB
SMALL = ("--segment-size", "64K", "--budget", "4M", "--spare", "256K")


def ended(*words: str | Path, status: int, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """A verb that must end with ``status``. ``limit``: of open files, as a shell would have it."""
    if limit is None:
        done = run_revolume([str(word) for word in words], {"NO_COLOR": "1"}, 120)
    else:
        done = run_limited(words, limit)
    assert done.returncode == status, f"exit {done.returncode}: {words}\n{done.stdout}\n{done.stderr}"
    return done


def run_limited(words: tuple[str | Path, ...], limit: int) -> subprocess.CompletedProcess[str]:
    """As it is installed, with so many open files."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    command = [str(REVOLUME), *map(str, words)]
    env = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=env, preexec_fn=limited, check=False
    )


def refused(code: str, *words: str | Path, status: int) -> str:
    """The sentence: one error, its cause in one line, what to do in another, and nothing on stdout."""
    done = ended(*words, status=status)
    lines = done.stderr.strip().splitlines()
    assert done.stdout == "" and 1 <= len(lines) <= 2, done.stderr
    found = re.fullmatch(r"error\[([a-z0-9-]+)\]: (.+[.?!])", lines[0])
    assert found and found[1] == code, done.stderr
    assert len(lines) == 1 or lines[1].startswith("try: ")
    said = without_folder(done.stderr)
    assert "Errno" not in said and "0x" not in said
    return done.stderr


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="rv-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextmanager
def serving(directory: Path, *words: str) -> Iterator[str]:
    """The volume being served; its URI. It must end with 0 and have nothing to say of Python."""
    with tempfile.TemporaryFile("w+") as said:
        process = start_program([str(REVOLUME), "serve", str(directory), *words], {}, stderr=said)
        try:
            assert process.stdout is not None
            ready = process.stdout.readline().split()
            assert ready[:1] == ["ready"], said.seek(0) or said.read()
            yield ready[1]
            process.terminate()
            status = process.wait(60)
            said.seek(0)
            log = said.read()
            assert status == 0, log
            assert "Traceback" not in log, log
        finally:
            process.kill()
            process.wait()


def uri_of(directory: Path, export: str = "") -> str:
    return f"nbd+unix:///{export}?socket={directory}/nbd.sock"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A volume with something in it, stopped, that nobody changes."""
    place = Path(tempfile.mkdtemp(prefix="rv-"))
    directory = place / "v"
    with serving(directory, "--size", "16M", *SMALL), Wire(uri_of(directory)) as wire:
        wire.pwrite(0, b"kept" * 1024)
        wire.flush()
    yield directory
    shutil.rmtree(place)


@pytest.fixture
def stopped(made: Path, place: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, place / "v"))


def still_holds(directory: Path) -> None:
    """Nothing was lost by what was refused."""
    ended("check", directory, status=0)
    with serving(directory, *SMALL[2:]), Wire(uri_of(directory)) as wire:
        assert wire.pread(0, 4096) == b"kept" * 1024


# --- the directory -------------------------------------------------------------------------------------


def test_a_directory_that_is_none(place: Path) -> None:
    (place / "file").write_text("")
    (place / "full").mkdir()
    (place / "full" / "letter").write_text("")
    refused("no-directory", "serve", place / "none", status=3)
    refused("not-a-directory", "serve", place / "file", status=4)
    refused("not-a-directory", "serve", place / "file", "--size", "16M", status=4)
    refused("not-a-volume", "serve", place / "full", status=3)
    assert "letter" in refused("dir-not-empty", "serve", place / "full", "--size", "16M", status=4)
    for verb in ("check", "status", "points"):
        refused("no-such-volume", verb, place / "none", status=3)
        refused("not-a-volume", verb, place / "full", status=3)
    assert sorted(p.name for p in place.iterdir()) == ["file", "full"], "nothing was made"


def test_a_directory_in_use(place: Path) -> None:
    directory = place / "v"
    with serving(directory, "--size", "16M", *SMALL), Wire(uri_of(directory)) as wire:
        refused("dir-in-use", "serve", directory, status=4)
        refused("dir-in-use", "serve", directory, "--size", "16M", status=4)
        refused("volume-running", "check", directory, status=4)
        refused("volume-running", "salvage", directory, place / "out", status=4)
        wire.pwrite(0, b"kept" * 1024)
        wire.flush()
    still_holds(directory)


def test_another_size_or_name_than_it_has(stopped: Path) -> None:
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    told = refused("wrong-size", "serve", stopped, "--size", "32M", status=4)
    assert str(SIZE) in told and str(2 * SIZE) in told
    refused("wrong-name", "serve", stopped, "--name", "other", status=4)
    refused("budget-too-small", "serve", stopped, "--budget", "64K", status=2)
    changed = [path.name for path, content in before.items() if path.read_bytes() != content]
    assert not [name for name in changed if not name.startswith("manifest")], "refused before anything was begun"
    still_holds(stopped)


@pytest.mark.parametrize("words", [
    ("bad-size", "--size", "0"), ("bad-size", "--size", "-5"), ("bad-size", "--size", "12345"),
    ("bad-size", "--size", "99999E"), ("bad-size", "--size", "many"),
    ("bad-segment-size", "--size", "16M", "--segment-size", "5"),
    ("bad-segment-size", "--size", "16M", "--segment-size", "3M"),
    ("bad-volume-name", "--size", "16M", "--name", "../up"),
    ("bad-volume-name", "--size", "16M", "--name", "a@b"),
    ("bad-volume-name", "--size", "16M", "--name", ""),
    ("budget-too-small", "--size", "16M", "--budget", "1"),
    ("bad-span", "--size", "16M", "--keep", "banana"),
    ("bad-interval", "--size", "16M", "--cp-interval", "0s"),
    ("address-syntax", "--size", "16M", "--nbd", "nonsense"),
    ("address-syntax", "--size", "16M", "--nbd", "127.0.0.1:99999"),
    ("address-twice", "--size", "16M", "--nbd", "unix:/x", "--nbd", "unix:/x"),
    ("usage", "--sise", "16M"),
], ids=lambda words: "-".join(words).replace("/", "_"))  # fmt: skip
def test_a_volume_that_cannot_be(place: Path, words: tuple[str, ...]) -> None:
    refused(words[0], "serve", place / "v", *words[1:], status=2)
    assert not (place / "v" / "manifest.a").exists()


def test_errors_in_json_for_programs(place: Path) -> None:
    done = ended("serve", place / "none", "--json", status=3)
    told = json.loads(done.stderr)["error"]
    assert told["code"] == "no-directory" and told["exit_status"] == 3 and told["cause"] and told["try"]


# --- formats -------------------------------------------------------------------------------------------


def with_checksum(head: bytes, seed: int = 0) -> bytes:
    return head + xxhash.xxh3_64_intdigest(head, seed).to_bytes(8, "little")


def test_a_check_that_cannot_run_has_found_nothing(stopped: Path) -> None:
    """Exit 5 is a finding about the volume; out of descriptors it is the verb that failed."""
    done = subprocess.run(
        [str(REVOLUME), "check", stopped], capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10)),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "") and "Too many open files" in done.stderr
    (stopped / "image").rename(stopped / "gone")
    assert "image" in ended("check", stopped, status=5).stdout
    (stopped / "gone").rename(stopped / "image")
    ended("check", stopped, status=0)


def test_a_manifest_of_a_newer_version(stopped: Path) -> None:
    for name in ("manifest.a", "manifest.b"):
        content = (stopped / name).read_bytes()
        header = content[:8] + struct.pack("<I", 2) + content[12:56]
        (stopped / name).write_bytes(with_checksum(header) + content[64:])
    for verb in (("serve",), ("status",), ("points",), ("grow", "32M"), ("check",)):
        told = refused("newer-format", verb[0], stopped, *verb[1:], status=1)
        assert "format 2" in told and "format 1" in told
    for name in ("manifest.a", "manifest.b"):
        content = (stopped / name).read_bytes()
        header = content[:8] + struct.pack("<I", 1) + content[12:56]
        (stopped / name).write_bytes(with_checksum(header) + content[64:])
    still_holds(stopped)


def test_an_edit_that_a_newer_version_made(stopped: Path) -> None:
    for name in ("manifest.a", "manifest.b"):
        content = (stopped / name).read_bytes()
        at, number = 64, 0
        while at < len(content):
            size, _, _, number = struct.unpack_from("<IHHQ", content, at)
            at += 16 + size + 8
        seed = int.from_bytes(content[16:24], "little")
        edit = struct.pack("<IHHQ", 4, 999, 0, number + 1) + b"what"
        (stopped / name).write_bytes(content + with_checksum(edit, seed))
    assert "kind 999" in refused("newer-format", "serve", stopped, status=1)


def test_a_log_of_a_newer_version(stopped: Path) -> None:
    """All its transfers say so; nothing is cut off as a torn end."""
    for path in (stopped / "log").iterdir():
        content = bytearray(path.read_bytes())
        for at in range(0, len(content), BLOCK):
            if content[at : at + 8] == b"RVLOCAL1":
                rewrite(content, at)
        path.write_bytes(content)
    told = refused("newer-format", "serve", stopped, status=1)
    assert "format 7" in told


def rewrite(content: bytearray, at: int) -> None:
    """The transfer at ``at``, checksums and all, as format 7."""
    (size,) = struct.unpack_from("<I", content, at + 20)
    start = at + 64
    struct.pack_into("<H", content, start + 4, 7)
    volume = bytes(content[start + 32 : start + 48])
    covered = bytes(content[start : start + 120] + content[start + 136 : start + size])
    chain = xxhash.xxh3_128_digest(covered)
    content[start + 120 : start + 136] = chain
    local = xxhash.xxh3_64_intdigest(bytes(content[at : at + 56]) + chain, int.from_bytes(volume[:8], "little"))
    struct.pack_into("<Q", content, at + 56, local)


def test_manifests_that_are_none(stopped: Path) -> None:
    for name in ("manifest.a", "manifest.b"):
        (stopped / name).write_bytes(b"\x89PNG\r\n\x1a\n" + random.Random(1).randbytes(500))
    told = refused("manifest-damaged", "serve", stopped, status=1)
    assert "salvage" in told, "the way out is named"
    assert "manifest" in ended("salvage", stopped, stopped.parent / "out", status=5).stderr
    assert (stopped.parent / "out").read_bytes()[:4096] == b"kept" * 1024


def test_files_of_another_volume(stopped: Path, place: Path) -> None:
    other = place / "other"
    with serving(other, "--size", "16M", *SMALL), Wire(uri_of(other)) as wire:
        wire.pwrite(0, b"else" * 1024)
    for name in ("log/00000000.seg", "image.sums", "image.pages"):
        kept = (stopped / name).read_bytes()
        (stopped / name).write_bytes((other / name).read_bytes())
        code = "log-damaged" if name.startswith("log") else "sums-damaged"
        refused(code, "serve", stopped, status=1)
        (stopped / name).write_bytes(kept)
    still_holds(stopped)


@pytest.mark.parametrize("name", ["image", "log", "maps", "image.sums", "image.pages"])
def test_a_part_that_is_missing(stopped: Path, name: str) -> None:
    (stopped / name).rename(stopped.parent / "aside")
    code = "sums-damaged" if "." in name else "part-missing"
    assert name in refused(code, "serve", stopped, status=1)
    (stopped.parent / "aside").rename(stopped / name)
    still_holds(stopped)


# --- moments and names ---------------------------------------------------------------------------------

MOMENTS = [
    ("yesterday", "no-snapshot", 3, "It has: good-one"),
    ("-10", "bad-moment", 2, "-10m"),
    ("-99999w", "bad-span", 2, "hundred years"),
    ("-99h", "moment-not-retained", 3, "The oldest moment is w0"),
    ("2026-13-01T00:00:00Z", "bad-time", 2, "no such day"),
    ("2026-11-21T05:00:00", "time-without-zone", 2, "05:00:00Z"),
    ("2099-01-01T00:00:00Z", "moment-in-future", 3, "not happened yet"),
    ("1971-06-01T00:00:00Z", "moment-not-retained", 3, "The oldest moment is w0"),
    ("w99999999", "moment-not-retained", 3, "the newest w"),
    ("w99999999999999999999999", "bad-moment", 2, "largest number"),
    ("cp77", "moment-not-retained", 3, "The oldest moment is w0"),
    ("W1", "bad-moment", 2, "w1"),
    ("", "bad-moment", 2, "no moment after the '@'"),
    ("..", "bad-moment", 2, "is not a moment"),
    ("now,wr", "bad-export-name", 2, "rw and suspect"),
]


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    """A volume, served, which nothing of what follows shall change."""
    place = Path(tempfile.mkdtemp(prefix="rv-"))
    directory = place / "v"
    with serving(directory, "--size", "16M", "--cp-interval", "1h", *SMALL):
        with Wire(uri_of(directory)) as wire:
            wire.pwrite(0, b"kept" * 1024)
        ended("snapshot", directory, "good-one", status=0)
        yield directory
    shutil.rmtree(place)


@pytest.fixture
def served(running: Path) -> Iterator[Path]:
    yield running
    with Wire(uri_of(running)) as wire:
        assert wire.pread(0, 4096) == b"kept" * 1024


def test_moments_that_make_no_sense(served: Path) -> None:
    for moment, code, status, hint in MOMENTS:
        code = "bad-moment" if moment == "now,wr" else code  # options belong to export names
        if moment:
            told = refused(code, "points", served, "--at", moment, status=status)
            assert moment == "now,wr" or hint in told, told
        else:
            assert hint in refused(code, "copy", f"{served}@", served.parent / "out", status=status)
    refused("moment-not-retained", "copy", f"{served}@cp77", served.parent / "out", status=3)
    assert not [p for p in served.parent.iterdir() if p.name != "v"], "nothing is left of what was refused"


def test_moments_of_a_stopped_volume_get_the_same_answers(stopped: Path) -> None:
    for moment, code, status, _ in MOMENTS:
        if moment and moment != "now,wr":
            refused(code, "points", stopped, "--at", moment, status=status)


@pytest.mark.foreign
def test_moments_that_make_no_sense_over_nbd(served: Path) -> None:
    """The server's sentence reaches whoever uses a client that shows it."""
    need("nbdinfo")
    for moment, _, _, hint in MOMENTS:
        done = run("nbdinfo", uri_of(served, f"v@{moment}"), check=False)
        assert done.returncode != 0
        assert hint in done.stderr or "server replied with error" in done.stderr, (moment, done.stderr)
    debug = run("nbdinfo", uri_of(served, "v@cp77"), check=False, env={"LIBNBD_DEBUG": "1"})
    assert "Point cp77 of v is not retained" in debug.stderr


EXPORTS = [
    "../v", "v/../../etc/passwd", "other", "V", "v@", "v,rw", "v@now,", "v@@now", "v\0", "\udcff", "v" * 5000,
]  # fmt: skip


def test_export_names_that_are_none(served: Path) -> None:
    for name in EXPORTS:
        reply, words = asked_for(served, name.encode(errors="surrogateescape"))
        assert reply & 0x80000000, f"{name!r} was opened"
        assert "Traceback" not in words and "Errno" not in words and str(served) not in words, words
        assert words.rstrip().endswith((".", "NUL", "UTF-8", "bytes")), (name, words)


def asked_for(directory: Path, name: bytes) -> tuple[int, str]:
    """The first answer to GO: its type and its text."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(f"{directory}/nbd.sock")
        file = sock.makefile("rb")
        file.read(18)
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        sock.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 7, len(data)) + data)
        _, _, reply, length = struct.unpack(">QIII", file.read(20))
        return reply, file.read(length).decode(errors="replace")


@pytest.mark.parametrize("name", ["../up", "a/b", ".hid", "", "w1", "now", "A", "x" * 64, "2026-11-21", "-1m"])
def test_snapshot_names_that_are_none(served: Path, name: str) -> None:
    refused("bad-snapshot-name", "snapshot", served, "--", name, status=2)
    status, told = control(served, json.dumps({"name": name}))
    assert status == 400 and told["code"] == "bad-snapshot-name"


def test_snapshots_twice_and_never(served: Path) -> None:
    refused("snapshot-exists", "snapshot", served, "good-one", status=4)
    refused("no-snapshot", "snapshot", served, "--drop", "never", status=3)


def test_sizes_that_are_none(served: Path) -> None:
    refused("shrink", "grow", served, "1M", status=4)
    for size in ("x", "16777217", "2E", ""):
        refused("bad-size", "grow", served, size, status=2)
    with Wire(uri_of(served)) as wire:
        assert wire.size == SIZE


def test_copies_from_and_to_what_is_not_there(served: Path, place: Path) -> None:
    out = place / "out"
    out.write_bytes(b"mine")
    refused("file-exists", "copy", served, out, status=4)
    assert out.read_bytes() == b"mine"
    refused("no-directory", "copy", served, place / "no" / "out", status=3)
    refused("no-such-source", "copy", place / "nothing", served, status=3)
    assert "b.img/" in refused("two-files", "copy", out, place / "b.img", status=2)
    assert not (place / "b.img").exists(), "a volume was made where a copy of the file was meant"
    ended("copy", out, f"{place}/b.img/", status=0)
    assert (place / "b.img" / "image").exists()


# --- garbage on the sockets ----------------------------------------------------------------------------

CHANCE = random.Random(11)
OPTION = b"IHAVEOPT"
GARBAGE = {
    "nothing": b"",
    "noise": CHANCE.randbytes(1 << 16),
    "zeroes": bytes(1 << 16),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("160301020001000001fc0303") + CHANCE.randbytes(500),
    "flags": struct.pack(">I", 0xFFFFFFFF),
    "half an option": struct.pack(">I", 3) + OPTION[:5],
    "an option of 4 GiB": struct.pack(">I", 3) + OPTION + struct.pack(">II", 7, 0xFFFFFFFF),
    "an unknown option": struct.pack(">I", 3) + OPTION + struct.pack(">II", 0x12345, 4) + b"junk",
    "a name of 4 GiB": struct.pack(">I", 3) + OPTION + struct.pack(">III", 7, 6, 0xFFFFFFFF) + b"xx",
    "not an option": struct.pack(">I", 3) + b"HAVEIOPT" + struct.pack(">II", 7, 0),
    "options without end": struct.pack(">I", 3) + (OPTION + struct.pack(">II", 3, 0)) * 20000,
    "an old client": b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53",
}


def throw(sock: socket.socket, garbage: bytes) -> bytes:
    """Send it and hear what comes until the other side has had enough, or we."""
    heard = b""
    sock.settimeout(2)
    try:
        sock.sendall(garbage)
        sock.shutdown(socket.SHUT_WR)
        while len(heard) < 8 * MiB and (piece := sock.recv(1 << 16)):
            heard += piece
    except OSError:
        pass
    return heard


def control(directory: Path, body: str | bytes, path: str = "/v1/snapshots") -> tuple[int, dict[str, object]]:
    """The status and body of a POST to the control socket."""
    data = body if isinstance(body, bytes) else body.encode()
    head = f"POST {path} HTTP/1.1\r\nHost: v\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{directory}/control.sock")
        heard = throw(sock, head.encode() + b"Connection: close\r\n\r\n" + data)
    status, _, rest = heard.partition(b"\r\n")
    return int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2] or b"{}")


def answers(server: Server) -> None:
    """The server serves: over NBD on its address, and on its control socket."""
    with Wire(f"nbd+unix:///vol?socket={server.directory}/nbd.sock") as wire:
        assert wire.pread(0, 4096) == b"kept" * 1024
    assert json.loads(ended("status", server.directory, "--json", status=0).stdout)["state"] == "online"


def first_write(server: Server) -> None:
    with Wire(f"nbd+unix:///vol?socket={server.directory}/nbd.sock") as wire:
        wire.pwrite(0, b"kept" * 1024)
        wire.flush()


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["tcp", "unix", "tls-tcp"])
def test_garbage_on_the_nbd_socket(serve: Serve, transport: str) -> None:
    server = serve(transport, options=("--segment-size", "64K", "--budget", "4M"))
    first_write(server)
    for name, garbage in GARBAGE.items():
        if server.unix:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(server.address)
        else:
            host, port = server.address.rsplit(":", 1)
            sock = socket.create_connection((host, int(port)))
        with sock:
            heard = throw(sock, garbage)
        assert heard[:8] in (b"NBDMAGIC", b""), name
        assert len(heard) < 4 * MiB, f"{name}: {len(heard)} bytes in return"
    if server.tls:
        tls_garbage(server)
    answers(server)
    assert "Traceback" not in server.said()


def tls_garbage(server: Server) -> None:
    """A client without a certificate, and one that speaks noise inside STARTTLS."""
    host, port = server.address.rsplit(":", 1)
    for noise in (True, False):
        with socket.create_connection((host, int(port))) as sock:
            sock.settimeout(60)
            sock.recv(18, socket.MSG_WAITALL)
            sock.sendall(struct.pack(">I", 3) + OPTION + struct.pack(">II", 5, 0))
            _, _, reply, _ = struct.unpack(">QIII", sock.recv(20, socket.MSG_WAITALL))
            assert reply == 1
            if noise:
                throw(sock, CHANCE.randbytes(3000))
                continue
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with pytest.raises((ssl.SSLError, OSError)), context.wrap_socket(sock) as wrapped:
                wrapped.sendall(OPTION + struct.pack(">II", 3, 0))
                if not wrapped.recv(1):
                    raise OSError("closed")


def test_garbage_in_the_transmission_phase(serve: Serve) -> None:
    """A connection that loses its step is closed; one that asks for the impossible is told so and goes on."""
    server = serve("unix", options=("--segment-size", "64K", "--budget", "4M"))
    first_write(server)
    uri = f"nbd+unix:///vol?socket={server.address}"
    too_long = struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 0, 1 << 31)
    for garbage in (CHANCE.randbytes(1 << 16), bytes(1 << 16), too_long):
        with Wire(uri) as wire:
            throw(wire.socket, garbage)
    with Wire(uri) as wire:
        for offset, length in ((server.size, 512), (1 << 63, 512), (server.size - 10, 4096)):
            with pytest.raises(WireError):
                wire.pread(offset, length)
        assert wire.pread(0, 4) == b"kept"
    answers(server)
    assert "Traceback" not in server.said()


HTTP = {
    "noise": CHANCE.randbytes(1 << 16),
    "zeroes": bytes(1 << 16),
    "nbd": b"NBDMAGICIHAVEOPT" + bytes(64),
    "half a request": b"POST /v1/snapshots HTTP/1.1\r\nHost: v\r\nContent-Le",
    "a length that lies": b"POST /v1/grow HTTP/1.1\r\nHost: v\r\nContent-Length: 999999999999\r\n\r\n{}",
    "no number": b"POST /v1/grow HTTP/1.1\r\nHost: v\r\nContent-Length: -7\r\n\r\n",
    "headers without end": b"GET /v1/status HTTP/1.1\r\n" + b"X-A: " + b"b" * (1 << 18),
    "a method": b"BREW /v1/status HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n",
    "a path upwards": b"GET /../../etc/passwd HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n",
    "a path in code": b"GET /v1/%2e%2e/%00 HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n",
    "a name upwards": b"DELETE /v1/snapshots/..%2f..%2fimage HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n",
    "a moment": b"GET /v1/points?at=%ff%00%fe HTTP/1.1\r\nHost: v\r\nConnection: close\r\n\r\n",
}


def test_garbage_on_the_control_socket(serve: Serve) -> None:
    server = serve("unix", options=("--segment-size", "64K", "--budget", "4M"))
    first_write(server)
    for name, garbage in HTTP.items():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(server.directory / "control.sock"))
            heard = throw(sock, garbage)
        assert heard[:12] in (b"", *(b"HTTP/1.1 4%02d" % n for n in range(100))), (name, heard[:200])
        assert b"Traceback" not in heard and b"root:" not in heard
    bodies = [b"", b"{", b"[]", b"null", b'{"name": 7}', b'{"name": null}', b'{"nome": "x"}', b"\xff", b"[" * 5000]
    for body in bodies:
        status, told = control(server.directory, body)
        assert status == 400 and told["code"] == "bad-request" and told["detail"], body
    for size in (b"-1", b"1e99", b'"many"', b"99999999999999999999", b"true"):
        status, told = control(server.directory, b'{"size": %s}' % size, "/v1/grow")
        assert status in (400, 409) and told["code"] in ("bad-request", "bad-size", "shrink"), (size, told)
    answers(server)
    assert "Traceback" not in server.said()


# --- and what is not bad at all ------------------------------------------------------------------------


def test_more_files_than_a_shell_allows_by_default(place: Path) -> None:
    """A log is many files: with the usual soft limit it would end as a disk that is full."""
    directory = place / "v"
    words = ("--size", "64M", "--segment-size", "64K", "--budget", "40M", "--spare", "128K")
    (place / "in").write_bytes(random.Random(3).randbytes(12 * MiB))
    command = [str(REVOLUME), "serve", str(directory), *words]
    limits = (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        ended("copy", place / "in", directory, status=0, limit=128)
    finally:
        process.terminate()
        assert process.wait(60) == 0
    assert len(list((directory / "log").iterdir())) > 200
    ended("check", directory, status=0, limit=128)
    ended("points", directory, status=0, limit=128)
