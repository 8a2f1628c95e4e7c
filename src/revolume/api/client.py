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
import time
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import quote

from revolume.api.problems import error_from
from revolume.errors import NotFound, Refused, RevolumeError, TimedOut
from revolume.host.stopped_process import is_stopped
from revolume.host.text import harmless
from revolume.volume.metadata.layout import CONTROL_SOCKET

_TIMEOUT_S: Final = 60.0
_PROMOTION_S: Final = 3600.0
_RESTORE_S: Final = 3600.0
"""A promotion reads all that the mirror has not dealt with yet."""
_LOOK_S: Final = 3.0
"""After so long without an answer it is looked whether the process is stopped: it accepts, and answers nobody."""
_ANSWER_BYTES_MAX: Final = 256 << 20
_HEAD_BYTES_MAX: Final = 64 << 10


def connect(directory: str, timeout_s: float = _TIMEOUT_S) -> ControlClient | None:
    """A client of the volume running in ``directory``, if one is. Raises OSError if it may not be asked, Refused
    if somebody else answers there, TimeoutError if nobody accepts within ``timeout_s``."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    client = ControlClient(descriptor, os.path.join(directory, CONTROL_SOCKET))
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
    """Asks one running volume over its control socket. Answers are JSON in the shapes of ``api.schemas``; an
    answer that is no success is raised as the RevolumeError that the volume raised."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self.path = path
        self.pid = 0
        """Of the process that answers there; 0: not known."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directory's descriptor. Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def dial(self, timeout_s: float) -> socket.socket:
        """Connect to the volume's own server. Refused: the socket belongs to another user."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(f"/proc/self/fd/{self._descriptor}/{CONTROL_SOCKET}")
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            self.pid, uid, _ = struct.unpack("3i", peer)
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

    def status(self, timeout_s: float = _TIMEOUT_S, *, patient: bool = False) -> dict[str, Any]:
        """``patient``: a process that is stopped by a signal is waited for too, since it may be continued."""
        return self._object("GET", "/v1/status", None, timeout_s, patient)

    def points(self, at: str | None = None) -> dict[str, Any]:
        return self._object("GET", "/v1/points" + ("" if at is None else f"?at={quote(at, safe='')}"))

    def changes(self, start: int, end: int, limit: int) -> list[dict[str, Any]]:
        answer = self._ask("GET", f"/v1/changes?start={start}&end={end}&limit={limit}")
        return answer if isinstance(answer, list) else []

    def proofs(self) -> list[dict[str, Any]]:
        """None where an older version answers."""
        try:
            answer = self._ask("GET", "/v1/proofs")
        except NotFound:
            return []
        return answer if isinstance(answer, list) else []

    def prove(self, write: int, verdict: str, duration_ms: int, command: str) -> dict[str, Any]:
        asked = {"write": write, "verdict": verdict, "duration_ms": duration_ms, "command": command}
        return self._object("POST", "/v1/proofs", asked)

    def usage(self) -> dict[str, Any]:
        return self._object("GET", "/v1/usage")

    def cut(self) -> dict[str, Any]:
        return self._object("POST", "/v1/points")

    def snapshots(self) -> list[dict[str, Any]]:
        answer = self._ask("GET", "/v1/snapshots")
        return answer if isinstance(answer, list) else []

    def snapshot(self, name: str, expires_s: float = 0.0) -> dict[str, Any]:
        return self._object("POST", "/v1/snapshots", {"name": name, "expires": expires_s})

    def hold_snapshot(self, name: str, held: bool) -> None:
        self._ask("PATCH", f"/v1/snapshots/{quote(name, safe='')}", {"held": held})

    def drop_snapshot(self, name: str) -> None:
        self._ask("DELETE", f"/v1/snapshots/{quote(name, safe='')}")

    def drop_branch(self, name: str) -> None:
        self._ask("DELETE", f"/v1/branches/{quote(name, safe='')}")

    def make_clone(self, name: str, moment: str, at: str = "", suspect: bool = False) -> dict[str, Any]:
        asked = {"name": name, "moment": moment, "at": at, "suspect": suspect}
        return self._object("POST", "/v1/clones", asked, _PROMOTION_S)

    def drop_clone(self, name: str) -> None:
        self._ask("DELETE", f"/v1/clones/{quote(name, safe='')}", None, _PROMOTION_S)

    def grow(self, size: int) -> int:
        return int(self._object("POST", "/v1/grow", {"size": size})["size"])

    def kept(self) -> dict[str, Any]:
        return self._object("GET", "/v1/keep")

    def keep(self, **order: str | int | bool | None) -> dict[str, Any]:
        """``order``: policy, budget, when_full, dry_run."""
        return self._object("POST", "/v1/keep", order)

    def promote(
        self, addresses: Sequence[str] = (), others: Sequence[str] = (), yes: bool = False
    ) -> dict[str, Any]:
        asked = {"nbd": list(addresses), "others": list(others), "yes": yes}
        return self._object("POST", "/v1/promote", asked, _PROMOTION_S)

    def demote(self, listen: str | None = None, yes: bool = False) -> dict[str, Any]:
        return self._object("POST", "/v1/demote", {"listen": listen, "yes": yes}, _PROMOTION_S)

    def switch_over(self, name: str, listen: str | None = None) -> dict[str, Any]:
        return self._object("POST", "/v1/switchover", {"to": name, "listen": listen}, _PROMOTION_S)

    def restore(self, to: str, **orders: bool | float | None) -> dict[str, Any]:
        """``orders``: undo, begin, end, dry_run, yes, disconnect, undo_for."""
        return self._object("POST", "/v1/restore", {"to": to, **orders}, _RESTORE_S)

    def detach(self, name: str) -> None:
        self._ask("DELETE", f"/v1/mirrors/{quote(name, safe='')}", None, _PROMOTION_S)

    def replace_mirror(self, name: str, yes: bool) -> str:
        path = f"/v1/mirrors/{quote(name, safe='')}"
        return str(self._object("POST", path, {"yes": yes}, _PROMOTION_S)["told"])

    def add_mirror(self, name: str, address: str, **more: str | float | None) -> dict[str, Any]:
        """``more``: mode, history, peer, on_lost, deadline."""
        return self._object("POST", "/v1/mirrors", {"name": name, "address": address, **more})

    def set_mirror(self, name: str, **changes: str | float | None) -> dict[str, Any]:
        """``changes``: address, mode, peer, on_lost, deadline."""
        return self._object("PATCH", f"/v1/mirrors/{quote(name, safe='')}", changes, _PROMOTION_S)

    def resync(self, names: Sequence[str], prefer: str, **orders: bool | int | str | None) -> list[dict[str, Any]]:
        """``orders``: take_back, dry_run, rate, window, cancel."""
        answer = self._ask("POST", "/v1/resync", {"mirrors": list(names), "prefer": prefer, **orders})
        return answer if isinstance(answer, list) else []

    def start_job(self, kind: str, **orders: Any) -> dict[str, Any]:
        """``orders``: JSON values, as the kind of job takes them."""
        return self._object("POST", "/v1/jobs", {"kind": kind, **orders})

    def jobs(self) -> list[dict[str, Any]]:
        answer = self._ask("GET", "/v1/jobs")
        return answer if isinstance(answer, list) else []

    def job(self, identity: str) -> dict[str, Any]:
        return self._object("GET", f"/v1/jobs/{quote(identity, safe='')}")

    def cancel_job(self, identity: str) -> dict[str, Any]:
        return self._object("DELETE", f"/v1/jobs/{quote(identity, safe='')}")

    def _object(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float = _TIMEOUT_S,
        patient: bool = False,
    ) -> dict[str, Any]:
        answer = self._ask(method, path, body, timeout_s, patient)
        if not isinstance(answer, dict):
            raise _not_understood(path)
        return answer

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        timeout_s: float = _TIMEOUT_S,
        patient: bool = False,
    ) -> Any:
        try:
            status, content = self._exchange(method, path, body, timeout_s, patient)
            answer = harmless(json.loads(content)) if content else None
        except TimeoutError as error:
            raise self._timed_out(path, timeout_s) from error
        except OSError as error:
            hint = "See what it logged; then ask again, or start it again."
            raise RevolumeError("volume-gone", f"The volume stopped answering: {error}.", hint) from error
        except ValueError as error:
            raise _not_understood(path) from error
        if 200 <= status < 300:
            return answer
        raise error_from(answer if isinstance(answer, dict) else {})

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float, patient: bool
    ) -> tuple[int, bytes]:
        """One request on a connection of its own: in HTTP/1.0 the answer ends where the stream does."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.0\r\nHost: volume\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        with self.dial(timeout_s) as connection:
            connection.sendall(head.encode() + content)
            answer = self._until_the_end(connection, time.monotonic() + timeout_s, patient)
        return _parsed(answer)

    def _until_the_end(self, connection: socket.socket, deadline: float, patient: bool) -> bytes:
        answer = bytearray()
        while piece := self._received(connection, deadline, patient):
            answer += piece
            if len(answer) > _ANSWER_BYTES_MAX:
                raise ValueError("an answer without end")
        return bytes(answer)

    def _received(self, connection: socket.socket, deadline: float, patient: bool) -> bytes:
        """Its next piece. TimeoutError at the deadline; TimedOut as soon as its process is seen to be stopped."""
        while (left := deadline - time.monotonic()) > 0:
            connection.settimeout(min(left, _LOOK_S))
            try:
                return connection.recv(1 << 18)
            except TimeoutError:
                if not patient and left > _LOOK_S and is_stopped(self.pid):
                    raise _stopped(self.pid) from None
        raise TimeoutError

    def _timed_out(self, path: str, timeout_s: float) -> RevolumeError:
        who = f"The volume's process (PID {self.pid})" if self.pid else "The volume"
        hint = _continue(self.pid) if is_stopped(self.pid) else "See what it logged; 'revolume wait' waits for it."
        return TimedOut("timed-out", f"{who} did not answer {path} within {timeout_s:.0f} seconds.", hint)


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


def _stopped(pid: int) -> TimedOut:
    cause = f"The volume's process (PID {pid}) does not answer: it was stopped by a signal."
    return TimedOut("process-stopped", cause, _continue(pid))


def _continue(pid: int) -> str:
    return f"Let it go on with: kill -CONT {pid}"


def _not_understood(path: str) -> RevolumeError:
    hint = "Use the revolume that serves the volume."
    return RevolumeError("bad-answer", f"The volume's answer to {path} makes no sense.", hint)
