"""The verbs' side of the control socket: ask a running volume, get plain values or the error it raised.

``connect`` is the cheap question "is it running?": one connection attempt, before an HTTP library is
imported. Every answer that is no success becomes the RevolumeError that the volume raised.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, Final, Self
from urllib.parse import quote

from revolume.api.problems import error_from
from revolume.errors import RevolumeError

SOCKET_NAME: Final = "control.sock"
_TIMEOUT_S: Final = 60.0
_PROMOTION_S: Final = 3600.0
"""A promotion reads all that the mirror has not dealt with yet."""


def connect(directory: str) -> ControlClient | None:
    """A client of the volume running in ``directory``, if one is. Raises OSError if it may not be asked."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    path = f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            os.close(descriptor)
            return None
        except OSError as error:
            os.close(descriptor)
            error.filename = os.path.join(directory, SOCKET_NAME)
            raise
    return ControlClient(descriptor, path)


class ControlClient:
    """Questions to one running volume. The answers are the JSON of ``api.shapes``."""

    def __init__(self, descriptor: int, path: str) -> None:
        import httpx2

        self._descriptor = descriptor
        transport = httpx2.HTTPTransport(uds=path)
        self._http = httpx2.Client(transport=transport, base_url="http://volume", timeout=_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()
        os.close(self._descriptor)

    def status(self) -> dict[str, Any]:
        return self._object("GET", "/v1/status")

    def points(self, at: str | None = None) -> dict[str, Any]:
        return self._object("GET", "/v1/points", params={} if at is None else {"at": at})

    def cut(self) -> dict[str, Any]:
        return self._object("POST", "/v1/points")

    def snapshots(self) -> list[dict[str, Any]]:
        answer = self._ask("GET", "/v1/snapshots")
        return answer if isinstance(answer, list) else []

    def snapshot(self, name: str) -> dict[str, Any]:
        return self._object("POST", "/v1/snapshots", json={"name": name})

    def drop_snapshot(self, name: str) -> None:
        self._ask("DELETE", f"/v1/snapshots/{quote(name, safe='')}")

    def grow(self, size: int) -> int:
        return int(self._object("POST", "/v1/grow", json={"size": size})["size"])

    def promote(self, addresses: Sequence[str] = ()) -> dict[str, Any]:
        return self._object("POST", "/v1/promote", json={"nbd": list(addresses)}, timeout=_PROMOTION_S)

    def detach(self, name: str) -> None:
        self._ask("DELETE", f"/v1/mirrors/{quote(name, safe='')}")

    def replace_mirror(self, name: str, yes: bool) -> str:
        return str(self._object("POST", f"/v1/mirrors/{quote(name, safe='')}", json={"yes": yes})["told"])

    def _object(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = self._ask(method, path, **more)
        if not isinstance(answer, dict):
            raise _not_understood(path)
        return answer

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        import httpx2

        try:
            response = self._http.request(method, path, **more)
            answer = response.json() if response.content else None
        except httpx2.TimeoutException as error:
            raise _timed_out(path) from error
        except httpx2.HTTPError as error:
            hint = "See what it logged; then ask again, or start it again."
            raise RevolumeError("volume-gone", f"The volume stopped answering: {error}.", hint) from error
        except ValueError as error:
            raise _not_understood(path) from error
        if response.is_success:
            return answer
        raise error_from(answer if isinstance(answer, dict) else {})


def _timed_out(path: str) -> RevolumeError:
    error = RevolumeError("timed-out", f"The volume did not answer {path} within {_TIMEOUT_S:.0f} seconds.")
    error.exit_status = 6
    return error


def _not_understood(path: str) -> RevolumeError:
    hint = "Use the revolume that serves the volume."
    return RevolumeError("bad-answer", f"The volume's answer to {path} makes no sense.", hint)
