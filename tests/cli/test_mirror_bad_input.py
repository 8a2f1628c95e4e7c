"""Mirroring between nodes that do not fit, real processes all: what status says, how a verb ends, and that neither
side loses anything by it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import xxhash

from revolume.mirror.catch_up_plan import Rule
from revolume.mirror.wire.begin_messages import BaseStart, Begin, EpochEntry, pack_begin
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.frames import CHECK_SIZE, FRAME, FRAME_SIZE, Type, control
from revolume.mirror.wire.greeting_messages import (
    WELCOME,
    Hello,
    TargetState,
    Welcome,
    pack_hello,
    pack_welcome,
    unpack_hello,
    unpack_welcome,
)
from revolume.mirror.wire.session_messages import pack_positions, unpack_refusal
from revolume.volume.members.positions import Positions
from revolume.volume.open.log_identity import End
from tests.support import live_files
from tests.support.pairs import MirrorServer, Pair, free_port, pair
from tests.support.processes import run_revolume
from tests.support.servers import Server, revolume, without_folder
from tests.support.wire import Wire, digest

MiB = 1 << 20
SIZE = 16 * MiB
KEPT = b"kept" * 1024
BLOCK = 4096
OPTIONS = ("--cp-interval", "200ms")
SOAK = bool(os.environ.get("REVOLUME_SOAK"))


@pytest.fixture
def ends() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def begin(ends: contextlib.ExitStack, server: Server) -> Server:
    """Started; ended whatever happens."""
    server.start()

    def end() -> None:
        if server.process is not None:
            server.kill()
        print(server.said())

    ends.callback(end)
    return server


def source(ends: contextlib.ExitStack, folder: Path, name: str, *words: str) -> Server:
    (folder / name).mkdir(exist_ok=True)
    return begin(ends, Server(folder / name, SIZE, options=(*OPTIONS, *words), persistent=True))


def fed(server: Server) -> dict[str, Any]:
    """What a primary says of its only mirror."""
    (found,) = Pair.status(server)["mirrors"]
    return dict(found)


def feeding(server: Server) -> dict[str, Any]:
    """What a mirror says of its source."""
    return dict(Pair.status(server)["source"])


def refused(server: Server, *words: str, status: int) -> dict[str, Any]:
    """Serving it ends with this error."""
    done = run_revolume(["serve", str(server.directory), *words, "--json"], {}, 60)
    assert done.returncode == status, f"{done.returncode}\n{done.stderr}"
    assert done.stdout == "" and "Traceback" not in done.stderr
    return dict(json.loads(done.stderr.splitlines()[-1])["error"])


def a_sentence(text: str) -> None:
    """For people: no Python, no number of an error."""
    assert text.endswith((".", "?")) and len(text) < 500, text
    said = without_folder(text)
    for strange in ("Errno", "Error", "Traceback", "0x", ".c:", "None", ".."):
        assert strange not in said, text


def write(server: Server, at: int, data: bytes, export: str | None = None) -> None:
    with Wire(server.uri(export)) as wire:
        wire.pwrite(at, data)
        wire.flush()


def read(server: Server, at: int, length: int, export: str | None = None) -> bytes:
    with Wire(server.uri(export)) as wire:
        return wire.pread(at, length)


# --- addresses -------------------------------------------------------------------------------------------


def test_addresses_where_no_mirror_is(folder: Path, pki: Path, ends: contextlib.ExitStack) -> None:
    """Each gets a sentence of its own, and the volume is served all the same."""
    (folder / "file").write_text("")
    nowhere = [
        f"unix:{folder}/none",
        f"unix:{folder}/file",
        f"127.0.0.1:{free_port()}",
        "no-such-host.invalid:10810",
    ]
    words = [word for place in nowhere for word in ("--mirror-to", place)]
    server = source(ends, folder, "p", *words, "--tls-dir", str(pki))
    write(server, 0, KEPT)

    def told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = Pair.status(server)["mirrors"]
        return found if all("cannot be reached" in mirror["reason"] for mirror in found) else []

    Pair.wait(_Said(server), "each is told", told)  # type: ignore[arg-type]
    for mirror in told():
        print(mirror["reason"])
        a_sentence(mirror["reason"])
        assert mirror["state"] == "connecting" and not mirror["joined"] and not mirror["waits"]
    assert read(server, 0, 4096) == KEPT
    assert server.stop() == 0


class _Said:
    """What ``Pair.wait`` wants of a pair when there is none."""

    def __init__(self, *servers: Server) -> None:
        self.said: Callable[[], str] = lambda: "\n".join(server.said() for server in servers)


def until(what: str, happened: Callable[[], Any], *servers: Server) -> None:
    Pair.wait(_Said(*servers), what, happened)  # type: ignore[arg-type]


# --- what is at the target -------------------------------------------------------------------------------


def test_a_target_that_holds_another_volume(folder: Path, ends: contextlib.ExitStack) -> None:
    with pair(folder, size=SIZE, options=OPTIONS) as both:
        write(both.primary, 0, KEPT)
        both.until_equal()
        assert both.primary.stop() == 0
        other = source(ends, folder, "q", "--mirror-to", both.to)
        write(other, 0, b"else" * 1024)
        until("it is refused", lambda: fed(other)["state"] == "refused", other)
        told = fed(other)
        a_sentence(told["reason"])
        assert "holds another volume than vol" in told["reason"] and not told["joined"]
        assert "another volume" in revolume("status", other.directory)
        assert other.stop() == 0
        assert read(both.mirror, 0, 4096, "vol") == KEPT
        both.primary.start()
        write(both.primary, 4096, KEPT)  # synchronous: it is answered because the mirror goes on
        both.until_equal()
    told = refused(both.primary, "--mirror-listen", f"unix:{folder}/x", status=4)
    assert told["code"] == "is-primary", "a directory with a volume of its own is no mirror"
    revolume("check", both.mirror.directory)


def test_a_target_whose_directory_is_of_a_newer_format(folder: Path) -> None:
    with pair(folder, size=SIZE, options=OPTIONS) as both:
        write(both.primary, 0, KEPT)
        both.until_equal()
        assert both.mirror.stop() == 0
        manifests = [both.mirror.directory / name for name in ("manifest.a", "manifest.b")]
        before = [path.read_bytes() for path in manifests]
        for path, content in zip(manifests, before, strict=True):
            head = content[:8] + struct.pack("<I", 2) + content[12:56]
            path.write_bytes(head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little") + content[64:])
        told = refused(both.mirror, "--mirror-listen", both.mirror.listen, status=1)
        assert told["code"] == "newer-format" and "format 2" in told["cause"]
        done = run_revolume(["promote", str(both.mirror.directory), "--json"], {}, 60)
        assert done.returncode == 1 and json.loads(done.stderr)["error"]["code"] == "newer-format"
        until("its source says so", lambda: both.state()["state"] == "connecting", both.primary)
        a_sentence(both.state()["reason"])
        for path, content in zip(manifests, before, strict=True):
            path.write_bytes(content)
        both.mirror.start()
        write(both.primary, 4096, KEPT)
        both.until_equal()
        assert read(both.mirror, 0, 8192, "vol") == KEPT + KEPT


# --- who is the source -----------------------------------------------------------------------------------


def test_a_copy_of_a_primary_does_not_take_its_place_while_it_lives(folder: Path) -> None:
    """The directory was copied while it was served, and the copy is started too. It looks like the same node; but
    the first is still heard. Once that is gone the copy is that node, gets what it lacked, and the first is the
    copy: never are both."""
    with pair(folder, size=SIZE, options=OPTIONS) as both:
        write(both.primary, 0, KEPT)
        (folder / "c").mkdir()
        ignore = shutil.ignore_patterns("*.sock")
        shutil.copytree(both.primary.directory, folder / "c" / "vol", ignore=ignore)
        write(both.primary, 4096, KEPT)  # after the copy; answered
        copy = Server(folder / "c", SIZE, options=(*OPTIONS, "--mirror-to", both.to), persistent=True)
        told = refused(copy, "--mirror-to", both.to, status=4)
        assert told["code"] == "mirror-not-asked" and "fed by the same node already" in told["cause"]
        a_sentence(told["cause"])
        write(both.primary, 8192, KEPT)
        assert both.state()["state"] == "in sync" and both.state()["received"] > 0
        both.primary.kill()
        with contextlib.ExitStack() as ends:
            begin(ends, copy)
            assert read(copy, 0, 12288) == KEPT * 3, "what it lacked was fetched"
            told = refused(both.primary, "--mirror-to", both.to, status=4)
            assert told["code"] == "another-primary" and "another node has been primary since" in told["cause"]
            write(copy, 12288, KEPT)
            assert fed(copy)["state"] == "in sync"
            assert copy.stop() == 0
        assert read(both.mirror, 0, 16384, "vol") == KEPT * 4


def swallow(job: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with contextlib.suppress(OSError):
            job()

    return run


def test_an_old_primary_comes_back_after_its_mirror_was_promoted(folder: Path, ends: contextlib.ExitStack) -> None:
    """To a third node, which follows the promoted one: it is refused, and both logs stay."""
    third = f"unix:{folder}/third,mode=async,name=n"
    listen = f"unix:{folder}/third"
    with pair(folder, size=SIZE, mode="async", options=OPTIONS) as both:
        assert both.primary.stop() == 0
        both.primary.options += ("--mirror-to", third)
        both.primary.start()
        (folder / "n").mkdir()
        n = begin(ends, MirrorServer(folder / "n", SIZE, persistent=True, listen=listen))
        write(both.primary, 0, KEPT)
        until("both have it", lambda: all_agree(both.primary), both.primary, n)
        assert n.stop() == 0  # first: what the loss of the other link adds to the log would be its alone
        both.cable.cut()
        write(both.primary, 4096, b"mine" * 1024)  # answered, here alone: that is what async means
        both.primary.kill()
        both.promote()
        write(both.mirror, 8192, b"next" * 1024, "vol")
        assert both.mirror.stop() == 0
        n.start()
        follows = Server(both.folder / "m", SIZE, options=(*OPTIONS, "--mirror-to", third), persistent=True)
        follows.options += ("--segment-size", "16MiB")
        begin(ends, follows)
        until("the third follows", lambda: all_agree(follows), follows, n)
        content, position = digest(follows.uri()), feeding(n)["agreed_position"]

        with pytest.raises(pytest.fail.Exception, match="another-primary"):
            both.primary.start()  # while the other source is alive
        assert both.primary.process is not None and both.primary.process.wait(60) == 4
        both.primary.process = None
        assert digest(n.uri("vol")) == content and feeding(n)["agreed_position"] >= position
        assert follows.stop() == 0
        assert n.stop() == 0
    for server in (both.primary, both.mirror, n):
        revolume("check", server.directory)


def all_agree(server: Server) -> bool:
    told = Pair.status(server)
    return all(m["joined"] and m["agreed_point"] == told["point"] > 0 for m in told["mirrors"])


def state_of(server: Server, name: str) -> dict[str, Any]:
    told = Pair.status(server)["mirrors"]
    return next(mirror for mirror in told if mirror["name"] == name)


# --- strangers at the mirror's door ----------------------------------------------------------------------

CHANCE = random.Random(5)
CROWD = 40  # more than may stand there: the oldest has to go
NOISE = {
    "nothing": b"",
    "noise": CHANCE.randbytes(1 << 16),
    "zeroes": bytes(1 << 16),
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an NBD client": b"IHAVEOPT" + struct.pack(">II", 7, 0),
    "a TLS client": bytes.fromhex("160301020001000001fc0303") + CHANCE.randbytes(500),
    "half a frame": FRAME.pack(400, Type.HELLO, 0, 0, 0) + b"half",
    "a greeting of 4 GiB": FRAME.pack(0xFFFFFFFF, Type.HELLO, 0, 0, 0) + bytes(1000),
    "a log of 4 GiB": FRAME.pack(0xFFFFFFFF, Type.LOG, 0, 0, 7) + bytes(1000),
    "an unknown type": control(200, 0, b"what"),
    "a broken checksum": control(Type.HELLO, 0, bytes(152))[:-1] + b"\xff",
    "a greeting of nothing": control(Type.HELLO, 0, b""),
}


def dial(address: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(address.removeprefix("unix:"))
    return sock


@pytest.mark.soak
def test_noise_at_the_mirrors_door(folder: Path) -> None:
    """The link that is there is not disturbed, and one that was cut comes back in front of a silent crowd."""
    with pair(folder, size=SIZE, options=OPTIONS) as both:
        for what, noise in NOISE.items():
            with dial(both.mirror.listen) as sock, contextlib.suppress(OSError):
                sock.sendall(noise)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass
            assert both.state()["state"] == "in sync", what
        write(both.primary, 0, KEPT)
        with contextlib.ExitStack() as crowd:
            both.cable.cut()
            for _ in range(CROWD):
                crowd.enter_context(dial(both.mirror.listen))
            both.cable.mend()
            write(both.primary, 4096, KEPT)  # answered once the link is back
        both.until_equal()
        assert read(both.mirror, 0, 8192, "vol") == KEPT + KEPT
        assert "Traceback" not in both.said()


# --- peers that lie --------------------------------------------------------------------------------------


class Peer:
    """A connection of a mirror link that a test speaks for."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(60)
        self.file = sock.makefile("rb")
        self.sock = sock
        self.session = 0

    def say(self, kind: int, body: bytes) -> None:
        self.sock.sendall(control(kind, self.session, body))

    def hear(self) -> tuple[int, bytes]:
        """Type and body of the next frame that is no PING; (0, b"") at the end."""
        while True:
            try:
                head = self.file.read(FRAME_SIZE)
            except OSError:
                return 0, b""
            if len(head) < FRAME_SIZE:
                return 0, b""
            length, kind, _, _, self.session = FRAME.unpack(head)
            body = self.file.read(length)
            if kind != Type.PING:
                return kind, body[:-CHECK_SIZE]


def memory(server: Server) -> int:
    assert server.process is not None
    return int(psutil.Process(server.process.pid).memory_info().rss)


EMPTY = Welcome(
    TargetState.EMPTY, 4096, 0, bytes(16), b"t" * 16, bytes(16), NOWHERE, 0, 0, 0, (0, 0), None, None, 0
)  # fmt: skip
FAR = End(1 << 62, 1, b"r" * 16, b"c" * 16, 1 << 62, 1)


OLDER = dataclasses.replace(EMPTY, version=2)


def newer(welcome: bytes) -> bytes:
    return struct.pack("<H", 9) + welcome[2:]


def whole(hello: Hello, **changes: Any) -> bytes:
    """It holds this volume."""
    honest = dataclasses.replace(EMPTY, state=TargetState.WHOLE, volume=hello.volume, end=hello.end)
    return pack_welcome(dataclasses.replace(honest, **changes))


TARGETS: dict[str, tuple[Callable[[Hello], bytes], str]] = {
    "a newer version": (lambda hello: newer(pack_welcome(EMPTY)), "speaks versions 2 to 8, the other version 9."),
    "an older version": (lambda hello: pack_welcome(OLDER), "the other version 2."),
    "half a welcome": (lambda hello: pack_welcome(EMPTY)[:-8], "A message is not what its type says"),
    "a welcome and more": (lambda hello: pack_welcome(EMPTY) + bytes(8), "16 bytes instead of 8"),
    "a large welcome": (lambda hello: pack_welcome(EMPTY) + bytes(4000), f"of {WELCOME.size + 4016} bytes"),
    "a later opening": (lambda hello: whole(hello, known_epoch=1 << 40), "The target knows opening"),
}  # fmt: skip
if SOAK:  # a source comes back to one that refuses after 5 seconds only
    TARGETS["more than there is"] = (lambda hello: whole(hello, end=FAR), "not of the log of vol")
    TARGETS["segments of nothing"] = (
        lambda hello: pack_welcome(dataclasses.replace(EMPTY, segment_blocks=0)), "a segment of the target has 0"
    )  # fmt: skip


class Liar(threading.Thread):
    """A target that says to every source what a test wants, and then that it has received 2^60 transfers."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.lie: Callable[[Hello], bytes] = lambda hello: pack_welcome(EMPTY)
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                with sock, contextlib.suppress(OSError):
                    self._speak(Peer(sock))

    def _speak(self, peer: Peer) -> None:
        kind, body = peer.hear()
        assert kind == Type.HELLO
        peer.session = 7
        peer.say(Type.WELCOME, self.lie(unpack_hello(memoryview(body))))
        if peer.hear()[0] == Type.BEGIN:
            peer.session = 7
            peer.say(Type.POSITIONS, pack_positions(Positions(1 << 60, 1 << 60, 1 << 60, 1 << 60)))
        peer.hear()


@pytest.mark.soak
def test_a_target_that_lies(folder: Path, ends: contextlib.ExitStack) -> None:
    """Its source says what was wrong, does not count on it, and goes on answering."""
    liar = Liar(folder / "liar")
    ends.callback(liar.listener.close)
    server = source(ends, folder, "p", "--mirror-to", f"unix:{folder}/liar,name=l")
    write(server, 0, KEPT)
    before = memory(server)
    for what, (lie, sentence) in {"what was never sent": (liar.lie, "where it cannot be"), **TARGETS}.items():
        liar.lie = lie
        server.log.clear()
        until(f"{what} is told", lambda s=sentence: told_of(server, s), server)
        reason = fed(server)["reason"]
        print(f"{what}: {reason}")
        a_sentence(reason)
        assert not fed(server)["joined"], what
        write(server, 4096, what.encode().ljust(4096))
        assert read(server, 0, 4096) == KEPT
    assert memory(server) < before + 64 * MiB
    assert server.stop() == 0
    revolume("check", server.directory)


def told_of(server: Server, sentence: str) -> bool:
    """In its log since that was cleared, and in its status."""
    logged = any(sentence in line and "Mirror l" in line for line in server.log)
    return logged and sentence in fed(server)["reason"]


def greet(both: Pair, hello: Hello) -> tuple[Peer, int, bytes]:
    peer = Peer(dial(both.mirror.listen))
    peer.say(Type.HELLO, pack_hello(hello))
    return peer, *peer.hear()


def test_a_source_that_lies(folder: Path) -> None:
    """It knows all that the true source says of itself, and comes while that is away."""
    with pair(folder, size=SIZE, options=OPTIONS) as both:
        write(both.primary, 0, KEPT)
        both.until_equal()
        length = FRAME.unpack_from(both.cable.spoken)[0]
        body = bytes(both.cable.spoken[FRAME_SIZE : FRAME_SIZE + length - CHECK_SIZE])
        hello = unpack_hello(memoryview(body))
        both.cable.cut()
        before, content = memory(both.mirror), digest(both.mirror.uri("vol"))
        lies = {
            "another volume": ({"volume": b"?" * 16}, "other-volume"),
            "transfers of 16 TiB": ({"largest_blocks": 0xFFFFFFFF}, "segments-too-small"),
            "an opening before the first": ({"epoch": 0}, "stale-epoch"),
            "a rival": ({"reign": b"!" * 16}, "rival-epoch"),
        }
        for what, (changes, code) in lies.items():
            peer, kind, body = greet(both, dataclasses.replace(hello, **changes))  # type: ignore[arg-type]
            assert kind == Type.REFUSED and unpack_refusal(memoryview(body)).code == code, what
            a_sentence(unpack_refusal(memoryview(body)).cause)
            peer.sock.close()
        for what, begin_ in begins(hello).items():
            peer, kind, body = greet(both, dataclasses.replace(hello, size=1 << 62, oldest=1 << 63))
            assert kind == Type.WELCOME and unpack_welcome(memoryview(body)).state == TargetState.WHOLE, what
            peer.say(Type.BEGIN, begin_)
            while kind not in (0, Type.REFUSED):
                kind, body = peer.hear()
            peer.sock.close()
            assert feeding(both.mirror)["promotable"], what
        assert digest(both.mirror.uri("vol")) == content and memory(both.mirror) < before + 64 * MiB
        both.cable.mend()
        write(both.primary, 4096, KEPT)
        both.until_equal()
        assert read(both.mirror, 0, 8192, "vol") == KEPT + KEPT
        assert "Traceback" not in both.mirror.said()


def begins(hello: Hello) -> dict[str, bytes]:
    """A base instead of what is there, and nonsense."""
    start = BaseStart(hello.end, 1, 1, 1, 1 << 60, (0, 0), (EpochEntry(1, hello.reign, 0, 0),))
    return {
        "a base over a whole copy": pack_begin(Begin(Rule.BASE, None, None, start)),
        "a rule that is none": pack_begin(Begin(77, None, None, None)),
        "more openings than bytes": pack_begin(Begin(Rule.BASE, None, None, start))[:-40],
        "a birth that is not there": pack_begin(Begin(Rule.BASE, None, None, start))[:100],
    }


@pytest.mark.soak
@pytest.mark.parametrize("size", [1 << 60, 5, *((0, (1 << 63) - BLOCK) if SOAK else ())])
def test_a_birth_of_a_size_that_cannot_be(folder: Path, ends: contextlib.ExitStack, size: int) -> None:
    """An empty mirror makes nothing of it that costs memory, a disk, or its place for the true source."""
    (folder / "m").mkdir()
    listen = f"unix:{folder}/link"
    mirror = begin(ends, MirrorServer(folder / "m", SIZE, persistent=True, listen=listen))
    before = memory(mirror)
    end = End(10, 1, b"r" * 16, b"c" * 16, 10, 1)
    hello = Hello(1, 2048, 1024, b"v" * 16, b"n" * 16, b"r" * 16, 1, size, 10, end, "vol", "m")
    peer = Peer(dial(listen))
    peer.say(Type.HELLO, pack_hello(hello))
    assert peer.hear()[0] == Type.WELCOME
    start = BaseStart(end, 1, 10, 1, size, (0, 0), (EpochEntry(1, b"r" * 16, 0, 0),))
    peer.say(Type.BEGIN, pack_begin(Begin(Rule.BASE, None, None, start)))
    kind, body = peer.hear()
    peer.sock.close()
    assert kind == Type.REFUSED
    print(unpack_refusal(memoryview(body)))
    a_sentence(unpack_refusal(memoryview(body)).cause)
    assert memory(mirror) < before + 64 * MiB
    assert live_files.taken(mirror.directory)[0] < MiB
    assert "Traceback" not in mirror.said()
    true = source(ends, folder, "p", "--mirror-to", f"{listen},name=m")
    write(true, 0, KEPT)
    until("the true source is let in", lambda: fed(true)["joined"], true, mirror)
