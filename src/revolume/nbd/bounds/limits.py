"""How much a client may ask of a server. Input is never trusted with a size: each has its bound here."""

from __future__ import annotations

from dataclasses import dataclass, field

from revolume.nbd.wire.constants import PAYLOAD_BYTES_MAX


@dataclass(frozen=True, slots=True)
class OptionLimits:
    """What one client may ask for in the option phase."""

    options_max: int = 32
    options_per_export: int = 4  # more of them for each export that was listed: clients ask about every one
    option_bytes_max: int = 64 << 10
    export_name_bytes_max: int = 255
    queries_max: int = 64
    contexts_max: int = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """One server's bounds.

    Memory: every connection has a receive buffer of ``base_bytes``; what goes beyond (a buffer that has grown to
    ``buffer_bytes``, large requests, reads under way, answers that a client does not take) is in flight, and all
    connections together have at most ``inflight_bytes`` of that, one connection ``connection_bytes``. A client
    that holds memory for which others wait has ``stall_seconds`` to go on (``stalls.py``).
    """

    connections_max: int = 100  # clients, whose export is open
    local_reserve: int = 8  # more of them on unix sockets
    strangers_max: int = 256  # connections without an export yet; on unix sockets as many again
    handshake_seconds: float = 10.0
    option_seconds: float = 0.05  # more of them for each option that was answered
    options: OptionLimits = field(default_factory=OptionLimits)
    exports_listed_max: int = 10_000
    payload_bytes_max: int = PAYLOAD_BYTES_MAX
    base_bytes: int = 64 << 10
    buffer_bytes: int = 1 << 20
    inflight_bytes: int = 256 << 20
    stall_seconds: float = 5.0
    connection_bytes: int = 160 << 20
    backlog_bytes_max: int = 4 << 20  # unsent answers, above which no further request is looked at
    read_ahead_bytes: int = 8 << 20  # of one connection's large reads, ahead of what its client takes
    jobs_max: int = 128  # requests of one connection that wait for something
    unanswered_max: int = 4096  # requests of one connection without an answer, above which none is read
    unanswered_bytes: int = 256 << 20  # the bytes in which they came
    all_unanswered_max: int = 1 << 16  # the same of all connections, beyond one batch of each
    all_unanswered_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        assert self.buffer_bytes >= 4096
        assert self.payload_bytes_max + 4096 <= self.connection_bytes <= self.inflight_bytes


def limits_for(connections_max: int) -> Limits:
    """The usual bounds for so many clients."""
    return Limits(connections_max=connections_max, strangers_max=max(Limits().strangers_max, connections_max // 4))
