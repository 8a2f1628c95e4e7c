"""A primary and its mirrors as processes, and what a test asks of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revolume.api.client import ControlClient, connect
from revolume.host import real_host
from revolume.nbd.client import Client

REVOLUME = str(Path(sys.executable).with_name("revolume"))
MiB = 1 << 20
SMALL = ("--segment-size", "1M", "--budget", "64M", "--spare", "4M")
SECONDS = 60


def revolume(
    *words: str | Path, status: int = 0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; ``environment`` is added to this process's."""
    command, env = [REVOLUME, *map(str, words)], {**os.environ, **(environment or {})}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert ended.returncode == status, f"{ended.returncode}: {words}\n{ended.stdout}\n{ended.stderr}"
    return ended


def refused(*words: str | Path, status: int = 4) -> dict[str, str]:
    """The error with which a verb ends."""
    error: dict[str, str] = json.loads(revolume(*words, "--json", status=status).stderr)["error"]
    return error


def told(*words: str | Path) -> Any:
    return json.loads(revolume(*words, "--json").stdout)


def until(what: str, happened: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What ``happened`` says at last."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:.0f} s")
        time.sleep(0.1)
    return found


class Node:
    """``revolume serve`` of one directory."""

    def __init__(self, directory: Path, *words: str | Path, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")
        with self.log.open("a") as said:
            self.process = subprocess.Popen(
                [REVOLUME, "serve", str(directory), *map(str, words)],
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**os.environ, **(environment or {})},
            )
        self.ready: list[str] = []
        mirror = "--mirror-listen" in words
        for _ in range(1 + mirror):
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, self.log.read_text()
            self.ready.append(line.strip())

    @property
    def link(self) -> str:
        """Where the mirror listens for its source."""
        return next(line.removeprefix("ready mirror ") for line in self.ready if "ready mirror" in line)

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = told("status", self.directory)
        return found

    @property
    def mirror(self) -> dict[str, Any]:
        """Its only one."""
        (found,) = self.status["mirrors"]
        return dict(found)

    def uri(self, export: str = "") -> str:
        return f"nbd+unix:///{export}?socket={self.directory}/nbd.sock"

    @property
    def control(self) -> ControlClient:
        """The control socket, as verbs ask it: polling with processes would take the machine."""
        found = connect(str(self.directory))
        assert found is not None
        return found

    def until_joined(self) -> None:
        until("the mirror joins", self._joined)

    def _joined(self) -> bool:
        with self.control as control:
            return bool(control.status()["mirrors"][0]["joined"])

    def until_agreed(self) -> None:
        """The mirror stands at the last point of a primary that nobody writes to."""

        def agreed() -> bool:
            with self.control as control:
                status, write = control.status(), control.points()["points"][-1]["write"]
            return status["mirrors"][0]["agreed_point"] == status["point"] and write == status["write"]

        until("the mirror agrees", agreed)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


def client(uri: str, job: Callable[[Client], Any]) -> Any:
    """Do something with an export, which ``job`` is given open."""

    async def run() -> Any:
        host = real_host()
        opened = await Client.connect(host, uri)
        try:
            return await job(opened)
        finally:
            await opened.close()
            await host.work.close()

    return asyncio.run(run())


def write(uri: str, *writes: tuple[int, bytes]) -> None:
    """Each of these is answered."""

    async def job(opened: Client) -> None:
        for offset, data in writes:
            await opened.write(offset, data)

    client(uri, job)


def read(uri: str) -> bytes:
    """All of it."""

    async def job(opened: Client) -> bytes:
        return bytes(await opened.read(0, opened.size))

    return bytes(client(uri, job))
