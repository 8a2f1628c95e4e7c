"""What is measured: our server, two C servers that store, and as limits one that stores nothing and a bare
file.

All listen on a unix socket. Each export is fully written before its first measurement, the peers' files
as ordinary fully written files in the page cache, ours by the same sequential writes through NBD: nobody
pays for allocation in a measured row, except where the row is about fresh files: there all do.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

REVOLUME = Path(sys.executable).with_name("revolume")
MiB = 1 << 20


class Peer:
    """One server in its folder. `start` gives an export that is fully written and quiet."""

    name = ""
    program = ""
    fresh = False  # a folder of its own for every measurement
    sparse = False  # the file is made without content: nothing of it is allocated

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.size = root, size
        self.folder = root / self.name.replace(" ", "-")
        self.socket = self.folder / "s"
        self.process: subprocess.Popen[bytes] | None = None

    def available(self) -> bool:
        return shutil.which(self.program) is not None

    @property
    def uri(self) -> str:
        return f"nbd+unix:///vol?socket={self.socket}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self, options: Sequence[str]) -> list[str]:
        raise NotImplementedError

    def start(self, options: Sequence[str] = (), wait: float = 60) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(options), stdout=log, stderr=log)
        self._wait(wait)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(self.socket))
                    return
                except OSError:
                    pass
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} does not answer:\n{said}")
            time.sleep(0.005)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is None:
            return
        process, self.process = self.process, None
        process.send_signal(how)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self) -> str:
        """A fully written file, in the page cache; a sparse one where that is asked."""
        path = self.folder / "disk.img"
        if self.sparse:
            with path.open("ab") as file:
                file.truncate(self.size)
            return str(path)
        if not path.exists() or path.stat().st_size != self.size:
            with path.open("wb") as file:
                piece = os.urandom(MiB)
                for _ in range(self.size // MiB):
                    file.write(piece)
                os.fsync(file.fileno())
        return str(path)


class Revolume(Peer):
    name, program, fresh = "revolume", str(REVOLUME), True

    def command(self, options: Sequence[str]) -> list[str]:
        directory = self.folder / "vol"
        return [self.program, "serve", str(directory), "--name", "vol", "--size", str(self.size),
                "--nbd", f"unix:{self.socket}", *options]  # fmt: skip


class NbdkitFile(Peer):
    name, program = "nbdkit file", "nbdkit"

    def command(self, options: Sequence[str]) -> list[str]:
        return ["nbdkit", "-f", "-U", str(self.socket), "file", self._file()]


class NbdkitMemory(Peer):
    name, program = "nbdkit memory", "nbdkit"

    def command(self, options: Sequence[str]) -> list[str]:
        return ["nbdkit", "-f", "-U", str(self.socket), "memory", str(self.size)]


class QemuNbd(Peer):
    name, program = "qemu-nbd", "qemu-nbd"

    def command(self, options: Sequence[str]) -> list[str]:
        return ["qemu-nbd", "-t", "-e", "8", "-f", "raw", "--cache=writeback", "--discard=unmap", "-x", "vol",
                "-k", str(self.socket), self._file()]  # fmt: skip


class BareFile(Peer):
    """fio straight on a fully written file, through the page cache: no server at all."""

    name, program = "fio on a file", "fio"

    @property
    def uri(self) -> str:
        return f"file:{self.folder / 'disk.img'}"

    @property
    def pid(self) -> int:
        return os.getpid()

    def start(self, options: Sequence[str] = (), wait: float = 60) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file()


PEERS: tuple[type[Peer], ...] = (Revolume, NbdkitFile, QemuNbd, NbdkitMemory, BareFile)
