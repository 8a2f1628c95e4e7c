"""A log that nobody takes, and a terminal that closes: neither may stop a volume, or stop it the wrong way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pki import make_pki
from tests.support.servers import REVOLUME, revolume_only
from tests.support.wire import Wire, WireError

pytestmark = revolume_only
SMALL = ("--size", "4M", "--segment-size", "64K", "--budget", "4M", "--spare", "256K")
READY_SECONDS = 60


@contextlib.contextmanager
def started(folder: Path, *words: str, shell: str = "", **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """A server whose streams are what the shell makes of ``shell``."""
    command = [str(REVOLUME), "serve", str(folder / "v"), *SMALL, *words]
    environment = {**os.environ, "NO_COLOR": "1"} | more.pop("environment", {})  # type: ignore[operator]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {shell}', "sh", *command], env=environment, **more,  # type: ignore[call-overload]
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def uri(folder: Path) -> str:
    return f"nbd+unix:///v?socket={folder}/v/nbd.sock"


def until_served(folder: Path, process: subprocess.Popen[bytes]) -> Wire:
    """The first connection that there can be."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "it has ended"
        with contextlib.suppress(OSError):
            return Wire(uri(folder))
        time.sleep(0.02)
    raise AssertionError("it is not served")


def make_lines(folder: Path) -> None:
    """Things that it logs: clients that ask for what there is not."""
    for _ in range(10):
        with pytest.raises(WireError):
            Wire(uri(folder).replace("/v?", "/nothing?"))


def full_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    return reader, writer


@pytest.mark.parametrize("sink", ["full pipe", "reader gone", "full disk", "closed"])
def test_the_log_cannot_stop_the_service(folder: Path, sink: str) -> None:
    reader, writer = full_pipe()
    shell = {"full disk": ">/dev/full 2>/dev/full", "closed": ">&- 2>&-"}.get(sink, "")
    if sink == "reader gone":
        os.close(reader)
    with started(folder, shell=shell, stdout=writer, stderr=writer) as process:
        os.close(writer)
        with until_served(folder, process) as wire:
            make_lines(folder)
            wire.pwrite(0, b"a" * 4096, flags=1)
            assert wire.pread(0, 4096) == b"a" * 4096
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert b"Traceback" not in b"".join(path.read_bytes() for path in (folder / "v").iterdir() if path.is_file())


def test_the_log_of_a_service_that_ends_is_written(folder: Path) -> None:
    with started(folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until_served(folder, process).close()
        process.send_signal(signal.SIGTERM)
        said, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.startswith(b"ready nbd+unix:///v?") and b'"event": "stopped"' in told


@pytest.fixture
def hangups_are_heard() -> Iterator[None]:
    """Where the tests run under nohup SIGHUP is ignored, and would be by what they start."""
    heard = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, heard)


@pytest.mark.usefixtures("hangups_are_heard")
def test_a_terminal_that_closes_is_a_clean_stop(folder: Path) -> None:
    ours, theirs = pty.openpty()
    with started(folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        until_served(folder, process).close()
        os.close(ours)
        process.send_signal(signal.SIGHUP)  # what the kernel sends to whom the terminal controls
        assert process.wait(60) == 0
    status = subprocess.run([REVOLUME, "status", folder / "v"], capture_output=True, text=True, check=True)
    assert "closed cleanly." in status.stdout


def test_what_was_started_with_nohup_outlives_its_terminal(folder: Path) -> None:
    words = (str(REVOLUME), "serve", str(folder / "v"), *SMALL)
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(["nohup", *words], **streams) as process:
        try:
            with until_served(folder, process) as wire:
                process.send_signal(signal.SIGHUP)
                time.sleep(0.3)
                wire.pwrite(0, b"a" * 4096, flags=1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_sighup_renews_certificates_under_a_service_manager(folder: Path) -> None:
    pki = make_pki(folder / "pki")
    words = ("--tls-dir", str(pki), "--nbd", "127.0.0.1:0")
    managed = {"environment": {"INVOCATION_ID": "x"}}
    with started(folder, *words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **managed) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().decode().split(":")[2].split("/")[0])
        before = certificate(port, pki)
        (pki / "server-cert.pem").write_bytes(b"no certificate")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert certificate(port, pki) == before, "what can't be used changes nothing"
        other = make_pki(folder / "other")
        for name in ("server-cert.pem", "server-key.pem"):
            (pki / name).write_bytes((other / name).read_bytes())
        process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while certificate(port, pki) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        assert certificate(port, pki) != before
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def certificate(port: int, pki: Path) -> bytes:
    """What the server shows after STARTTLS."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(pki / "client-cert.pem", pki / "client-key.pem")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        plain.recv(18, socket.MSG_WAITALL)
        plain.sendall(b"\0\0\0\3" + b"IHAVEOPT" + (5).to_bytes(4, "big") + bytes(4))
        plain.recv(20, socket.MSG_WAITALL)
        with context.wrap_socket(plain) as wrapped:
            found = wrapped.getpeercert(binary_form=True)
            assert found is not None
            return found
