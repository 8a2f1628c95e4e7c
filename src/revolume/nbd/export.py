"""What the NBD server needs of whatever it serves.

Changes arrive in batches, one ``append`` for all changes of a wake-up; nothing waits on a future per request.
``append`` returns a *position*; an answer goes out once the
position it depends on has been passed (``released`` for plain writes, ``durable`` for FUA and FLUSH).

What a session relies on:

* ``append`` and ``read_now`` are synchronous and take what they need from the memory they are given
  before they return: the session reuses its buffers at once.
* A read issued after ``append`` returned sees what was appended, on every connection.
* ``append`` either takes all of ``ops`` or, raising, none of them.
* Offsets and lengths were checked against ``size`` and ``read_only``; lengths are above zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from revolume.blocks.numbers import Position
from revolume.log.write.operations import OP_TRIM, OP_WRITE, OP_ZERO, Op, WouldBlock
from revolume.nbd.wire.errors import ExportError

if TYPE_CHECKING:
    from revolume.host.network import Peer

Extent = tuple[int, int]  # length, flags


class Seen(Protocol):
    """What can be told of an export without opening it."""

    @property
    def name(self) -> str:
        """The fixed full name (INFO_NAME): what a reconnecting client can ask for and get the same bytes."""

    @property
    def description(self) -> str:
        """One sentence for a person."""

    @property
    def size(self) -> int:
        """Bytes. May grow; a session tells its client the size at its opening."""

    @property
    def read_only(self) -> bool:
        """Changes are refused with EPERM before they get here."""

    @property
    def multi_conn(self) -> bool:
        """A flush on one connection covers the answered writes of all."""

    def close(self, said_goodbye: bool = False) -> None:
        """This connection is done with it, after a DISC or without one. Called once."""


class Export(Seen, Protocol):
    """One connection's hold on a volume or a view of it."""

    @property
    def position(self) -> Position:
        """The last appended position."""

    def append(self, ops: list[Op]) -> Position:
        """Apply ``ops`` in order, as one transfer; the position after which they are done.

        Raises WouldBlock (nothing was applied; see there) or an error that answers all of ``ops``.
        """

    async def room(self, ops: list[Op]) -> None:
        """Wait until ``ops`` would be admitted. ExportError: ENOSPC, EIO, ESHUTDOWN."""

    def released(self, position: Position) -> bool:
        """Whether plain writes up to ``position`` may be answered."""

    def on_release(self, position: Position, callback: Callable[[], None]) -> None:
        """Call back once, when ``released(position)`` has become true."""

    async def durable(self, position: Position) -> None:
        """Return when everything up to ``position`` would survive a power cut. ExportError: EIO."""

    def read_now(self, reads: list[tuple[int, memoryview]]) -> list[int]:
        """Fill the (offset, buffer) pairs; the indexes of those that would have to wait, untouched or not."""

    async def read(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``, however long it takes. ExportError: EIO."""

    async def extents(self, context: str, offset: int, length: int) -> list[Extent]:
        """At least one extent from ``offset`` on; they may cover less than ``length``."""

    async def cache(self, offset: int, length: int) -> None:
        """Make a coming read of the range quick. A hint."""


class Exports(Protocol):
    """Everything a server has to offer."""

    async def open(self, name: str, peer: Peer) -> Export:
        """The export called ``name`` ("" is the default one). RevolumeError when it is not to be had."""

    async def look(self, name: str, peer: Peer) -> Seen:
        """As ``open``, for a client that only asks."""

    def names(self) -> list[tuple[str, str]]:
        """(name, description) of what LIST shows."""

    async def contexts(self, export: Seen, query: str) -> list[str]:
        """The metadata contexts that ``query`` names; ``namespace:`` alone names all of a namespace."""


__all__ = [
    "OP_TRIM",
    "OP_WRITE",
    "OP_ZERO",
    "Export",
    "ExportError",
    "Exports",
    "Extent",
    "Op",
    "Seen",
    "WouldBlock",
]
