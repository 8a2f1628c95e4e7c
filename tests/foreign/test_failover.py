"""A mounted file system does not notice that its primary was killed and the mirror took its place.

The clients are those that try again: nbdkit's retry filter, and qemu's storage daemon with a reconnect delay.
Both know one address; `revolume promote --nbd` makes the mirror listen there. The mirror is synchronous, so
nothing that was answered may be missing: such a client repeats what was not answered, never what was.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.foreign.test_filesystems import EXT4, ready
from tests.support.detaching import DEADLINE_S, LEASE_S, until_leased
from tests.support.mounts import export_as_file, file_as_disk, mounted
from tests.support.pairs import Pair, pair
from tests.support.programs import SYSTEM_PATH, need, run
from tests.support.servers import Server, revolume, revolume_only

pytestmark = [pytest.mark.foreign, pytest.mark.kernel, pytest.mark.slow, revolume_only]
MiB = 1 << 20
SIZE = 256 * MiB
SOAK = bool(os.environ.get("REVOLUME_SOAK"))
ROUNDS = 10 if SOAK else 1
SEED = int(os.environ.get("REVOLUME_SEED", "0")) or random.randrange(1 << 20)


@pytest.fixture(autouse=True)
def as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """qemu's FUSE export (7.2) reads the next request into the buffer of a write that waits for reconnection, and
    then sends that content in its place. A promotion that follows the kill at once meets that often."""
    monkeypatch.setenv("REVOLUME_TEST_EXEC", "1")


PERIOD_S = 0.01
STALL_S_MAX = 25.0
"""Below the 30 seconds after which qemu's daemon, as started here, gives its clients an error."""


class Diary(threading.Thread):
    """One line and one fsync every 10 ms; every 25th line begins a new page. `lines` were fsynced, in `pages`."""

    def __init__(self, place: Path) -> None:
        super().__init__(daemon=True)
        self.place = place
        self.lines = 0
        self.stalls: list[float] = []
        self.error: BaseException | None = None
        self.enough = threading.Event()

    @staticmethod
    def line(number: int) -> bytes:
        return b"%08d %s\n" % (number, random.Random(number).randbytes(700).hex().encode())

    def page(self, number: int) -> Path:
        return self.place / f"page{number // 25:05}"

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                began = time.monotonic()
                self._write(self.lines)
                self.lines += 1
                self.stalls.append(time.monotonic() - began)
                time.sleep(max(0.0, PERIOD_S - self.stalls[-1]))
        except BaseException as error:
            self.error = error

    def _write(self, number: int) -> None:
        page = self.page(number)
        new = not page.exists()
        with page.open("ab") as file:
            file.write(self.line(number))
            file.flush()
            os.fsync(file.fileno())
        if new:
            folder = os.open(self.place, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)

    def goes_on(self, lines: int, seconds: float) -> None:
        """Until this many more are answered."""
        wanted, deadline = self.lines + lines, time.monotonic() + seconds
        while self.lines < wanted:
            assert self.error is None, f"the client saw an error: {self.error!r}"
            assert time.monotonic() < deadline, f"no {lines} lines within {seconds:.0f} s: {self.lines}"
            time.sleep(0.02)

    def missing(self) -> list[int]:
        """Which of those that were answered are not in the pages."""
        content: dict[Path, bytes] = {}
        lost = []
        for number in range(self.lines):
            page = self.page(number)
            if page not in content:
                content[page] = page.read_bytes() if page.exists() else b""
            at = number % 25 * len(self.line(0))
            if content[page][at : at + len(self.line(0))] != self.line(number):
                lost.append(number)
        return lost


# --- the clients: the export as a file that outlives its server --------------------------------------------


@contextlib.contextmanager
def ended(command: list[str], ready: Callable[[], bool], seconds: float = 60) -> Iterator[None]:
    """A foreign program, for the time of the context."""
    process = subprocess.Popen(command, env={**os.environ, "PATH": SYSTEM_PATH})
    try:
        deadline = time.monotonic() + seconds
        while not ready():
            assert process.poll() is None and time.monotonic() < deadline, f"it does not come up: {command}"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def nbdkit_retry(server: Server, folder: Path) -> Iterator[Path]:
    """nbdkit's retry filter between the server and nbdfuse."""
    sock = folder / "retry.sock"
    command = ["nbdkit", "-f", "-U", str(sock), "--filter=retry", "nbd", f"uri={server.uri()}",
               "retries=60", "retry-delay=1", "retry-exponential=no"]  # fmt: skip
    with ended(command, sock.exists), export_as_file(f"nbd+unix:///?socket={sock}", folder) as file:
        yield file


@contextlib.contextmanager
def qemu_storage_daemon(server: Server, folder: Path) -> Iterator[Path]:
    """qemu's own client and its own FUSE export."""
    file = folder / "disk"
    file.touch()
    if server.unix:
        place = f"server.type=unix,server.path={server.address}"
    else:
        host, port = server.address.rsplit(":", 1)
        place = f"server.type=inet,server.host={host},server.port={port}"
    command = ["qemu-storage-daemon", "--blockdev",
               f"driver=nbd,node-name=n,{place},export=vol,reconnect-delay=30,open-timeout=10",
               "--export", f"fuse,id=e,node-name=n,mountpoint={file},writable=on"]  # fmt: skip
    try:
        with ended(command, lambda: file.stat().st_size > 0):
            yield file
    finally:
        run("fusermount3", "-uz", file, check=False)


CLIENTS = {"nbdkit-retry": nbdkit_retry, "qemu-storage-daemon": qemu_storage_daemon}
NEEDED = {"nbdkit-retry": ("nbdkit", "nbdfuse"), "qemu-storage-daemon": ("qemu-storage-daemon",)}


def fail_over(both: Pair) -> float:
    """Kill the primary; the mirror takes its address over. Seconds until it had."""
    address = f"unix:{both.primary.address}" if both.primary.unix else both.primary.address
    began = time.monotonic()
    both.primary.kill()
    both.promote("--nbd", address)
    return time.monotonic() - began


CHAINS = [("nbdkit-retry", "tcp"), ("qemu-storage-daemon", "unix")]
if SOAK:
    CHAINS += [("nbdkit-retry", "unix"), ("qemu-storage-daemon", "tcp")]


Blow = Callable[[Pair, Diary], str]


def killed_and_promoted(both: Pair, diary: Diary) -> str:
    took = fail_over(both)
    diary.goes_on(100, STALL_S_MAX + 30)
    return f"promoted {took:.2f} s after the kill"


def detached_returned_and_promoted(both: Pair, diary: Diary) -> str:
    """The mirror is lost: writes go on without it. It returns, is required again, and takes over."""
    both.mirror.kill()
    diary.goes_on(100, STALL_S_MAX + 30)
    assert both.state()["detached_ns"] and not both.state()["required"]
    stalled = max(diary.stalls)
    assert stalled < DEADLINE_S + LEASE_S + 3.0
    both.mirror.start()
    both.wait("it is required again", lambda: both.state()["required"] and not both.state()["detached_ns"])
    until_leased(both)
    diary.goes_on(50, 30)
    return f"{stalled:.2f} s without the mirror, {killed_and_promoted(both, diary)}"


def played(folder: Path, client: str, both: Pair, round_: int, blow: Blow) -> None:
    """A file system is written to while it happens: no error, nothing missing, and a clean check at the end."""
    chance = random.Random(SEED + round_)
    with CLIENTS[client](both.primary, folder) as file:
        run(*EXT4.make, "-F", file)
        with file_as_disk(file) as device:
            with mounted(device, folder) as place:
                diary = Diary(place)
                diary.start()
                diary.goes_on(50, 60)
                time.sleep(chance.uniform(0, 1))
                told = blow(both, diary)
                diary.enough.set()
                diary.join(60)
                assert not diary.is_alive() and diary.error is None, diary.error
            print(
                f"{client} over {both.transport}: {diary.lines} fsyncs, the worst {max(diary.stalls):.2f} s, "
                f"the median {sorted(diary.stalls)[len(diary.stalls) // 2] * 1000:.1f} ms; {told}"
            )
            assert max(diary.stalls) < STALL_S_MAX
            with mounted(device, folder):
                assert not diary.missing(), "answered lines are gone"
        run(*EXT4.check, file)
        assert both.status(both.mirror)["role"] == "primary"


@pytest.mark.soak
@pytest.mark.timeout(180 * ROUNDS)
@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize(("client", "transport"), CHAINS)
def test_clients_that_try_again_see_no_error(folder: Path, client: str, transport: str, round_: int) -> None:
    need(*NEEDED[client])
    ready(EXT4)
    print(f"REVOLUME_SEED={SEED}")
    with pair(folder, size=SIZE, transport=transport) as both:
        played(folder, client, both, round_, killed_and_promoted)
    with export_after_restart(both) as uri, export_as_file(uri, folder) as file:
        run(*EXT4.check, file)


@pytest.mark.soak
@pytest.mark.timeout(240 * ROUNDS)
@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize(("client", "transport"), CHAINS if SOAK else CHAINS[1:])
def test_clients_see_no_error_when_the_mirror_is_detached_returns_and_takes_over(
    folder: Path, client: str, transport: str, round_: int
) -> None:
    need(*NEEDED[client])
    ready(EXT4)
    print(f"REVOLUME_SEED={SEED}")
    lost = ("--cp-interval", "1s", "--on-lost", "detach", "--deadline", f"{DEADLINE_S:g}s")
    with pair(folder, size=SIZE, transport=transport, options=lost) as both:
        until_leased(both)
        played(folder, client, both, round_, detached_returned_and_promoted)


@contextlib.contextmanager
def export_after_restart(both: Pair) -> Iterator[str]:
    """The promoted one was killed as well (`pair` does so); it is checked and opened again."""
    revolume("check", both.mirror.directory)
    again = Server(both.folder / "m", both.size, name="vol", options=("--segment-size", "16MiB"))
    again.start()
    try:
        yield again.uri()
        assert again.stop() == 0
    finally:
        if again.process is not None:
            again.kill()
