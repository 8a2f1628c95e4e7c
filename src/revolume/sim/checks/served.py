"""What clients may cost a server is bounded, whatever they do."""

from __future__ import annotations

from revolume.nbd.server.server import Server
from revolume.nbd.wire.requests import BATCH_REQUESTS_MAX


def check_served(server: Server, who: str) -> list[str]:
    """Memory, unanswered requests and connections of a server, now."""
    limits, sessions = server._limits, list(server._sessions)
    backlog = sum(session._wire.backlog for session in sessions)
    each = max([session._tally.requests for session in sessions], default=0)
    longest = max([session._wire.backlog for session in sessions], default=0)
    strangers = sum(session._transmission is None for session in sessions)
    all_requests = limits.all_unanswered_max + BATCH_REQUESTS_MAX * len(sessions)
    in_flight = server._budget.used_bytes + server._budget.kept_bytes - backlog
    found = {
        "bytes in flight": (in_flight, limits.inflight_bytes),
        "requests without an answer on a connection": (each, limits.unanswered_max + BATCH_REQUESTS_MAX),
        "requests without an answer": (server._unanswered.requests, all_requests),
        "bytes of answers that a client does not read": (longest, limits.backlog_bytes_max + (2 << 20)),
        "connections without an export": (strangers, limits.strangers_max),
    }
    return [f"{who}: {value} {what}, {most} are allowed" for what, (value, most) in found.items() if value > most]
