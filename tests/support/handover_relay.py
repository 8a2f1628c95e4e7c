"""A cable between a source and its mirror that breaks at a handover: before it, or behind it with the answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from revolume.mirror.wire.frames import FRAME, FRAME_SIZE, Type


class HandoverRelay(threading.Thread):
    """From the unix socket ``near`` to ``far``. ``passes``: HANDOVER still arrives. ``broken``: it has been said;
    nothing is carried from then on, and nobody is told, until ``mend``."""

    def __init__(self, near: Path, far: Path, *, passes: bool) -> None:
        super().__init__(daemon=True)
        self.far, self.passes = far, passes
        self.broken = threading.Event()
        self._mended = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(near))
        self._listener.listen()
        self.start()

    def mend(self) -> None:
        """What connects from now on is carried, whatever it says."""
        self._mended.set()

    def run(self) -> None:
        while True:
            here, _ = self._listener.accept()
            there = socket.socket(socket.AF_UNIX)
            try:
                if self.broken.is_set() and not self._mended.is_set():
                    raise ConnectionRefusedError
                there.connect(str(self.far))
            except OSError:
                here.close()
                there.close()
                continue
            for ends in ((here, there, True), (there, here, False)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket, forth: bool) -> None:
        with contextlib.suppress(OSError):
            while (frame := _frame(one)) is not None:
                said = forth and frame[4] == Type.HANDOVER and not self._mended.is_set()
                if said:
                    self.broken.set()
                if not self.broken.is_set() or self._mended.is_set() or (said and self.passes):
                    other.sendall(frame)
            if self.broken.is_set() and not self._mended.is_set():
                return  # the end is not told either
            other.shutdown(socket.SHUT_WR)


def _frame(end: socket.socket) -> bytes | None:
    """The next one, whole; None at the end."""
    header = _exactly(end, FRAME_SIZE)
    return None if header is None else header + (_exactly(end, FRAME.unpack(header)[0]) or b"")


def _exactly(end: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        piece = end.recv(size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
