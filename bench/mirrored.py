"""A volume with a mirror on the same machine, and what the machine has of the kind: qemu's mirror job.

Both ends, the load and the link share the same cores, so a mirrored figure beside an unmirrored one says what
mirroring costs where it costs most. The certificates for TLS are made for the run.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trustme

from bench.peers import NbdkitFile, Revolume


class Mirrored(Revolume):
    """`revolume serve --mirror-to` beside `revolume serve --mirror-listen`."""

    name = "revolume sync"
    mode, tls = "sync", False

    def __init__(self, root: Path, size: int) -> None:
        super().__init__(root, size)
        self.mirror: subprocess.Popen[bytes] | None = None

    @property
    def _link(self) -> str:
        """TLS is for TCP; a unix socket is plain."""
        return "127.0.0.1:10977" if self.tls else f"unix:{self.socket}.link"

    def _tls_options(self) -> list[str]:
        if not self.tls:
            return []
        place = self.folder / "pki"
        if not place.exists():
            make_certificates(place)
        return ["--tls-dir", str(place)]

    def command(self, options: Sequence[str]) -> list[str]:
        to = f"{self._link},mode={self.mode},name=m"
        return [*super().command(options), "--mirror-to", to, *self._tls_options()]

    def start(self, options: Sequence[str] = (), wait: float = 60) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "mirror.log").open("ab") as log:
            words = [self.program, "serve", str(self.folder / "mirror"), "--mirror-listen", self._link]
            self.mirror = subprocess.Popen([*words, *self._tls_options()], stdout=log, stderr=log)
        super().start(options, wait)
        self._until_joined(wait)

    def _until_joined(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._joined():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: the mirror does not join")
            time.sleep(0.2)

    def _joined(self) -> bool:
        """False also while the control socket is not there yet."""
        try:
            return bool(self.told()["joined"])
        except subprocess.CalledProcessError:
            return False

    def told(self) -> dict[str, Any]:
        """What the primary says of its mirror."""
        words = [self.program, "status", str(self.folder / "vol"), "--json"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)["mirrors"][0]
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        super().stop(how)
        if self.mirror is not None:
            self.mirror.send_signal(how)
            self.mirror.wait(120)
            self.mirror = None


class MirroredAsync(Mirrored):
    name, mode = "revolume async", "async"


class MirroredTls(Mirrored):
    name, tls = "revolume sync TLS", True


class MirroredAsyncTls(Mirrored):
    name, mode, tls = "revolume async TLS", "async", True


class QemuMirror(NbdkitFile):
    """qemu-storage-daemon with a mirror job (write-blocking) onto a file that qemu-nbd serves."""

    name, program = "qemu mirror job", "qemu-storage-daemon"

    def __init__(self, root: Path, size: int) -> None:
        super().__init__(root, size)
        self.target: subprocess.Popen[bytes] | None = None

    def command(self, options: Sequence[str]) -> list[str]:
        return [  # in the order in which it does them: who has met its NBD socket finds the other sockets
            self.program,
            "--chardev", f"socket,id=q,path={self.socket}.qmp,server=on,wait=off", "--monitor", "chardev=q",
            "--blockdev", f"driver=file,node-name=f,filename={self._file()},cache.direct=off",
            "--blockdev", "driver=raw,node-name=vol,file=f,discard=unmap",
            "--blockdev", f"driver=nbd,node-name=copy,server.type=unix,server.path={self.socket}.copy",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
            "--export", "type=nbd,id=e,node-name=vol,name=vol,writable=on",
        ]  # fmt: skip

    def start(self, options: Sequence[str] = (), wait: float = 60) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = self.folder / "copy.img"
        with copy.open("wb") as file:
            file.truncate(self.size)
        there = Path(f"{self.socket}.copy")
        there.unlink(missing_ok=True)
        self.target = subprocess.Popen(
            ["qemu-nbd", "-t", "-f", "raw", "--cache=writeback", "-k", str(there), str(copy)]
        )
        deadline = time.monotonic() + wait
        while not there.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)  # it has its name before it listens
        super().start(options, wait)
        with self._monitor() as ask:
            ask("qmp_capabilities")
            job = {"job-id": "m", "device": "vol", "target": "copy", "sync": "full", "copy-mode": "write-blocking"}
            ask("blockdev-mirror", **job)
            deadline = time.monotonic() + wait
            while not any(found["id"] == "m" and found["status"] == "ready" for found in ask("query-jobs")):
                if time.monotonic() > deadline:
                    raise RuntimeError("qemu's mirror job does not get ready")
                time.sleep(0.1)

    @contextlib.contextmanager
    def _monitor(self) -> Iterator[Any]:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(f"{self.socket}.qmp")
            file = monitor.makefile("rw")
            file.readline()

            def ask(what: str, **arguments: object) -> Any:
                file.write(json.dumps({"execute": what, "arguments": arguments}) + "\n")
                file.flush()
                while "return" not in (answer := json.loads(file.readline())):
                    if "error" in answer:
                        raise RuntimeError(f"qemu: {what}: {answer['error']['desc']}")
                return answer["return"]

            yield ask

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        super().stop(how)
        if self.target is not None:
            self.target.terminate()
            self.target.wait(60)
            self.target = None


MIRRORED: tuple[type[Mirrored], ...] = (Mirrored, MirroredAsync, MirroredTls, MirroredAsyncTls)


def make_certificates(place: Path, *names: str) -> None:
    """An authority, and one certificate for both ends."""
    place.mkdir(parents=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca-cert.pem"))
    for role in ("server", "client"):
        made = authority.issue_cert("localhost", "127.0.0.1", *names)
        made.private_key_pem.write_to_path(str(place / f"{role}-key.pem"))
        with (place / f"{role}-cert.pem").open("wb") as file:
            for piece in made.cert_chain_pems:
                file.write(piece.bytes())
