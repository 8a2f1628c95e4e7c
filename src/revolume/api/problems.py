"""Errors over HTTP: problem+json (RFC 9457) out of a RevolumeError, and back.

The body keeps all that the error has (code, cause, hint, exit status), so the verb that asked over the
socket ends exactly as if it had done the work itself.
"""

from __future__ import annotations

from typing import Any, Final

from revolume.errors import Damaged, NoSpace, NotFound, Poisoned, Refused, RevolumeError, TimedOut, UsageError

MEDIA_TYPE: Final = "application/problem+json"

# The first class that an error is of decides; the root takes the rest.
_STATUSES: Final[tuple[tuple[type[RevolumeError], int], ...]] = (
    (UsageError, 400),
    (NotFound, 404),
    (Refused, 409),
    (NoSpace, 507),
    (TimedOut, 504),
    (Poisoned, 503),
    (Damaged, 500),
    (RevolumeError, 500),
)


def problem(error: RevolumeError) -> tuple[int, dict[str, Any]]:
    """(HTTP status, body) of an error."""
    kind, status = next((kind, status) for kind, status in _STATUSES if isinstance(error, kind))
    body = {
        "type": "about:blank",
        "title": error.code,
        "status": status,
        "detail": error.cause,
        "code": error.code,
        "hint": error.hint,
        "kind": kind.__name__,
        "exit_status": error.exit_status,
    }
    return status, body


def error_from(body: dict[str, Any]) -> RevolumeError:
    """The error that a problem's body describes; RevolumeError if its kind is unknown."""
    kinds = {kind.__name__: kind for kind, _ in _STATUSES}
    kind = kinds.get(str(body.get("kind")), RevolumeError)
    error = kind(str(body.get("code", "unknown")), str(body.get("detail", "")), str(body.get("hint", "")))
    error.exit_status = int(body.get("exit_status", kind.exit_status))
    return error
