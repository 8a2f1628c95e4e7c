"""A transfer on the road between two nodes' logs.

What travels is the shared header and the payload; the node header is each node's own, and padding is put back by
whoever stores it. ``ReceivedTransfer`` is a transfer that has arrived: decoded, its payload still lying where the
network put it. ``OutgoingTransfer`` is one that lies in our own log and is ready to leave: its payload is named by
file, offset and length, so that the kernel can send it without a byte passing through here.

Both are of the moment. A ``ReceivedTransfer``'s payload is borrowed memory, taken over (written, or copied) before
the call that it was handed to returns. A ``OutgoingTransfer``'s file is open for as long as its segment is held.
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.blocks.numbers import Address, Position
from revolume.host.disk import Buffer, File
from revolume.log.format.transfer import Transfer


@dataclass(slots=True)
class ReceivedTransfer:
    """A transfer that has arrived from another node. ``payload``: blocks * 4096 + fragment bytes, without padding;
    borrowed memory, valid until the call that it was passed to returns."""

    transfer: Transfer
    shared_header: bytes
    payload: Buffer


@dataclass(slots=True)
class OutgoingTransfer:
    """A transfer in this node's log, ready to be sent: its payload is ``length`` bytes at ``offset`` of ``file``,
    which stays open while the segment is held. ``behind``: the address after the transfer in this log."""

    position: Position
    shared_header: bytes
    file: File
    offset: int
    length: int
    behind: Address
