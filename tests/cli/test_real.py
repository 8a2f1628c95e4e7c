"""The verbs on real volumes, each verb a process: served, stopped, crashed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from revolume.errors import RevolumeError
from revolume.host import real_host
from revolume.host.tls import client_context
from revolume.nbd.client import Client
from tests.support import processes

REVOLUME = str(processes.REVOLUME)
BLOCK = 4096
SIZE = 16 << 20
SMALL = ("--segment-size", "1M", "--budget", "64M")


def revolume(*words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    ended = processes.run_revolume([str(word) for word in words], {}, 120)
    assert ended.returncode == status, f"{ended.returncode}: {words}\n{ended.stdout}\n{ended.stderr}"
    return ended


def told(*words: str | Path) -> Any:
    return json.loads(revolume(*words).stdout)


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: foreign clients reach sockets in it."""
    made = Path(tempfile.mkdtemp(prefix="rv-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextmanager
def serving(directory: Path, *words: str, end: int = signal.SIGTERM) -> Iterator[list[str]]:
    """The volume served by a process; the ready lines."""
    command = [REVOLUME, "serve", str(directory), *words]
    addresses = max(1, words.count("--nbd"))
    with tempfile.TemporaryFile("w+") as said:
        process = processes.start_program(command, {}, stderr=said)
        try:
            assert process.stdout is not None
            ready = [process.stdout.readline().strip() for _ in range(addresses)]
            if not all(ready):
                pytest.fail(read_again(said))
            yield ready
            process.send_signal(end)
            status = process.wait(60)
            assert process.stdout.read() == "", "nothing but the ready lines goes to stdout"
            assert status == (0 if end == signal.SIGTERM else -end), read_again(said)
        finally:
            process.kill()
            process.wait()


def read_again(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def write(directory: Path, *writes: tuple[int, bytes]) -> None:
    """One write request each, in order."""

    async def run() -> None:
        host = real_host()
        client = await Client.connect(host, f"nbd+unix:///?socket={directory}/nbd.sock")
        for offset, data in writes:
            await client.write(offset, data)
        await client.flush()
        await client.close()
        await host.work.close()

    asyncio.run(run())


def contents(directory: Path) -> dict[str, str]:
    """A digest of every file below."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- serve ---------------------------------------------------------------------------------------------


def test_a_ready_line_for_each_address_and_a_clean_stop(place: Path) -> None:
    directory = place / "vm1"
    with serving(
        directory, "--size", "16M", "--nbd", "127.0.0.1:0", "--nbd", f"unix:{place}/s.sock", *SMALL
    ) as ready:
        first, second = ready
        assert first.startswith("ready nbd://127.0.0.1:") and first.endswith("/vm1")
        assert second == f"ready nbd+unix:///vm1?socket={place}/s.sock"
        assert told("status", directory, "--json")["nbd"] == [line.split()[1] for line in ready]
        assert (directory / "nbd.sock").is_socket(), "the verbs' way in is always there"
    assert not any(path.is_socket() for path in place.rglob("*"))
    revolume("check", directory)


def test_an_interrupt_from_the_terminal_stops_it_cleanly_too(place: Path) -> None:
    command = [REVOLUME, "serve", str(place / "v"), "--size", "16M", *SMALL, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["ready"].startswith("nbd+unix:///v?socket=")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert told("status", place / "v", "--json")["reason"] == "It was closed cleanly."


def test_tls_is_required_on_tcp_and_offered_on_the_unix_socket(place: Path, pki: Path) -> None:
    directory = place / "v"
    words = ("--size", "16M", "--nbd", "localhost:0", "--tls-dir", str(pki), *SMALL)
    with serving(directory, *words) as ready:
        uri = ready[0].removeprefix("ready ")
        assert uri.startswith("nbds://")
        revolume("copy", directory, place / "out")

        async def over_tcp(uri: str, context: ssl.SSLContext | None) -> int:
            host = real_host()
            try:
                client = await Client.connect(host, uri, tls=context, server_hostname="localhost")
                await client.close()
                return client.size
            finally:
                await host.work.close()

        assert asyncio.run(over_tcp(uri, client_context(str(pki)))) == SIZE
        with pytest.raises(RevolumeError):
            asyncio.run(over_tcp(uri.replace("nbds://", "nbd://"), None))


def test_a_socket_of_the_service_manager_takes_the_place_of_the_default(place: Path) -> None:
    """LISTEN_FDS: the manager's socket is announced, the directory's own is still there for the verbs."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "manager.sock"))
        listener.listen()
        become = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); "
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
        )
        number = listener.fileno()
        serve = [REVOLUME, "serve", str(place / "v"), "--size", "16M", *SMALL]
        process = subprocess.Popen(
            [sys.executable, "-c", become, str(number), *serve],
            pass_fds=[number], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        uri = process.stdout.readline().removeprefix("ready ").strip()
        assert uri == f"nbd+unix:///v?socket={place}/manager.sock"
        write(place / "v", (0, b"through our own"))

        async def read() -> bytearray:
            host = real_host()
            client = await Client.connect(host, uri)
            data = await client.read(0, 15)
            await client.close()
            await host.work.close()
            return data

        assert asyncio.run(read()) == b"through our own"
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_what_cannot_be_served_is_said_in_a_sentence(place: Path) -> None:
    directory = place / "v"
    assert "error[no-such-volume]" in revolume("status", directory, status=3).stderr
    revolume("serve", directory, status=3)
    with serving(directory, "--size", "16M", *SMALL):
        assert "error[dir-in-use]" in revolume("serve", directory, status=4).stderr
    for words, code, status in (
        (("--size", "17M"), "wrong-size", 4),
        (("--name", "other"), "wrong-name", 4),
        (("--tls-dir", str(place / "none")), "tls-file-missing", 1),
        (("--nbd", f"unix:{place}/none/s.sock"), "", 1),
    ):
        said = revolume("serve", directory, *words, status=status).stderr
        assert f"error[{code}" in said and "Traceback" not in said, said
    with serving(directory):
        pass


def test_the_control_socket_and_the_name_with_a_space(place: Path) -> None:
    directory = place / "a b"
    assert "error[bad-volume-name]" in revolume("serve", directory, "--size", "16M", status=2).stderr
    with serving(directory, "--size", "16M", "--name", "ab", *SMALL):
        assert told("status", directory, "--json")["name"] == "ab"
        assert oct((directory / "control.sock").stat().st_mode)[-3:] == "600"
    with serving(directory):
        assert told("status", directory, "--json")["name"] == "ab"


# --- asking a stopped volume ---------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_volume_answers_as_it_did_and_nothing_in_it_changes(place: Path, end: int) -> None:
    directory = place / "v"
    with serving(directory, "--size", "16M", *SMALL, end=end):
        write(directory, (0, b"a" * BLOCK), (BLOCK, b"b" * 700))
        revolume("snapshot", directory, "first")
        write(directory, (5 * BLOCK, b"c" * BLOCK))
        revolume("grow", directory, "+1M")
        before = told("status", directory, "--json")
        points = told("points", directory, "--json")["points"]
        moments = {
            at: told("points", directory, "--at", at, "--json")["at"] for at in ("w1", "first", points[0]["time"])
        }
    files = contents(directory)
    status = told("status", directory, "--json")
    for same in ("name", "volume_id", "size", "write", "epoch", "snapshots", "horizon_write"):
        assert status[same] == before[same], same
    assert status["state"] == "stopped"
    stopped = told("points", directory, "--json")["points"]
    assert stopped[: len(points)] == points
    for at, moment in moments.items():
        answer = told("points", directory, "--at", at, "--json")["at"]
        assert (answer["write"], answer["time"]) == (moment["write"], moment["time"]), at
    assert revolume("points", directory, "--at", "w999", status=3).stderr.startswith("error[moment-not-retained]")
    assert contents(directory) == files


def test_a_stopped_volume_is_changed_as_its_primary(place: Path) -> None:
    directory = place / "v"
    with serving(directory, "--size", "16M", *SMALL):
        write(directory, (0, b"a" * BLOCK))
    revolume("snapshot", directory, "made-while-stopped")
    assert told("grow", directory, "17M", "--json") == {"size": 17 << 20}
    assert told("snapshot", directory, "--json")["snapshots"][0]["name"] == "made-while-stopped"
    revolume("snapshot", directory, "made-while-stopped", "--drop")
    revolume("check", directory)


# --- copy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False])
def test_copies_in_and_out_are_equal_and_sparse(place: Path, running: bool) -> None:
    image, directory, out = place / "in.img", place / "v", place / "out.img"
    with image.open("wb") as file:
        file.truncate(SIZE)
        file.write(os.urandom(300_000))
        file.seek(9 << 20)
        file.write(b"x" * 5000)
    if running:
        with serving(directory, "--size", "16M", *SMALL):
            revolume("copy", image, directory)
            revolume("copy", directory, out)
    else:
        revolume("copy", image, directory)
        revolume("copy", directory, out)
    assert out.read_bytes() == image.read_bytes()
    assert out.stat().st_blocks * 512 < 400_000
    assert not list(place.glob(".*.part"))


def test_a_copy_overwrites_only_when_told(place: Path) -> None:
    one, two, directory = place / "1", place / "2", place / "v"
    one.write_bytes(b"1" * (64 * BLOCK))
    two.write_bytes(b"2" * BLOCK + bytes(BLOCK))
    revolume("copy", one, directory)
    assert "error[volume-not-empty]" in revolume("copy", two, directory, status=4).stderr
    revolume("copy", two, directory, "--force")
    assert "error[file-exists]" in revolume("copy", directory, two, status=4).stderr
    assert two.stat().st_size == 2 * BLOCK
    revolume("copy", directory, two, "--force")
    assert two.read_bytes() == b"2" * BLOCK + bytes(63 * BLOCK)
    first = told("points", directory, "--json")["points"][0]
    revolume("copy", f"{directory}@cp{first['number']}", place / "old")
    assert (place / "old").read_bytes() == one.read_bytes()
    (place / "large").write_bytes(b"3" * (65 * BLOCK))
    assert "error[volume-too-small]" in revolume("copy", place / "large", directory, "--force", status=4).stderr


def test_an_interrupted_copy_leaves_nothing(place: Path) -> None:
    image, directory = place / "in.img", place / "v"
    image.write_bytes(os.urandom(SIZE))
    revolume("copy", image, directory)
    process = subprocess.Popen(
        [REVOLUME, "copy", str(directory), str(place / "out"), "--json"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    process.stderr.readline()  # it has begun
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 0)
    if process.returncode == 130:
        assert not (place / "out").exists()
    assert not list(place.glob(".out*"))


# --- bisect --------------------------------------------------------------------------------------------

GOOD = "import sys; d = open(sys.argv[1], 'rb').read(4096); sys.exit(d[:4] != b'good')"


def history(directory: Path, good: int, bad: int) -> None:
    """Empty, then good since w1, bad since w(good + 1), with points in between."""
    cuts = {1, good // 2, good - 1, good + bad // 2}
    for number in range(1, good + bad + 1):
        word = b"good" if number <= good else b"bad!"
        write(directory, (0, word + b"%d" % number + bytes(BLOCK - 20)))
        if number in cuts:
            revolume("snapshot", directory, f"after-{number}")


@pytest.fixture(scope="module")
def wronged() -> Iterator[Path]:
    """A volume, served, that is good up to w9 and bad from w10 on."""
    made = Path(tempfile.mkdtemp(prefix="rv-"))
    with serving(made / "v", "--size", "16M", "--cp-interval", "1h", *SMALL):
        history(made / "v", good=9, bad=7)
        yield made / "v"
    shutil.rmtree(made, ignore_errors=True)


def bisect(directory: Path, *words: str) -> Any:
    return told("bisect", directory, "--json", *words)


def test_bisect_names_the_last_good_write(wronged: Path) -> None:
    found = bisect(wronged, "--", sys.executable, "-c", GOOD, "{file}")
    assert (found["good"]["write"], found["bad"]["write"]) == (9, 10)
    assert found["good"]["export"] == "v@w9"
    assert found["good"]["time_ns"] <= found["bad"]["time_ns"]
    assert found["runs"] < 16
    shown = revolume("bisect", wronged, "--", sys.executable, "-c", GOOD, "{file}")
    assert shown.stdout.splitlines()[0].startswith("last good: v@w9 of ")
    assert "w9: good" in shown.stderr
    assert not list(Path(tempfile.gettempdir()).glob("revolume-*.img"))


def test_bisect_over_points_and_within_bounds(wronged: Path) -> None:
    words = ("--", sys.executable, "-c", GOOD, "{file}")
    found = bisect(wronged, "--points-only", *words)
    assert (found["good"]["write"], found["bad"]["write"]) == (8, 12)
    found = bisect(wronged, "--from", "w5", "--to", "w11", *words)
    assert (found["good"]["write"], found["bad"]["write"]) == (9, 10)
    assert "error[bad-range]" in revolume("bisect", wronged, "--from", "w9", "--to", "w2", *words, status=2).stderr


def test_bisect_says_when_there_is_nothing_to_find(wronged: Path) -> None:
    assert "error[good-nowhere]" in revolume("bisect", wronged, "--", "false", "{uri}", status=3).stderr
    assert "error[bad-nowhere]" in revolume("bisect", wronged, "--", "true", "{uri}", status=3).stderr
    words = ("--timeout", "500ms", "--tries", "2", "--", "sh", "-c", "sleep 60; : {uri}")
    began = time.monotonic()
    assert "2 moments tried" in revolume("bisect", wronged, *words, status=3).stderr
    assert time.monotonic() - began < 30
    assert "error[bad-command]" in revolume("bisect", wronged, "--", "/no/such", "{uri}", status=2).stderr


@pytest.mark.foreign
@pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="nbdcopy is not installed")
def test_bisect_gives_a_uri_that_other_programs_open(wronged: Path) -> None:
    script = 'test "$(nbdcopy "$1" - | head -c 4)" = good && case "$2" in v@w*) ;; *) exit 1;; esac'
    found = bisect(wronged, "--", "sh", "-c", script, "sh", "{uri}", "{moment}")
    assert found["good"]["write"] == 9


def test_bisect_serves_a_stopped_volume_itself_and_lets_nothing_go(place: Path) -> None:
    deep = place.joinpath(*["a-directory-with-a-long-name"] * 4)
    deep.mkdir(parents=True)
    directory = deep / "v"
    near = place / "near"
    near.symlink_to(directory)
    with serving(directory, "--size", "16M", "--cp-interval", "1h", *SMALL):
        history(near, good=4, bad=3)
    points = told("points", directory, "--json")["points"]
    found = bisect(directory, "--", sys.executable, "-c", GOOD, "{file}")
    assert (found["good"]["write"], found["bad"]["write"]) == (4, 5)
    assert told("points", directory, "--json")["points"][: len(points)] == points
    assert not (directory / "nbd.sock").exists()


def test_bisect_steps_over_the_numbers_that_a_crash_left_out(place: Path) -> None:
    """And finds a good stretch that no consistency point has seen."""
    directory = place / "v"
    words = ("--size", "16M", "--cp-interval", "1h", *SMALL)
    with serving(directory, *words, end=signal.SIGKILL):
        write(directory, *[(0, b"good" + bytes([n]) * 4092) for n in range(5)])
    with serving(directory, *words):
        write(directory, *[(0, b"good" + bytes([n]) * 4092) for n in range(3)])
        write(directory, *[(0, b"bad!" + bytes([n]) * 4092) for n in range(40)])
        last = told("points", directory, "--at", "now", "--json")["at"]["write"]
        assert last > 1000, "numbers were left out"
        for words in ((), ("--to", f"w{last - 20}")):
            found = bisect(directory, *words, "--", sys.executable, "-c", GOOD, "{file}")
            assert (found["good"]["write"], found["bad"]["write"]) == (last - 40, last - 39)


# --- check and salvage ---------------------------------------------------------------------------------


def test_check_and_salvage(place: Path) -> None:
    image, directory = place / "in.img", place / "v"
    image.write_bytes(os.urandom(SIZE))
    revolume("copy", image, directory)
    assert told("check", directory, "--json")["good"] is True
    revolume("salvage", directory, place / "out")
    assert (place / "out").read_bytes() == image.read_bytes()
    assert "error[file-exists]" in revolume("salvage", directory, place / "out", status=4).stderr
    revolume("salvage", directory, place / "out", "--force")
    wanted = image.read_bytes()[1 << 20 : (1 << 20) + 64]
    (segment,) = [path for path in (directory / "log").iterdir() if wanted in path.read_bytes()]
    raw = bytearray(segment.read_bytes())
    raw[raw.index(wanted)] ^= 1
    segment.write_bytes(raw)
    assert "error" not in revolume("check", directory, status=5).stderr
    assert told_problems(directory)


def told_problems(directory: Path) -> Any:
    return json.loads(revolume("check", directory, "--json", status=5).stdout)["report"]["problems"]
