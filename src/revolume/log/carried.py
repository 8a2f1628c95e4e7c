"""A transfer on the road between two nodes' logs.

What travels is the proper part and the payload; the local part is each node's own, and padding is put back by
whoever stores it. ``Carried`` is a transfer that has arrived: decoded, its payload still lying where the network
put it. ``Shipment`` is one that lies in our own log and is ready to leave: its payload is named by file, offset
and length, so that the kernel can send it without a byte passing through here.

Both are of the moment. A ``Carried``'s payload is borrowed memory, taken over (written, or copied) before the
call that it was handed to returns. A ``Shipment``'s file is open for as long as its segment is held.
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.host.disk import Buffer, File
from revolume.log.transfer import Transfer


@dataclass(slots=True)
class Carried:
    """A transfer that has arrived. ``payload`` is blocks x 4096 + fragment bytes, without padding."""

    transfer: Transfer
    proper: bytes
    payload: Buffer


@dataclass(slots=True)
class Shipment:
    """A transfer in our own log, ready to travel: its payload is ``length`` bytes at ``offset`` of ``file``.
    ``behind``: the address behind it in this log."""

    position: int
    proper: bytes
    file: File
    offset: int
    length: int
    behind: int
