"""The JSON of proofs: on which moments a command was run, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.history.moments import format_time
from revolume.volume.metadata.proof_file import Proof


@dataclass(frozen=True, slots=True)
class ProofSchema:
    """The moment after ``write`` was tried, which lies at or behind ``point``. ``verdict``: passed, failed or
    timed-out; ``duration_ms``: how long that took; ``time_ns``: when it ended."""

    write: int
    point: int
    time: str
    time_ns: int
    duration_ms: int
    verdict: str
    command: str


def proof_schema(proof: Proof) -> ProofSchema:
    """As JSON has it."""
    return ProofSchema(
        write=proof.write,
        point=proof.point,
        time=format_time(proof.time_ns),
        time_ns=proof.time_ns,
        duration_ms=proof.duration_ms,
        verdict=proof.verdict.name.lower().replace("_", "-"),
        command=proof.command,
    )
