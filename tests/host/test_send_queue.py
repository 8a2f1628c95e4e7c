"""What waits to be sent on a socket, alone: order, bytes, file slices between buffers."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from revolume.host.file_slice import FileSlice
from revolume.host.real.disk import RealDisk
from revolume.host.real.send_queue import SendQueue


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_buffers_and_file_slices_leave_in_order(pair, tmp_path: Path) -> None:
    ours, theirs = pair
    directory = RealDisk().open(str(tmp_path))
    file = directory.open("f", create=True)
    file.pwritev([b"0123456789"], 0)
    queue = SendQueue(ours)
    queue.put([b"abc", b"def"], 4)
    queue.put_file(FileSlice(file, 2, 3))
    queue.put([b"xyz"], 0)
    assert queue.bytes == 8
    while queue.parts:
        queue.send()
    assert queue.bytes == 0
    assert theirs.recv(100) == b"ef234xyz"
    file.close()
    directory.close()


def test_what_the_kernel_does_not_take_stays(pair) -> None:
    ours, theirs = pair
    data = bytes(range(256)) * (1 << 14)
    queue = SendQueue(ours)
    queue.put([data], 0)
    received = bytearray()
    while queue.parts:
        try:
            queue.send()
        except BlockingIOError:
            assert queue.bytes == sum(map(len, queue.parts)) > 0
        while len(received) + queue.bytes < len(data):
            received += theirs.recv(1 << 20)
    assert received == data


def test_a_cleared_queue_has_nothing(pair) -> None:
    queue = SendQueue(pair[0])
    queue.put([b"abc"], 0)
    queue.clear()
    assert (queue.bytes, len(queue.parts)) == (0, 0)
