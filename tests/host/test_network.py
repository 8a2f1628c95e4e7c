"""Wires over real sockets: one set of scenarios, run on every transport."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from revolume.errors import RevolumeError
from revolume.host.network import Peer, Wire
from revolume.host.real.disk import RealDisk, RealFile
from revolume.host.real.network import RealNetwork
from revolume.host.real.wire_plain import SocketWire, hung_up
from revolume.host.tls import client_context, server_context

TRANSPORTS = ["unix", "tcp", "tcp6", "unix-tls", "tcp-tls"]
pytestmark = pytest.mark.timeout(60)


class Sink:
    """A session that keeps what it receives."""

    def __init__(self, size: int = 65536) -> None:
        self.data = bytearray()
        self.ended: list[Exception | None] = []
        self.writables = 0
        self.end = asyncio.Event()
        self.news = asyncio.Event()
        self.on_received: Callable[[], None] = lambda: None
        self._buffer = memoryview(bytearray(size))

    def buffer(self) -> memoryview:
        return self._buffer

    def received(self, n: int) -> None:
        self.data += self._buffer[:n]
        self.news.set()
        self.on_received()

    def closed(self, error: Exception | None) -> None:
        self.ended.append(error)
        self.news.set()
        self.end.set()

    def writable(self) -> None:
        self.writables += 1
        self.news.set()

    async def until(self, size: int) -> bytes:
        while len(self.data) < size and not self.ended:
            self.news.clear()
            await self.news.wait()
        return bytes(self.data)


@pytest.fixture(scope="session")
def tls_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca-cert.pem")
    for who, names in (("server", ["localhost", "127.0.0.1", "::1"]), ("client", ["vm1.example"])):
        issued = authority.issue_cert(*names, common_name="vm1" if who == "client" else None)
        issued.private_key_pem.write_to_path(directory / f"{who}-key.pem")
        for pem in issued.cert_chain_pems:
            pem.write_to_path(directory / f"{who}-cert.pem", append=True)
    return directory


def address_of(transport: str, tmp_path: Path) -> str:
    if transport.startswith("unix"):
        return f"unix:{tmp_path}/s"
    return "[::1]:0" if transport == "tcp6" else "127.0.0.1:0"


class Pair:
    """Two connected wires with a sink each; the tests' whole world."""

    def __init__(self, network: RealNetwork, near: Wire, far: Wire) -> None:
        self.network, self.near, self.far = network, near, far
        self.near_sink, self.far_sink = Sink(), Sink()

    def start(self) -> None:
        self.near.start(self.near_sink)
        self.far.start(self.far_sink)


def run(
    transport: str, tmp_path: Path, tls_dir: Path, scenario: Callable[[Pair], Awaitable[None]], **options: int
) -> None:
    async def main() -> None:
        if transport == "tcp6" and not socket.has_ipv6:
            pytest.skip("no IPv6")
        network = RealNetwork(**options)
        accepted: asyncio.Queue[Wire] = asyncio.Queue()
        try:
            listener = await network.listen(address_of(transport, tmp_path), accepted.put_nowait)
        except RevolumeError as error:
            if transport == "tcp6":
                pytest.skip(str(error))
            raise
        near = await network.connect(listener.addresses[0])
        far = await accepted.get()
        if transport.endswith("tls"):
            await asyncio.gather(
                near.start_tls(client_context(str(tls_dir)), "localhost"),
                far.start_tls(server_context(str(tls_dir), True)),
            )
        pair = Pair(network, near, far)
        try:
            await scenario(pair)
        finally:
            near.abort()
            far.abort()
            listener.close()
            await listener.wait_closed()
            await asyncio.sleep(0.02)

    asyncio.run(main())


def chunks(seed: int, total: int) -> list[bytes]:
    chance = random.Random(seed)
    parts = []
    while total:
        size = min(total, chance.choice([1, 16, 700, 4096, 70_000, 300_000]))
        parts.append(chance.randbytes(size))
        total -= size
    return parts


async def pour(wire: Wire, sink: Sink, parts: list[bytes], seed: int) -> None:
    """Groups of random length, resting while the backlog is high."""
    chance = random.Random(seed)
    while parts:
        count = chance.choice([1, 2, 5, 3000])
        wire.send(parts[:count])
        del parts[:count]
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        while wire.backlog > 1 << 20:
            sink.news.clear()
            await sink.news.wait()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_ten_megabytes_both_ways_arrive_intact(transport: str, tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.start()
        there, back = chunks(1, 10 << 20), chunks(2, 10 << 20)
        sent_there, sent_back = b"".join(there), b"".join(back)
        await asyncio.gather(pour(pair.near, pair.near_sink, there, 3), pour(pair.far, pair.far_sink, back, 4))
        assert await pair.far_sink.until(len(sent_there)) == sent_there
        assert await pair.near_sink.until(len(sent_back)) == sent_back
        assert pair.near.backlog == pair.far.backlog == 0

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_slow_reader_makes_a_backlog_and_writable_tells_its_end(
    transport: str, tmp_path: Path, tls_dir: Path
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.start()
        pair.far.pause()
        data = os.urandom(32 << 20)
        pair.near.send([data])
        assert pair.near.backlog > 8 << 20
        pair.near.send([b"x"])
        await asyncio.sleep(0.05)
        assert pair.near_sink.writables == 0
        assert len(pair.far_sink.data) <= 1 << 20
        pair.far.resume()
        assert await pair.far_sink.until(len(data) + 1) == data + b"x"
        assert pair.near_sink.writables == 1
        assert pair.near.backlog == 0

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_small_send_is_told_writable(transport: str, tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.start()
        for _ in range(50):
            pair.near.send([b"x" * 100, b"", b"y"])
        await pair.far_sink.until(50 * 101)
        assert pair.near_sink.writables == 0

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_last_answer_arrives_though_the_peer_is_still_sending(
    transport: str, tmp_path: Path, tls_dir: Path
) -> None:
    async def scenario(pair: Pair) -> None:
        pair.start()
        pair.far.pause()
        pair.near.send([b"not read by the other side" * 1000])
        await asyncio.sleep(0.05)
        answer = os.urandom(12 << 20)
        pair.far.send([answer])
        closing = asyncio.create_task(pair.far.drain_and_close())
        assert await pair.near_sink.until(len(answer)) == answer
        await pair.near_sink.end.wait()
        assert pair.near_sink.ended == [None]
        await closing
        assert pair.far_sink.ended == [None]
        assert pair.far_sink.data == b""

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_abort_is_told_once_to_both(transport: str, tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.start()
        pair.near.abort()
        assert pair.near_sink.ended == []
        pair.near.abort()
        pair.near.send([b"into nothing"])
        assert not pair.near.poll()
        await asyncio.gather(pair.near_sink.end.wait(), pair.far_sink.end.wait())
        await pair.far.drain_and_close()
        pair.far.abort()
        await asyncio.sleep(0.02)
        assert pair.near_sink.ended == [None]
        assert len(pair.far_sink.ended) == 1

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_poll_finds_what_has_arrived_and_the_end(transport: str, tmp_path: Path, tls_dir: Path) -> None:
    """Without a turn of the loop: the peer is another thread's socket by then."""

    async def scenario(pair: Pair) -> None:
        pair.start()
        assert pair.far.poll()
        pair.near.send([b"last words"])
        await pair.far_sink.until(10)
        pair.near.abort()
        if transport.endswith("tls"):
            await asyncio.sleep(0)
        assert not pair.far.poll()
        assert pair.far_sink.ended == [None]
        assert pair.far_sink.data == b"last words"

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_poll_receives_before_it_meets_the_end(transport: str, tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.far.start(pair.far_sink)
        data = os.urandom(100_000)
        pair.near.send([data])
        assert pair.near.backlog == 0
        pair.near.abort()
        assert not pair.far.poll()
        assert pair.far_sink.data == data
        assert pair.far_sink.ended == [None]

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_poll_ends_a_paused_wire_whose_peer_hung_up(transport: str, tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.start()
        pair.far.pause()
        pair.near.send([b"never seen"])
        await asyncio.sleep(0.02)
        assert pair.far.poll()
        pair.near.abort()
        await asyncio.sleep(0.02)
        assert pair.far_sink.ended == []
        assert not pair.far.poll()
        assert len(pair.far_sink.ended) == 1
        assert pair.far_sink.data == b""

    run(transport, tmp_path, tls_dir, scenario)


@pytest.mark.parametrize("transport", ["unix", "tcp"])
def test_a_pause_within_received_holds_at_once(transport: str, tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.far_sink = Sink(size=1000)
        pair.far_sink.on_received = pair.far.pause
        pair.start()
        pair.near.send([bytes(5000)])
        for expected in (1000, 2000, 3000):
            await pair.far_sink.until(expected)
            await asyncio.sleep(0.01)
            assert len(pair.far_sink.data) == expected
            pair.far.resume()

    run(transport, tmp_path, tls_dir, scenario)


def test_a_wake_up_receives_a_bounded_number_of_times(tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.far_sink = Sink(size=10)
        pair.start()
        counts: list[int] = []
        pair.far_sink.on_received = lambda: counts.append(len(pair.far_sink.data))
        pair.near.send([bytes(200)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 0 < len(counts) <= 6
        await pair.far_sink.until(200)

    run("unix", tmp_path, tls_dir, scenario, rounds=3)


def test_spinning_receives_as_well(tmp_path: Path, tls_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SocketWire, "spin_ns", 200_000)

    async def scenario(pair: Pair) -> None:
        pair.start()
        data = b"".join(parts := chunks(5, 1 << 20))
        await pour(pair.near, pair.near_sink, parts, 6)
        assert await pair.far_sink.until(len(data)) == data
        pair.near.abort()
        await pair.far_sink.end.wait()

    run("unix", tmp_path, tls_dir, scenario)


def test_a_failing_session_ends_its_connection_only(tmp_path: Path, tls_dir: Path) -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    async def scenario(pair: Pair) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        pair.start()
        pair.far_sink.on_received = fail
        pair.near.send([b"x"])
        await pair.far_sink.end.wait()
        assert isinstance(pair.far_sink.ended[0], RuntimeError)
        await pair.near_sink.end.wait()

    run("unix", tmp_path, tls_dir, scenario)


class TestFiles:
    """``send_file``: in order with buffers, whatever the kernel takes at a time."""

    @contextlib.contextmanager
    def file(self, tmp_path: Path, content: bytes) -> Iterator[RealFile]:
        (tmp_path / "file").write_bytes(content)
        file = RealDisk().open(str(tmp_path)).open("file")
        try:
            yield file
        finally:
            file.close()

    @pytest.mark.parametrize("transport", TRANSPORTS)
    def test_stretches_and_buffers_arrive_in_order(self, transport: str, tmp_path: Path, tls_dir: Path) -> None:
        content = os.urandom(3 << 20)
        chance = random.Random(transport)

        async def scenario(pair: Pair) -> None:
            pair.start()
            expected = bytearray()
            with self.file(tmp_path, content) as file:
                for _ in range(300):
                    head = [chance.randbytes(chance.choice([0, 1, 90, 5000])) for _ in range(chance.randrange(3))]
                    length = chance.choice([0, 1, 4096, 70_000, 1 << 20])
                    offset = chance.randrange(len(content) - length + 1)
                    pair.near.send_file(file, offset, length, head)
                    expected += b"".join(head) + content[offset : offset + length]
                    if chance.random() < 0.5:
                        extra = chance.randbytes(chance.choice([0, 7, 100_000]))
                        pair.near.send([extra])
                        expected += extra
                    if chance.random() < 0.2:
                        await asyncio.sleep(0)
                assert await pair.far_sink.until(len(expected)) == expected
                assert pair.near.backlog == 0

        run(transport, tmp_path, tls_dir, scenario)

    @pytest.mark.parametrize("transport", TRANSPORTS)
    def test_a_slow_reader_costs_no_memory_but_is_counted(
        self, transport: str, tmp_path: Path, tls_dir: Path
    ) -> None:
        content = os.urandom(32 << 20)

        async def scenario(pair: Pair) -> None:
            pair.start()
            pair.far.pause()
            with self.file(tmp_path, content) as file:
                tracemalloc.start()
                pair.near.send_file(file, 0, len(content), [b"head"])
                pair.near.send_file(file, 0, len(content))
                held = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
                assert held < 1 << 20
                assert pair.near.backlog > 40 << 20
                pair.far.resume()
                assert await pair.far_sink.until(4 + 2 * len(content)) == b"head" + content + content
                assert pair.near_sink.writables == 1

        run(transport, tmp_path, tls_dir, scenario)

    @pytest.mark.parametrize("transport", TRANSPORTS)
    @pytest.mark.parametrize("queued", [False, True])
    def test_a_file_that_ends_early_ends_the_wire(
        self, transport: str, queued: bool, tmp_path: Path, tls_dir: Path
    ) -> None:
        """Its peer waits for so many bytes: there is no other way to tell it."""

        async def scenario(pair: Pair) -> None:
            pair.start()
            with self.file(tmp_path, bytes(5000)) as file:
                if queued:
                    pair.far.pause()
                    pair.near.send([bytes(32 << 20)])
                pair.near.send_file(file, 0, 5001, [b"head"])
                assert pair.near_sink.ended == []
                pair.near.send([b"never"])
                pair.far.resume()
                await pair.near_sink.end.wait()
                await pair.far_sink.end.wait()
            assert isinstance(pair.near_sink.ended[0], OSError)
            assert "file ends" in str(pair.near_sink.ended[0])
            assert not pair.far_sink.data.endswith(b"never")

        run(transport, tmp_path, tls_dir, scenario)

    @pytest.mark.parametrize("transport", TRANSPORTS)
    def test_a_closed_file_sends_nobody_elses_bytes(self, transport: str, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            pair.start()
            with self.file(tmp_path, bytes(32 << 20)) as file:
                pair.far.pause()
                pair.near.send_file(file, 0, 32 << 20)
                file.close()
                with self.file(tmp_path, b"other" * 1000):
                    pair.far.resume()
                    await pair.near_sink.end.wait()
                    await pair.far_sink.end.wait()
            assert isinstance(pair.near_sink.ended[0], OSError)
            assert b"other" not in pair.far_sink.data

        run(transport, tmp_path, tls_dir, scenario)

    def test_into_a_broken_wire_goes_nothing(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            pair.start()
            with self.file(tmp_path, bytes(5000)) as file:
                pair.near.abort()
                pair.near.send_file(file, 0, 5000, [b"head"])
                assert pair.near.backlog == 0
                await pair.near_sink.end.wait()

        run("unix", tmp_path, tls_dir, scenario)


class TestPeers:
    def test_a_unix_peer_has_a_uid(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            assert pair.far.peer == Peer("unix", f"unix:{tmp_path}/s", uid=os.geteuid(), loopback=True)

        run("unix", tmp_path, tls_dir, scenario)

    def test_a_tcp_peer_has_an_address(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            peer = pair.far.peer
            assert (peer.transport, peer.uid, peer.loopback, peer.encrypted) == ("tcp", None, True, False)
            assert peer.address.startswith("127.0.0.1:")

        run("tcp", tmp_path, tls_dir, scenario)

    def test_a_verified_certificate_names_its_holder(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            assert (pair.far.peer.encrypted, pair.far.peer.certificate_name) == (True, "vm1")
            assert pair.near.peer.encrypted
            assert pair.near.peer.certificate_name in ("localhost", "127.0.0.1", "::1")

        run("tcp-tls", tmp_path, tls_dir, scenario)


class TestTls:
    @pytest.mark.parametrize("transport", ["unix", "tcp"])
    def test_a_session_turns_encrypted_midway(self, transport: str, tmp_path: Path, tls_dir: Path) -> None:
        """The way of STARTTLS: pause, acknowledge, begin; and what is then received is decrypted."""

        async def scenario(pair: Pair) -> None:
            pair.start()
            begun = asyncio.Event()

            def upgrade() -> None:
                if pair.far_sink.data == b"STARTTLS":
                    pair.far.pause()
                    pair.far.send([b"ACK"])
                    begun.set()

            async def server() -> None:
                await begun.wait()
                await pair.far.start_tls(server_context(str(tls_dir), False))
                assert pair.far.peer.certificate_name is None
                pair.far_sink.data.clear()
                pair.far.resume()

            pair.far_sink.on_received = upgrade
            serving = asyncio.create_task(server())
            pair.near.send([b"STARTTLS"])
            assert await pair.near_sink.until(3) == b"ACK"
            await pair.near.start_tls(client_context(str(tls_dir)), "localhost")
            await serving
            pair.near.send([b"secret"])
            assert await pair.far_sink.until(6) == b"secret"
            pair.far.send([b"answer"])
            assert await pair.near_sink.until(9) == b"ACKanswer"

        run(transport, tmp_path, tls_dir, scenario)

    def test_connecting_with_tls_from_the_first_byte(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            accepted: asyncio.Queue[Wire] = asyncio.Queue()
            listener = await pair.network.listen("127.0.0.1:0", accepted.put_nowait)
            connecting = asyncio.create_task(
                pair.network.connect(listener.addresses[0], tls=client_context(str(tls_dir)))
            )
            far = await accepted.get()
            await far.start_tls(server_context(str(tls_dir), True, only_tls13=True))
            near = await connecting
            far.send([b"early"])
            await asyncio.sleep(0.02)
            near.start(pair.near_sink)
            far.start(pair.far_sink)
            assert await pair.near_sink.until(5) == b"early"
            near.abort()
            await pair.far_sink.end.wait()
            listener.close()

        run("unix", tmp_path, tls_dir, scenario)

    def test_a_failed_handshake_is_told_and_ends_the_wire(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            pair.start()
            pair.far.pause()
            pair.near.send([b"this is no handshake at all"])
            with pytest.raises(OSError):
                await pair.far.start_tls(server_context(str(tls_dir), False))
            assert len(pair.far_sink.ended) == 1
            assert isinstance(pair.far_sink.ended[0], OSError)
            await pair.near_sink.end.wait()

        run("unix", tmp_path, tls_dir, scenario)

    def test_a_wrong_name_is_refused(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            serving = asyncio.create_task(pair.far.start_tls(server_context(str(tls_dir), False)))
            with pytest.raises(ssl.SSLCertVerificationError):
                await pair.near.start_tls(client_context(str(tls_dir)), "elsewhere.example")
            with contextlib.suppress(OSError):
                await serving

        run("tcp", tmp_path, tls_dir, scenario)

    def test_a_client_without_a_certificate_is_refused(self, tmp_path: Path, tls_dir: Path) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        (bare / "ca-cert.pem").write_bytes((tls_dir / "ca-cert.pem").read_bytes())

        async def scenario(pair: Pair) -> None:
            serving = asyncio.create_task(pair.far.start_tls(server_context(str(tls_dir), True)))
            with contextlib.suppress(OSError):
                await pair.near.start_tls(client_context(str(bare)), "localhost")
            with pytest.raises(OSError):
                await serving

        run("tcp", tmp_path, tls_dir, scenario)

    def test_an_abort_stops_the_handshake(self, tmp_path: Path, tls_dir: Path) -> None:
        async def scenario(pair: Pair) -> None:
            pair.start()
            serving = asyncio.create_task(pair.far.start_tls(server_context(str(tls_dir), False)))
            await asyncio.sleep(0.02)
            pair.far.abort()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(serving, 60)
            await pair.far_sink.end.wait()
            assert pair.far_sink.ended == [None]

        run("tcp", tmp_path, tls_dir, scenario)


@contextlib.contextmanager
def silent(port: int) -> Iterator[None]:
    """An address that swallows whoever comes: its queue is full and nobody is taken out of it."""
    with contextlib.ExitStack() as held:
        listener = held.enter_context(socket.socket())
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(4):
            waiting = held.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        yield


class TestConnecting:
    def names(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        """Every name stands for these addresses."""

        def getaddrinfo(host: object, port: int, **more: int) -> list[object]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    def test_a_silent_address_does_not_keep_the_next_from_being_tried(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            network, accepted = RealNetwork(), asyncio.Queue[Wire]()
            listener = await network.listen("127.0.0.1:0", accepted.put_nowait)
            port = int(listener.addresses[0].rpartition(":")[2])
            self.names(monkeypatch, "127.0.0.2", "127.0.0.1")
            with silent(port):
                near = await asyncio.wait_for(network.connect(f"db.example:{port}"), 5)
            far = await accepted.get()
            near.abort()
            far.abort()
            listener.close()

        asyncio.run(main())

    def test_the_last_error_is_told_if_none_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        self.names(monkeypatch, "127.0.0.2", "127.0.0.1")
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(RealNetwork().connect(f"db.example:{port}"))

    def test_nobody_waits_for_a_silent_name_server(self) -> None:
        code = (
            "import asyncio, socket, time\n"
            "from revolume.host.real.network import RealNetwork\n"
            "socket.getaddrinfo = lambda *a, **k: time.sleep(40)\n"
            "async def main():\n"
            "    try: await asyncio.wait_for(RealNetwork().connect('db.example:1'), 0.2)\n"
            "    except TimeoutError: print('given up')\n"
            "asyncio.run(main())\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=35)
        assert done.stdout.strip() == "given up", done.stderr


class TestListening:
    def listen(self, address: str, scenario: Callable[[RealNetwork], Awaitable[None]] | None = None) -> None:
        async def main() -> None:
            network = RealNetwork()
            if scenario is not None:
                await scenario(network)
            listener = await network.listen(address, Wire.abort)
            listener.close()

        asyncio.run(main())

    def error(self, address: str) -> RevolumeError:
        with pytest.raises(RevolumeError) as raised:
            self.listen(address)
        return raised.value

    def test_an_address_in_use(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            error = self.error(f"127.0.0.1:{taken.getsockname()[1]}")
        assert error.code == "address-in-use"
        assert "in use" in error.cause

    def test_an_address_that_is_not_here(self) -> None:
        assert self.error("192.0.2.1:0").code == "address-not-here"

    def test_a_directory_that_is_missing(self, tmp_path: Path) -> None:
        assert self.error(f"unix:{tmp_path}/nothing/s").code == "address-no-directory"

    def test_an_address_that_makes_no_sense(self) -> None:
        assert self.error("nonsense").code == "address-syntax"

    def test_an_address_that_is_not_permitted(self, tmp_path: Path) -> None:
        """As another user, in a process of its own."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to become somebody else")
        code = (
            "import asyncio, os, sys\n"
            "from revolume.host.real.network import RealNetwork\n"
            "from revolume.errors import RevolumeError\n"
            "os.setuid(65534)\n"
            "try: asyncio.run(RealNetwork().listen(sys.argv[1], print))\n"
            "except RevolumeError as error: print(error.code)\n"
        )
        tmp_path.chmod(0o755)
        command = [sys.executable, "-c", code, f"unix:{tmp_path}/s"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.stdout.strip() == "address-not-permitted", done.stderr

    def test_a_name_with_several_addresses_has_one_port(self) -> None:
        async def main() -> None:
            listener = await RealNetwork().listen(":0", Wire.abort)
            assert len({address.rpartition(":")[2] for address in listener.addresses}) == 1
            listener.close()

        asyncio.run(main())

    def test_a_live_unix_socket_is_left_alone(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "s"))
            other.listen()
            assert self.error(f"unix:{tmp_path}/s").code == "address-in-use"
            assert (tmp_path / "s").exists()

    def test_a_stale_unix_socket_is_replaced_and_ours_removed(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(tmp_path / "s"))
        self.listen(f"unix:{tmp_path}/s")
        assert not (tmp_path / "s").exists()

    def test_a_socket_is_bound_to_its_whole_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """systemd-tmpfiles removes old sockets whose path the kernel does not show as bound."""
        monkeypatch.chdir(tmp_path)

        async def main() -> None:
            listener = await RealNetwork().listen("unix:./s", Wire.abort)
            bound = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()}
            assert str(tmp_path / "s") in bound
            listener.close()

        asyncio.run(main())

    def test_what_is_not_a_socket_is_never_removed(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("precious")
        assert self.error(f"unix:{tmp_path}/s").code == "address-in-use"
        assert (tmp_path / "s").read_text() == "precious"

    def test_a_socket_that_took_our_name_is_left_alone(self, tmp_path: Path) -> None:
        async def main() -> None:
            listener = await RealNetwork().listen(f"unix:{tmp_path}/s", Wire.abort)
            (tmp_path / "s").unlink()
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(tmp_path / "s"))
                listener.close()
                listener.close()
            assert (tmp_path / "s").exists()

        asyncio.run(main())

    def test_a_long_path_works(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * 100) / ("e" * 100)
        deep.mkdir(parents=True)

        async def main() -> None:
            network = RealNetwork()
            accepted: asyncio.Queue[Wire] = asyncio.Queue()
            listener = await network.listen(f"unix:{deep}/s", accepted.put_nowait)
            assert stat.S_ISSOCK((deep / "s").stat().st_mode)
            near, sink = await network.connect(f"unix:{deep}/s"), Sink()
            far = await accepted.get()
            near.start(sink)
            far.send([b"hello"])
            assert await sink.until(5) == b"hello"
            far.abort()
            await sink.end.wait()
            listener.close()
            assert not (deep / "s").exists()
            with pytest.raises(RevolumeError):
                await network.listen(f"unix:{deep}/{'n' * 200}", Wire.abort)

        asyncio.run(main())

    def test_nobody_there(self, tmp_path: Path) -> None:
        async def main() -> None:
            network = RealNetwork()
            with pytest.raises(FileNotFoundError):
                await network.connect(f"unix:{tmp_path}/nothing")
            with socket.create_server(("127.0.0.1", 0)) as gone:
                port = gone.getsockname()[1]
            with pytest.raises(ConnectionRefusedError):
                await network.connect(f"127.0.0.1:{port}")

        asyncio.run(main())

    def test_many_connections_at_once(self, tmp_path: Path) -> None:
        async def main() -> None:
            network = RealNetwork()
            accepted: list[Wire] = []
            listener = await network.listen(f"unix:{tmp_path}/s", accepted.append)
            near = await asyncio.gather(*[network.connect(f"unix:{tmp_path}/s") for _ in range(200)])
            while len(accepted) < 200:
                await asyncio.sleep(0.01)
            for wire in [*near, *accepted]:
                wire.abort()
            listener.close()

        asyncio.run(main())


ACTIVATED = """
import asyncio, os, sys
os.environ["LISTEN_PID"] = str(os.getpid()) if sys.argv[1] == "ours" else "1"
from revolume.host.real.network import RealNetwork

async def main():
    network = RealNetwork()
    sockets = network.activated()
    print([(s.fd, s.name, s.address.split(":")[0]) for s in sockets], flush=True)
    if sockets:
        done = asyncio.Event()
        def accept(wire):
            wire.send([b"hello"])
            asyncio.ensure_future(wire.drain_and_close()).add_done_callback(lambda _: done.set())
        listener = network.adopt(sockets[0], accept)
        await done.wait()
        listener.close()

asyncio.run(main())
"""


class TestActivation:
    def activated(self, whose: str, sock: socket.socket) -> subprocess.Popen[str]:
        environment = {**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "nbd"}
        moved = ["bash", "-c", f'exec 3<&{sock.fileno()} "$@"', "-", sys.executable, "-c", ACTIVATED, whose]
        return subprocess.Popen(
            moved, env=environment, stdout=subprocess.PIPE, text=True, pass_fds=[sock.fileno()]
        )

    def test_an_inherited_socket_is_served(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock, self.activated("ours", sock) as process:
            with socket.create_connection(sock.getsockname()) as client:
                assert client.recv(100) == b"hello"
                assert client.recv(100) == b""
            assert process.stdout is not None
            assert process.stdout.read() == "[(3, 'nbd', '127.0.0.1')]\n"

    def test_what_is_meant_for_another_process_is_not_ours(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock, self.activated("another's", sock) as process:
            assert process.communicate()[0] == "[]\n"

    def test_what_does_not_listen_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from revolume.host import activation

        with socket.socket() as sock:
            monkeypatch.setattr(activation, "FIRST_FD", sock.fileno())
            with pytest.raises(RevolumeError, match="does not listen"):
                activation.activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
        with pytest.raises(RevolumeError, match="LISTEN_FDS"):
            activation.activated({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"})


def test_a_hung_up_peer_is_seen_without_reading() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        assert not hung_up(ours)
        theirs.sendall(b"x")
        assert not hung_up(ours)
        theirs.close()
        assert hung_up(ours)
        assert ours.recv(10) == b"x"
    assert hung_up(ours)


def test_buffers_may_be_anything_of_bytes(tmp_path: Path, tls_dir: Path) -> None:
    async def scenario(pair: Pair) -> None:
        pair.start()
        many: Sequence[bytes | bytearray | memoryview] = [b"a", bytearray(b"b"), memoryview(b"c")] * 1000
        pair.near.send(many)
        assert await pair.far_sink.until(3000) == b"abc" * 1000

    run("unix", tmp_path, tls_dir, scenario)
