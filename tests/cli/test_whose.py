"""Whose files they are, who may open them, and what a stranger's words may do to a terminal. Real processes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import REVOLUME, revolume_only

NOBODY = 65534
SMALL = ("--size", "4M", "--segment-size", "64K", "--budget", "4M", "--spare", "256K")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to have two users")
pytestmark = revolume_only


def as_user(user: int | None) -> list[str]:
    """What runs a command as another user, who may read everything: the interpreter may lie in root's home."""
    if user is None:
        return []
    allowed = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *allowed]


def verb(*words: str | Path, user: int | None = None, umask: int = -1, status: int = 0) -> str:
    """What it says on both streams."""
    done = subprocess.run(
        [*as_user(user), str(REVOLUME), *map(str, words)], capture_output=True, text=True, timeout=120,
        umask=umask, env={**os.environ, "NO_COLOR": "1", "HOME": "/"},
    )  # fmt: skip
    assert done.returncode == status, f"exit {done.returncode}: {words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@contextlib.contextmanager
def serving(
    directory: Path, *words: str | Path, user: int | None = None, umask: int = -1, status: int = 0
) -> Iterator[list[str]]:
    """The URIs of its ready lines, as many as addresses were asked for."""
    process = subprocess.Popen(
        [*as_user(user), str(REVOLUME), "serve", str(directory), *map(str, words)], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, umask=umask,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(max(1, words.count("--nbd")))]
        assert all(line.startswith("ready ") for line in lines), lines
        yield [line.removeprefix("ready ").strip() for line in lines]
    finally:
        process.terminate()
        assert process.wait(60) == status


def owners(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): path.lstat().st_uid for path in directory.rglob("*")}


def modes(directory: Path) -> dict[str, int]:
    found = {str(path.relative_to(directory)): stat.S_IMODE(path.lstat().st_mode) for path in directory.rglob("*")}
    return {"": stat.S_IMODE(directory.stat().st_mode)} | found


@pytest.fixture
def theirs(folder: Path) -> Path:
    """A stopped volume of another user."""
    folder.chmod(0o777)
    directory = folder / "v"
    with serving(directory, *SMALL, user=NOBODY):
        pass
    assert set(owners(directory).values()) == {NOBODY}
    return directory


@needs_root
def test_root_leaves_the_files_to_their_owner(theirs: Path) -> None:
    """The manifest was written anew as root's, and the owner could not open the volume any more."""
    verb("snapshot", theirs, "by-root")
    verb("grow", theirs, "8M")
    (theirs.parent / "in").write_bytes(bytes(4 << 20))
    with serving(theirs, "--spare", "1M"):
        verb("copy", theirs.parent / "in", theirs)
        assert set(owners(theirs).values()) == {NOBODY}, "its sockets too"
        assert "by-root" in verb("status", theirs, user=NOBODY)
    assert set(owners(theirs).values()) == {NOBODY}
    verb("snapshot", theirs, "by-owner", user=NOBODY)


@needs_root
def test_another_users_directory_is_not_trusted(theirs: Path) -> None:
    other = NOBODY - 1
    theirs.chmod(0o777)
    for words in (("status",), ("points",), ("snapshot", "x"), ("check",), ("serve",), ("promote",)):
        said = verb(words[0], theirs, *words[1:], user=other, status=4)
        assert "error[not-ours]" in said and "belongs to another user" in said, words
    assert "error[not-ours]" in verb("copy", f"{theirs}@w0", theirs.parent / "out", user=other, status=4)


@needs_root
def test_another_users_control_socket_is_not_trusted(folder: Path) -> None:
    """The directory is ours, but anybody may make a socket in it."""
    with answering(folder, b"{}", user=NOBODY):
        assert "error[not-ours]" in verb("status", folder, status=4)


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31mred\u202eevil\n forged: line\r"


@contextlib.contextmanager
def answering(directory: Path, content: bytes, user: int | None = None, status: int = 200) -> Iterator[None]:
    """A control socket on which somebody says what we like."""
    directory.chmod(0o777)
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    code = (
        "import socket, sys\ns = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "print('listens', flush=True)\n"
        "while True:\n c, _ = s.accept()\n if c.recv(65536): c.sendall(bytes.fromhex(sys.argv[2]))\n c.close()\n"
    )
    command = [sys.executable, "-c", code, str(directory / "control.sock"), (head + content).hex()]
    process = subprocess.Popen([*as_user(user), *command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"listens\n"
        yield
    finally:
        process.kill()
        process.wait()
        (directory / "control.sock").unlink()


def test_a_control_socket_cannot_speak_to_the_terminal(folder: Path) -> None:
    told = {"code": "x" + ESCAPES, "detail": "No." + ESCAPES, "hint": ESCAPES, "kind": "Refused", "exit_status": 4}
    with answering(folder, json.dumps(told).encode(), status=409):
        said = verb("status", folder, status=4)
    assert_plain(said, lines=2)
    snapshot = {"name": "s" + ESCAPES, "write": 1, "point": 1, "time": ESCAPES, "time_ns": 0, "export": ESCAPES}
    with answering(folder, json.dumps([snapshot]).encode()):
        for words in ((), ("--json",)):
            assert_plain(verb("snapshot", folder, *words), lines=20)


def assert_plain(said: str, lines: int) -> None:
    assert not [c for c in said if (ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e"], repr(said)
    assert len(said.strip().splitlines()) <= lines, said


def test_modes_whatever_the_umask(folder: Path) -> None:
    directory, mirror = folder / "v", folder / "m"
    link = f"unix:{folder}/link"
    with (
        serving(mirror, "--mirror-listen", link, umask=0),
        serving(directory, *SMALL, "--mirror-to", link, "--nbd", f"unix:{folder}/nbd", umask=0),
    ):
        (folder / "in").write_bytes(b"x" * 65536)
        verb("copy", folder / "in", directory, umask=0)
        verb("snapshot", directory, "s", umask=0)
        verb("copy", f"{directory}@s", folder / "out", umask=0)
        found = modes(directory) | {f"m/{name}": mode for name, mode in modes(mirror).items()}
        found |= {name: stat.S_IMODE((folder / name).lstat().st_mode) for name in ("link", "nbd", "out")}
    verb("salvage", directory, folder / "rescued", umask=0)
    found["rescued"] = stat.S_IMODE((folder / "rescued").stat().st_mode)
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o077} == {}
    assert {"nbd.sock", "control.sock", "log", "m/", "m/log"} <= found.keys()


def test_the_mode_of_sockets_is_chosen(folder: Path) -> None:
    with serving(folder / "v", *SMALL, "--nbd", f"unix:{folder}/nbd", "--socket-mode", "0660"):
        assert stat.S_IMODE((folder / "nbd").stat().st_mode) == 0o660
        assert stat.S_IMODE((folder / "v" / "control.sock").stat().st_mode) == 0o600
    assert "error[bad-mode]" in verb("serve", folder / "v", "--socket-mode", "9", status=2)


# --- where it listens ------------------------------------------------------------------------------------------


def test_a_volume_that_cannot_be_served_is_not_made(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = verb("serve", folder / "v", *SMALL, "--nbd", address, status=1)
        assert "error[address-in-use]" in said and address in said and "Traceback" not in said
        assert not (folder / "v").exists()
        with serving(folder / "v", *SMALL):
            pass
        assert "error[address-in-use]" in verb("serve", folder / "v", "--nbd", address, status=1)
        assert "closed cleanly." in verb("status", folder / "v")


def test_a_managers_sockets_are_served_beside_the_addresses_asked_for(folder: Path) -> None:
    """They were ignored."""
    become = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); "
        "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); os.execv(sys.argv[2], sys.argv[2:])"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/manager")
        listener.listen()
        words = [str(REVOLUME), "serve", str(folder / "v"), *SMALL, "--nbd", f"unix:{folder}/asked"]
        process = subprocess.Popen(
            [sys.executable, "-c", become, str(listener.fileno()), *words],
            pass_fds=[listener.fileno()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        uris = [process.stdout.readline().strip() for _ in range(2)]
        assert uris == [f"ready nbd+unix:///v?socket={folder}/{name}" for name in ("asked", "manager")]
        for name in ("asked", "manager", "v/nbd.sock"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(f"{folder}/{name}")
                assert client.recv(8) == b"NBDMAGIC", name
    finally:
        process.terminate()
        assert process.wait(60) == 0
        killer.cancel()
