"""A log that nobody reads: nothing blocks, memory is bounded, and what was lost is counted."""

from __future__ import annotations

import fcntl
import os
import time

import pytest

from revolume.host.log_sink import QUEUE_BYTES_MAX, LogSink


def lost(count: int) -> str:
    return f"lost {count}"


def read_until(fd: int, end: bytes, seconds: float = 60) -> bytes:
    os.set_blocking(fd, False)
    data, deadline = b"", time.monotonic() + seconds
    while end not in data and time.monotonic() < deadline:
        try:
            data += os.read(fd, 1 << 20)
        except BlockingIOError:
            time.sleep(0.005)
    return data


def test_lines_come_in_order_and_whole() -> None:
    reader, writer = os.pipe()
    sink = LogSink(writer, lost)
    for number in range(1000):
        print("line", number, file=sink)
    sink.drain(time.monotonic() + 10)
    assert read_until(reader, b"line 999\n") == b"".join(b"line %d\n" % number for number in range(1000))


@pytest.mark.parametrize("blocking", [True, False])
def test_what_nobody_reads_is_counted(blocking: bool) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, blocking)
    sink = LogSink(writer, lost)
    line, count = "x" * 1000, 2 * QUEUE_BYTES_MAX // 1000
    begun = time.monotonic()
    for _ in range(count):
        print(line, file=sink)
    assert time.monotonic() - begun < 5
    sink.drain(time.monotonic() + 0.1)
    data = read_until(reader, b"lost ")
    print("end", file=sink)
    data += read_until(reader, b"end\n")
    told = [int(each.split()[1]) for each in data.decode().splitlines() if each.startswith("lost ")]
    assert sum(told) + data.count(line.encode()) == count
    assert sum(told) > count // 3


def test_a_full_disk_is_only_a_loss() -> None:
    sink = LogSink(os.open("/dev/full", os.O_WRONLY), lost)
    for _ in range(100):
        print("line", file=sink)
    sink.drain(time.monotonic() + 10)
    assert sink._lost == 100
