"""What may go wrong at a disk, and how much of it at once is fair.

*Fair* faults are those that the promises of ``docs/proof/README.md`` are made under: after them nothing answered
may be missing. *Harsh* ones take data away that nobody else has (bits rot, a disk lies about a sync): after those
a read must still be right or an error, and no more is asked. A plan is drawn from the seed once; an operator in
the world switches single faults on and off while it runs.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from revolume.sim.kernel.chance import Chance


@dataclass(slots=True)
class DiskFaults:
    """Chances per operation, and shots that are armed for the next one of a kind."""

    slow: float = 1.0
    stuck: float = 0.0  # of an operation that takes seconds
    read_error: float = 0.0
    write_error: float = 0.0  # part of it may have been written
    sync_error: float = 0.0  # and what was to be synced is lost, while memory goes on showing it
    not_in_memory: float = 0.1  # of a read that must not wait
    helper_lost: float = 0.0
    lying_sync: float = 0.0
    misdirected: float = 0.0
    dropped: float = 0.0  # a write that says it was done
    count: int = 0

    def quiet(self) -> None:
        """Nothing goes wrong from now on; what did stays counted."""
        self.slow, self.not_in_memory = 1.0, 0.1
        self.stuck = self.read_error = self.write_error = self.sync_error = 0.0
        self.helper_lost = self.lying_sync = self.misdirected = self.dropped = 0.0

    def happened(self) -> None:
        """One more."""
        self.count += 1


def failure(number: int, name: str) -> OSError:
    """As the kernel would raise it."""
    return OSError(number, os.strerror(number), name)


def io_error(name: str) -> OSError:
    """EIO."""
    return failure(errno.EIO, name)


def no_space(name: str) -> OSError:
    """ENOSPC."""
    return failure(errno.ENOSPC, name)


def drawn_delay(chance: Chance, faults: DiskFaults, typical_s: float) -> float:
    """How long one operation takes."""
    if chance.hit(faults.stuck):
        faults.happened()
        return chance.uniform(2.0, 20.0)
    return chance.delay(typical_s * faults.slow)
