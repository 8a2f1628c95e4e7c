"""The three numbers that a volume's history is told in. All are plain ints when the program runs; the type checker
keeps them apart, because mixing two of them gives a number that looks right.

    Position      counts the transfers of the log, from 1. The appender gives one to each transfer that it makes;
                  it is the same at every node of a lineage. Durability, acknowledgement and where a mirror has
                  got to are positions. 0: before the first transfer.
    WriteNumber   counts the writes of clients, from 1. Each entry of a transfer of writes gets one; it is the same
                  at every node. Moments, snapshots, points' cuts, the horizon and whoever holds history are write
                  numbers, and a version is "as of" one. After a crash some may be skipped. 0: the empty volume.
    Address       a block in this node's log: the use number of its segment × blocks a segment + block in the
                  segment. Segments make them, and each node has its own. 0: nothing was appended yet.

Each may be compared with its own kind only: a higher position is later in the log, a higher write number is newer,
and a higher address was written later at this node (``block_location.py`` says where that is not the age of what
lies there). A transfer and a point connect the three: they have a position, a write number and an address each.

A sum or a difference is an int again. Where such an int, or one decoded from bytes, is one of the three, it is
named once: ``Position(number)``. That is a call, so in loops over transfers and in what every request passes
through, the arithmetic says it by a comment to the type checker instead. Arrays of them are plain arrays.
"""

from __future__ import annotations

from typing import NewType

Position = NewType("Position", int)
WriteNumber = NewType("WriteNumber", int)
Address = NewType("Address", int)
