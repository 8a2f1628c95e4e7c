"""A primary and its mirror as real processes, with a cable between them that can be cut."""

from __future__ import annotations

import contextlib
import json
import random
import selectors
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from revolume.api.client import connect
from tests.support.mirrors import promote
from tests.support.servers import LITTLE, REVOLUME, Server, revolume
from tests.support.until import until

MiB = 1 << 20


Place = Path | tuple[str, int]
"""Of a socket: a unix socket's path, or a TCP address."""


def socket_for(place: Place) -> socket.socket:
    return socket.socket(socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET)


def address_of(place: Place) -> str:
    """As the command line has it."""
    return f"unix:{place}" if isinstance(place, Path) else f"{place[0]}:{place[1]}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Weather:
    """How bytes travel: so many at most at once, so long between them, in how many parts, and how often (of all
    pieces) one bit of a piece is turned over."""

    piece: int = 1 << 18
    pause_s: float = 0.0
    parts: int = 1
    flips: float = 0.0


FAIR = Weather()
TRICKLE = Weather(piece=4096, pause_s=0.005)
SPLIT = Weather(parts=6, pause_s=0.0003)
CORRUPT = Weather(flips=0.02)


class Cable(threading.Thread):
    """Carries bytes from a socket of its own to another, until it is cut. `spoken`: what came from the near end of
    the newest connection, the beginning of it. `weather` may be changed at any time; `flipped` counts the bits."""

    def __init__(self, near: Place, far: Place) -> None:
        super().__init__(daemon=True)
        self.near, self.far = near, far
        self.listener = socket_for(near)
        self.listener.bind(str(near) if isinstance(near, Path) else near)
        self.listener.listen(8)
        self.whole = True
        self.ended = False
        self.carried = 0
        self.weather = FAIR
        self.flipped = 0
        self._chance = random.Random(0)
        self._swallowed: set[socket.socket] = set()
        self.spoken = bytearray()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.start()

    def run(self) -> None:
        while not self.ended:
            try:
                taken, _ = self.listener.accept()
            except OSError:
                return
            there = socket_for(self.far)
            try:
                if not self.whole:
                    raise ConnectionRefusedError
                there.connect(str(self.far) if isinstance(self.far, Path) else self.far)
            except OSError:
                taken.close()
                there.close()
                continue
            with self._lock:
                self._pairs.append((taken, there))
            threading.Thread(target=self._carry, args=(taken, there), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        self.spoken = spoken = bytearray()
        selector = selectors.DefaultSelector()
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        with contextlib.suppress(OSError, ValueError):
            while True:
                for key, _ in selector.select():
                    data = key.fileobj.recv(self.weather.piece)  # type: ignore[union-attr]
                    if not data:
                        raise ConnectionResetError
                    if key.fileobj in self._swallowed:
                        continue
                    self._pass_on(key.data, data)
                    self.carried += len(data)
                    if key.fileobj is one and len(spoken) < MiB:
                        spoken += data
        self._drop(one, other)

    def _pass_on(self, to: socket.socket, data: bytes) -> None:
        weather, chance = self.weather, self._chance
        if weather.flips and chance.random() < weather.flips:
            bent = bytearray(data)
            bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
            data = bytes(bent)
            self.flipped += 1
        ends = sorted(chance.randrange(len(data) + 1) for _ in range(weather.parts - 1))
        for begin, end in zip([0, *ends], [*ends, len(data)], strict=True):
            to.sendall(data[begin:end])
            if weather.pause_s:
                time.sleep(weather.pause_s)

    def swallow(self, *, near: bool = True, far: bool = True) -> None:
        """Half-open: what is connected now seems to stay so, and nothing that its near end (or far end) sends
        arrives any more. What connects later is whole."""
        with self._lock:
            for taken, there in self._pairs:
                self._swallowed |= ({taken} if near else set()) | ({there} if far else set())

    def _drop(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self) -> None:
        """Everything connected is torn, nothing new gets through."""
        self.whole = False
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._drop(*pair)

    def mend(self) -> None:
        self.whole = True

    def close(self) -> None:
        self.ended = True
        self.cut()
        self.listener.close()


@dataclass
class MirrorServer(Server):
    """`revolume serve DIR --mirror-listen`: size and name come from its source."""

    listen: str = ""

    def _command_revolume(self) -> list[str]:
        self._place(any_port=True)
        command = [str(REVOLUME), "serve", str(self.directory), "--mirror-listen", self.listen]
        command += ["--nbd", f"unix:{self.address}" if self.unix else self.address]
        another = {"--segment-size": "16MiB"}  # than the primary's: no place can be assumed
        return [*command, *self.unless_given(LITTLE | another), *self.options]


@dataclass
class Pair:
    """A primary, a mirror, a cable. `start` starts both and waits until the mirror is whole. With `pki` the link
    is TCP under mutual TLS; `transport` is the primary's clients'. `places`: of the primary ("p") or the mirror
    ("m"), where they shall not be folders in `folder`."""

    folder: Path
    size: int = 64 * MiB
    mode: str = "sync"
    options: tuple[str, ...] = ("--cp-interval", "1s")
    mirror_options: tuple[str, ...] = ()
    transport: str = "unix"
    pki: Path | None = None
    places: dict[str, Path] = field(default_factory=dict)
    primary: Server = field(init=False)
    mirror: MirrorServer = field(init=False)
    cable: Cable = field(init=False)
    to: str = field(init=False)  # as --mirror-to has it

    def __post_init__(self) -> None:
        at = {name: self.places.get(name, self.folder / name) for name in ("p", "m")}
        for place in at.values():
            place.mkdir(mode=0o755, exist_ok=True)
        near: Place = self.folder / "cable"
        far: Place = self.folder / "link"
        tls: tuple[str, ...] = ()
        if self.pki is not None:
            near, far = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
            tls = ("--tls-dir", str(self.pki))
        self.cable = Cable(near, far)
        self.to = f"{address_of(near)},mode={self.mode},name=m"
        options = (*self.options, *tls, "--mirror-to", self.to)
        self.primary = Server(at["p"], self.size, self.transport, options=options, persistent=True)
        self.mirror = MirrorServer(
            at["m"], self.size, options=(*self.mirror_options, *tls), persistent=True,
            listen=address_of(far),
        )  # fmt: skip

    def start(self) -> Pair:
        self.mirror.start()
        self.primary.start()
        self.until_joined()
        return self

    def until_joined(self, seconds: float = 60) -> None:
        """The mirror has the base and the log."""
        self.wait("the mirror joins", lambda: self.state()["joined"], seconds)

    def state(self) -> dict[str, Any]:
        """What the primary says of its mirror."""
        found: dict[str, Any] = self.status(self.primary)["mirrors"][0]
        return found

    @staticmethod
    def status(server: Server) -> dict[str, Any]:
        """Asked over the control socket, as the verb does it; polling with processes would take the machine."""
        client = connect(str(server.directory))
        if client is None:
            return dict(json.loads(revolume("status", server.directory, "--json")))
        with client:
            return client.status()

    def until_equal(self, seconds: float = 60) -> None:
        """A point is made; the mirror agrees to it."""
        try:
            self.wait("the mirror agrees to the last point", self._equal, seconds)
        except pytest.fail.Exception as error:
            pytest.fail(f"{json.dumps([self.status(server) for server in (self.primary, self.mirror)])}\n{error}")

    def _equal(self) -> bool:
        """The last point is of the last write: one is made if anything has changed since the one before."""
        client = connect(str(self.primary.directory))
        assert client is not None
        with client:
            client.cut()
            here, last = client.status(), client.points()["points"][-1]
        mirror = here["mirrors"][0]
        whole = here["position"] == mirror["durable"]
        return bool(whole and mirror["agreed_point"] == here["point"] == last["number"])

    def wait(self, what: str, happened: Callable[[], Any], seconds: float = 60) -> None:
        until(what, happened, seconds, self.said)

    def said(self) -> str:
        return f"primary:\n{self.primary.said()}\nmirror:\n{self.mirror.said()}"

    def promote(self, *words: str) -> None:
        promote(self.mirror.directory, *words)

    def lose_primary(self) -> None:
        """The machine is gone, and its disk."""
        if self.primary.process is not None:
            self.primary.kill()
        shutil.rmtree(self.primary.directory)

    def close(self) -> None:
        self.cable.close()
        for server in (self.primary, self.mirror):
            if server.process is not None:
                server.kill()
        print(self.said())  # shown with a failing test


@contextlib.contextmanager
def pair(folder: Path, **more: Any) -> Iterator[Pair]:
    """A pair, started, and ended whatever happens."""
    made = Pair(folder, **more)
    try:
        yield made.start()
    finally:
        made.close()
