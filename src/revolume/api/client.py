"""The verbs' side of the control socket: ask a running volume, get plain values or the error it raised.

``connect`` is the cheap question "is it running?": one connection attempt. Every answer that is no success becomes
the RevolumeError that the volume raised. Nothing here needs more than a socket and JSON, so that a verb is not
slower than the volume's answer (an HTTP library is a tenth of a second of imports).

Whoever could make a socket in the directory could answer on it. So it must belong to us, to root or, where we are
root, to the directory's owner; and no text of an answer can hold control characters.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import quote

from revolume.api.problems import error_from
from revolume.errors import Refused, RevolumeError
from revolume.host.text import harmless

SOCKET_NAME: Final = "control.sock"
_TIMEOUT_S: Final = 60.0
_PROMOTION_S: Final = 3600.0
"""A promotion reads all that the mirror has not dealt with yet."""
_ANSWER_BYTES_MAX: Final = 256 << 20
_HEAD_BYTES_MAX: Final = 64 << 10


def connect(directory: str, timeout_s: float = _TIMEOUT_S) -> ControlClient | None:
    """A client of the volume running in ``directory``, if one is. Raises OSError if it may not be asked, Refused
    if somebody else answers there, TimeoutError if nobody accepts within ``timeout_s``."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    client = ControlClient(descriptor, os.path.join(directory, SOCKET_NAME))
    try:
        client.dial(timeout_s).close()
    except (FileNotFoundError, ConnectionRefusedError):
        client.close()
        return None
    except OSError as error:
        client.close()
        error.filename = client.path
        raise
    except BaseException:
        client.close()
        raise
    return client


class ControlClient:
    """Questions to one running volume. The answers are the JSON of ``api.shapes``."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self.path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def dial(self, timeout_s: float) -> socket.socket:
        """A connection to the volume's own server, and to nobody else's."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(f"/proc/self/fd/{self._descriptor}/{SOCKET_NAME}")
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            us = os.geteuid()
            if uid not in (us, 0) and not (us == 0 and uid == os.fstat(self._descriptor).st_uid):
                raise Refused(
                    "not-ours", f"{self.path} belongs to a process of another user (uid {uid}).",
                    "Ask as that user, if you trust whoever it is.",
                )  # fmt: skip
            return connection
        except BaseException:
            connection.close()
            raise

    def status(self, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
        return self._object("GET", "/v1/status", None, timeout_s)

    def points(self, at: str | None = None) -> dict[str, Any]:
        return self._object("GET", "/v1/points" + ("" if at is None else f"?at={quote(at, safe='')}"))

    def cut(self) -> dict[str, Any]:
        return self._object("POST", "/v1/points")

    def snapshots(self) -> list[dict[str, Any]]:
        answer = self._ask("GET", "/v1/snapshots")
        return answer if isinstance(answer, list) else []

    def snapshot(self, name: str) -> dict[str, Any]:
        return self._object("POST", "/v1/snapshots", {"name": name})

    def drop_snapshot(self, name: str) -> None:
        self._ask("DELETE", f"/v1/snapshots/{quote(name, safe='')}")

    def grow(self, size: int) -> int:
        return int(self._object("POST", "/v1/grow", {"size": size})["size"])

    def promote(
        self, addresses: Sequence[str] = (), others: Sequence[str] = (), yes: bool = False
    ) -> dict[str, Any]:
        asked = {"nbd": list(addresses), "others": list(others), "yes": yes}
        return self._object("POST", "/v1/promote", asked, _PROMOTION_S)

    def detach(self, name: str) -> None:
        self._ask("DELETE", f"/v1/mirrors/{quote(name, safe='')}")

    def replace_mirror(self, name: str, yes: bool) -> str:
        return str(self._object("POST", f"/v1/mirrors/{quote(name, safe='')}", {"yes": yes})["told"])

    def _object(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = _TIMEOUT_S
    ) -> dict[str, Any]:
        answer = self._ask(method, path, body, timeout_s)
        if not isinstance(answer, dict):
            raise _not_understood(path)
        return answer

    def _ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float = _TIMEOUT_S
    ) -> Any:
        try:
            status, content = self._exchange(method, path, body, timeout_s)
            answer = harmless(json.loads(content)) if content else None
        except TimeoutError as error:
            raise _timed_out(path, timeout_s) from error
        except OSError as error:
            hint = "See what it logged; then ask again, or start it again."
            raise RevolumeError("volume-gone", f"The volume stopped answering: {error}.", hint) from error
        except ValueError as error:
            raise _not_understood(path) from error
        if 200 <= status < 300:
            return answer
        raise error_from(answer if isinstance(answer, dict) else {})

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float
    ) -> tuple[int, bytes]:
        """One request on a connection of its own: in HTTP/1.0 the answer ends where the stream does."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.0\r\nHost: volume\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        with self.dial(timeout_s) as connection:
            connection.sendall(head.encode() + content)
            answer = _until_the_end(connection)
        return _parsed(answer)


def _until_the_end(connection: socket.socket) -> bytes:
    answer = bytearray()
    while piece := connection.recv(1 << 18):
        answer += piece
        if len(answer) > _ANSWER_BYTES_MAX:
            raise ValueError("an answer without end")
    return bytes(answer)


def _parsed(answer: bytes) -> tuple[int, bytes]:
    """Status and content. ConnectionError: it ends too early; ValueError: it is no answer."""
    head, end, content = answer.partition(b"\r\n\r\n")
    if not end:
        raise ConnectionError("its answer ended too early")
    lines = head[:_HEAD_BYTES_MAX].decode("latin-1").split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
    status = lines[0].split(" ")
    if len(status) < 2 or not status[0].startswith("HTTP/1."):
        raise ValueError(lines[0])
    if "content-length" in fields and len(content) < int(fields["content-length"]):
        raise ConnectionError("its answer ended too early")
    return int(status[1]), content


def _timed_out(path: str, timeout_s: float) -> RevolumeError:
    error = RevolumeError("timed-out", f"The volume did not answer {path} within {timeout_s:.0f} seconds.")
    error.exit_status = 6
    return error


def _not_understood(path: str) -> RevolumeError:
    hint = "Use the revolume that serves the volume."
    return RevolumeError("bad-answer", f"The volume's answer to {path} makes no sense.", hint)
