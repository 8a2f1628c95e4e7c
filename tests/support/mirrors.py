"""A primary and its mirrors as processes, and what a test asks of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from revolume.api.client import ControlClient, connect
from revolume.host import real_host
from revolume.nbd.client import Client
from tests.support import processes
from tests.support.processes import run_revolume, start_program
from tests.support.until import until

REVOLUME = str(processes.REVOLUME)
MiB = 1 << 20
SMALL = ("--segment-size", "1M", "--budget", "64M", "--spare", "4M")


def revolume(
    *words: str | Path, status: int = 0, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; ``environment`` is added to this process's."""
    ended = run_revolume([str(word) for word in words], environment or {}, 120)
    assert ended.returncode == status, f"{ended.returncode}: {words}\n{ended.stdout}\n{ended.stderr}"
    return ended


def refused(*words: str | Path, status: int = 4) -> dict[str, str]:
    """The error with which a verb ends."""
    error: dict[str, str] = json.loads(revolume(*words, "--json", status=status).stderr)["error"]
    return error


def told(*words: str | Path) -> Any:
    return json.loads(revolume(*words, "--json").stdout)


def promote(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Promote a mirror whose source is gone, as soon as it misses it."""
    until_source_is_missed(directory)
    return revolume("promote", directory, *words)


def until_source_is_missed(directory: Path) -> None:
    """A mirror, if it is served, has noticed that its source is gone: one that was just killed may still be taken
    as connected and alive."""
    until("it misses its source", lambda: not _has_source(directory))


def _has_source(directory: Path) -> bool:
    client = connect(str(directory))
    if client is None:
        return False
    with client:
        return bool((client.status().get("source") or {}).get("connected"))


class Node:
    """``revolume serve`` of one directory."""

    def __init__(self, directory: Path, *words: str | Path, environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.log = directory.with_suffix(".log")
        with self.log.open("a") as said:
            command = [REVOLUME, "serve", str(directory), *map(str, words)]
            self.process = start_program(command, environment or {}, stderr=said)
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
        """Of the running node, asked over its control socket; else of its directory."""
        client = connect(str(self.directory))
        if client is None:
            return dict(told("status", self.directory))
        with client:
            return client.status()

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
                write = control.points()["points"][-1]["write"]  # first: another point may be made in between
                status = control.status()
            return status["mirrors"][0]["agreed_point"] == status["point"] and write == status["write"]

        until("the mirror agrees", agreed)

    def until_logged(self, words: str) -> None:
        """What it logs is written by a thread of its own, which may come later than what is logged."""
        until(f"it logs {words!r}", lambda: words in self.log.read_text())

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
