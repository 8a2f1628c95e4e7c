"""A small blocking NBD client on nothing but the standard library.

It exists to judge: it shares no code with the server or with `revolume.nbd.client`, it speaks the plain
subset (fixed newstyle, GO, simple replies) that every server must serve, and it lets a test send what a
polite client would not. Requests may be pipelined: `send` returns a cookie, `receive` the next answer in
whatever order.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, BLOCK_STATUS = range(8)
FUA = 1

_REQUEST = struct.Struct(">IHHQQI")  # magic, flags, type, cookie, offset, length
_REPLY = struct.Struct(">IIQ")  # magic, error, cookie
_OPTION = struct.Struct(">8sII")  # IHAVEOPT, option, length
_OPTION_REPLY = struct.Struct(">QIII")  # magic, option, type, length

_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_OPT_GO, _REP_ACK, _REP_INFO, _INFO_EXPORT = 7, 1, 3, 0


class WireError(Exception):
    """The server answered a request with an error; ``errno`` is NBD's number."""

    def __init__(self, errno: int, what: str) -> None:
        super().__init__(f"{what}: NBD error {errno}")
        self.errno = errno


def dial(uri: str, timeout: float = 60) -> tuple[socket.socket, str]:
    """A connected socket and the export name of an ``nbd://`` or ``nbd+unix://`` URI."""
    parts = urlsplit(uri)
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(parse_qs(parts.query)["socket"][0])
    else:
        sock = socket.create_connection((parts.hostname, parts.port or 10809), timeout=timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, name


class Wire:
    """One connection in its transmission phase."""

    def __init__(self, uri: str, timeout: float = 60) -> None:
        self.socket, name = dial(uri, timeout)
        self._cookie = 0
        self._reads: dict[int, int] = {}
        self.size, self.flags = self._handshake(name.encode())

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.send(DISC)
        self.socket.close()

    # -- handshake

    def _handshake(self, name: bytes) -> tuple[int, int]:
        magic, opts, flags = struct.unpack(">8s8sH", self._exactly(18))
        assert (magic, opts) == (b"NBDMAGIC", b"IHAVEOPT"), "not an NBD server"
        assert flags & 1, "not a fixed newstyle server"
        self.socket.sendall(struct.pack(">I", flags & 3))
        data = struct.pack(f">I{len(name)}sH", len(name), name, 0)
        self.socket.sendall(_OPTION.pack(b"IHAVEOPT", _OPT_GO, len(data)) + data)
        export = None
        while True:
            _, _, kind, length = _OPTION_REPLY.unpack(self._exactly(_OPTION_REPLY.size))
            body = self._exactly(length)
            if kind == _REP_INFO and struct.unpack_from(">H", body)[0] == _INFO_EXPORT:
                export = struct.unpack_from(">QH", body, 2)
            elif kind == _REP_ACK:
                assert export is not None, "GO was acknowledged without INFO_EXPORT"
                return export
            elif kind & 1 << 31:
                raise WireError(kind & 0xFFFF, f"GO {name!r} refused: {body.decode(errors='replace')}")

    # -- requests

    def send(self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0) -> int:
        self._cookie += 1
        if kind == READ:
            self._reads[self._cookie] = length
        head = _REQUEST.pack(_REQUEST_MAGIC, flags, kind, self._cookie, offset, len(data) or length)
        self.socket.sendall(head + data)
        return self._cookie

    def receive(self) -> tuple[int, int, bytes]:
        """(cookie, error, data) of the next answer."""
        magic, error, cookie = _REPLY.unpack(self._exactly(_REPLY.size))
        assert magic == _REPLY_MAGIC, f"reply magic is {magic:#x}: the stream is out of step"
        length = self._reads.pop(cookie, 0)
        return cookie, error, self._exactly(length) if length and not error else b""

    def _call(self, what: str, kind: int, offset: int, length: int, data: bytes, flags: int) -> bytes:
        cookie = self.send(kind, offset, length, data, flags)
        answered, error, body = self.receive()
        assert answered == cookie, "answer to another request"
        if error:
            raise WireError(error, f"{what} {offset}+{len(data) or length}")
        return body

    def pread(self, offset: int, length: int) -> bytes:
        return self._call("read", READ, offset, length, b"", 0)

    def pwrite(self, offset: int, data: bytes, flags: int = 0) -> None:
        self._call("write", WRITE, offset, 0, data, flags)

    def flush(self) -> None:
        self._call("flush", FLUSH, 0, 0, b"", 0)

    def trim(self, offset: int, length: int) -> None:
        self._call("trim", TRIM, offset, length, b"", 0)

    def zero(self, offset: int, length: int) -> None:
        self._call("zero", ZEROES, offset, length, b"", 0)

    def pieces(self, piece: int = 1 << 20, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The export's content in order, two requests in flight."""
        stop = self.size if end is None else end
        spans = [(at, min(piece, stop - at)) for at in range(start, stop, piece)]
        for at, length in spans[:2]:
            self.send(READ, at, length)
        early: dict[int, bytes] = {}
        first = self._cookie - len(spans[:2]) + 1
        for index, (at, _length) in enumerate(spans):
            while first + index not in early:
                cookie, error, data = self.receive()
                if error:
                    raise WireError(error, f"read near {at}")
                early[cookie] = data
            yield early.pop(first + index)
            if index + 2 < len(spans):
                self.send(READ, *spans[index + 2])

    def _exactly(self, count: int) -> bytes:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            got = self.socket.recv_into(view)
            if not got:
                raise ConnectionError("the server closed the connection")
            view = view[got:]
        return bytes(buffer)


def digest(uri: str) -> str:
    """A digest of a whole export, read over the wire."""
    summed = hashlib.sha256()
    with Wire(uri) as wire:
        for piece in wire.pieces():
            summed.update(piece)
    return summed.hexdigest()
