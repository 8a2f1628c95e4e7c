"""One NBD server as a real process, reached on one transport.

The server under test is `revolume serve`. Setting REVOLUME_TEST_SERVER to `nbdkit` or `qemu-nbd` puts one of
those in its place: a test that fails against both C servers is a wrong test, and this is how one finds out.
What they cannot do (moments, `check`) is marked with `revolume_only`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.processes import REVOLUME, Process, run_revolume, start_program
from tests.support.programs import SYSTEM_PATH, need
from tests.support.until import until

KIND = os.environ.get("REVOLUME_TEST_SERVER", "revolume")
TRANSPORTS = ("tcp", "unix", "tls-tcp", "tls-unix")
READY_SECONDS = 60
OUTPUT_SECONDS = 5
LITTLE = {"--segment-size": "8MiB", "--spare": "32MiB"}
"""Many ends of segments. What is written ahead by default takes longer than most tests do."""

revolume_only = pytest.mark.skipif(KIND != "revolume", reason=f"{KIND} has nothing like it")


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a path short enough for unix sockets, which another user may enter (fio does)."""
    folder = Path(tempfile.mkdtemp(prefix="rv-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def without_folder(text: str) -> str:
    """Without the names of such folders, which are a matter of chance: any letters and digits stand in them."""
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/rv-\w*", "", text)


def revolume(*arguments: str | os.PathLike[str], ok: tuple[int, ...] = (0,), timeout: float = 120) -> str:
    """Run one verb; its standard output."""
    words = [os.fspath(each) for each in arguments]
    done = run_revolume(words, {"NO_COLOR": "1", "REVOLUME_TRACEBACK": "1"}, timeout)
    line = " ".join(words)
    assert done.returncode in ok, f"exit {done.returncode}: revolume {line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass
class Server:
    """A server process over `folder`; start, kill and start again as often as a test likes."""

    folder: Path
    size: int
    transport: str = "unix"
    pki: Path | None = None
    options: tuple[str, ...] = ()
    kind: str = KIND
    name: str = "vol"
    persistent: bool = False  # a killed server comes back with its data (nbdkit: file instead of memory)
    process: Process | None = None
    address: str = ""  # unix: the socket's path; tcp: host:port
    log: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)  # besides the tests' own
    wrapper: tuple[str, ...] = ()  # a program that runs the server
    _listener: threading.Thread | None = field(default=None, init=False)

    # -- where it is

    @property
    def tls(self) -> bool:
        return self.transport.startswith("tls")

    @property
    def unix(self) -> bool:
        return self.transport.endswith("unix")

    @property
    def directory(self) -> Path:
        """The volume's directory (revolume), or the file that stands in for it."""
        return self.folder / "vol"

    def uri(self, export: str | None = None, *, certificates: bool = True) -> str:
        """What libnbd's tools and fio take; `export` may name a moment."""
        scheme = ("nbds" if self.tls else "nbd") + ("+unix" if self.unix else "")
        name = quote(self.name if export is None else export, safe="@:,.-_")
        query = []
        if self.unix:
            query.append(f"socket={self.address}")
        if self.tls and certificates:
            query.append(f"tls-certificates={self.pki}")
        place = "" if self.unix else self.address.replace("127.0.0.1", "localhost")
        return f"{scheme}://{place}/{name}" + ("?" + "&".join(query) if query else "")

    def qemu(self, export: str | None = None, **extra: str) -> list[str]:
        """The arguments that open the export in a qemu tool."""
        options = {"driver": "nbd", "export": self.name if export is None else export}
        if self.unix:
            options |= {"server.type": "unix", "server.path": self.address}
        else:
            host, port = self.address.rsplit(":", 1)
            options |= {"server.type": "inet", "server.host": host, "server.port": port}
        arguments = []
        if self.tls:
            arguments += ["--object", f"tls-creds-x509,id=t,dir={self.pki},endpoint=client"]
            options |= {"tls-creds": "t", "tls-hostname": "localhost"}
        spelled = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in (options | extra).items())
        return [*arguments, "--image-opts", spelled]

    # -- its life

    def start(self, ready_seconds: float = READY_SECONDS) -> Server:
        assert self.process is None, "it runs already"
        command = [*self.wrapper, *getattr(self, f"_command_{self.kind.replace('-', '_')}")()]
        environment = {"PATH": SYSTEM_PATH, "NO_COLOR": "1", "REVOLUME_TRACEBACK": "1"} | self.environment
        self.process = start_program(command, environment)
        lines: queue.Queue[str | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, args=(self.process, lines), daemon=True)
        self._listener.start()
        if self.kind == "revolume":
            self._wait_ready(lines, ready_seconds)
        else:
            self._wait_connectable(ready_seconds)
        if self.unix and self.tls:
            os.chmod(self.address, 0o666)
        return self

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM, and the exit status."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        self._end(signal.SIGKILL, 30)

    def _end(self, signum: int, timeout: float) -> int:
        process, self.process = self.process, None
        assert process is not None, "it does not run"
        process.send_signal(signum)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{self.kind} did not stop within {timeout:.0f} s\n" + self.said())
        if self._listener is not None:
            self._listener.join(OUTPUT_SECONDS)  # what it said last counts too; a program that it runs may say on
        return status

    def until_said(self, words: str) -> None:
        """What it says is written, and read, by threads: later than what it tells of."""
        until(f"it says {words!r}", lambda: any(words in line for line in self.log), said=self.said)

    def said(self) -> str:
        return "\n".join(self.log[-200:])

    def _listen(self, process: Process, lines: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.log.append(line.rstrip("\n"))
            lines.put(line)
        lines.put(None)

    def _wait_ready(self, lines: queue.Queue[str | None], seconds: float) -> None:
        """The ready line carries the URI, and with port 0 the port."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no ready line within {seconds:.0f} s\n" + self.said())
            if line is None:
                pytest.fail("revolume serve ended before it was ready\n" + self.said())
            found = re.search(r"nbds?(\+unix)?://(\S*?)/", line)
            if found and self.unix == bool(found.group(1)):
                if not self.unix:
                    self.address = found.group(2).replace("localhost", "127.0.0.1")
                return

    def _wait_connectable(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX if self.unix else socket.AF_INET) as probe:
                host, _, port = self.address.rpartition(":")
                try:
                    probe.connect(self.address if self.unix else (host, int(port)))
                    return
                except OSError:
                    pass
            assert self.process is not None
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail(f"{self.kind} does not answer\n" + self.said())

    # -- command lines

    def unless_given(self, defaults: dict[str, str]) -> list[str]:
        """Options, but for those that the test sets itself."""
        return [word for name, value in defaults.items() if name not in self.options for word in (name, value)]

    def _place(self, *, any_port: bool) -> None:
        if self.unix:
            self.address = str(self.folder / "s.sock")
            Path(self.address).unlink(missing_ok=True)
        elif any_port:
            self.address = "127.0.0.1:0"
        else:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.address = f"127.0.0.1:{probe.getsockname()[1]}"

    def _command_revolume(self) -> list[str]:
        self._place(any_port=True)
        command = [str(REVOLUME), "serve", str(self.directory), "--name", self.name, "--size", str(self.size)]
        command += ["--nbd", f"unix:{self.address}" if self.unix else self.address]
        if self.tls:
            command += ["--tls-dir", str(self.pki)]
        return [*command, *self.unless_given(LITTLE), *self.options]

    def _command_nbdkit(self) -> list[str]:
        need("nbdkit")
        self._place(any_port=False)
        command = ["nbdkit", "-f"]
        if self.unix:
            command += ["-U", self.address]
        else:
            command += ["-i", "127.0.0.1", "-p", self.address.rsplit(":", 1)[1]]
        if self.tls:
            command += ["--tls=require", f"--tls-certificates={self.pki}", "--tls-verify-peer"]
        return [*command, "file", self._file()] if self.persistent else [*command, "memory", str(self.size)]

    def _command_qemu_nbd(self) -> list[str]:
        need("qemu-nbd")
        self._place(any_port=False)
        command = ["qemu-nbd", "-t", "-e", "16", "-f", "raw", "--discard=unmap", "-x", self.name]
        if self.unix:
            command += ["-k", self.address]
        else:
            command += ["-b", "127.0.0.1", "-p", self.address.rsplit(":", 1)[1]]
        if self.tls:
            command += ["--object", f"tls-creds-x509,id=t,dir={self.pki},endpoint=server", "--tls-creds", "t"]
        return [*command, self._file()]

    def _file(self) -> str:
        file = self.folder / "vol.img"
        if not file.exists():
            with file.open("wb") as made:
                made.truncate(self.size)
        return str(file)


Serve = Callable[..., Server]
"""The fixture `serve`: starts a server with the fields named, stops it after the test."""
