"""Parts of the server, each alone: the option phase's input, a run of changes, the reply queue, places."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, cast

import pytest

from revolume.log.write.operations import OP_TRIM, OP_WRITE
from revolume.nbd.bounds.limits import Limits
from revolume.nbd.bounds.places import Places
from revolume.nbd.server.change_run import ChangeRun
from revolume.nbd.server.option_input import OptionInput, ReceivedOption
from revolume.nbd.server.outlet import Outlet
from revolume.nbd.server.reads import Scratch
from revolume.nbd.server.reply_queue import ReplyQueue
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import Command, CommandFlag, Errno, HandshakeFlag, Option
from revolume.nbd.wire.errors import ProtocolError
from revolume.nbd.wire.greeting import check_greeting, parse_client_flags, server_greeting
from revolume.nbd.wire.replies import SimpleEncoder
from revolume.nbd.wire.requests import kind_of


def test_a_client_accepts_our_greeting_and_no_other() -> None:
    check_greeting(server_greeting())
    with pytest.raises(ProtocolError):
        check_greeting(bytes(18))
    assert parse_client_flags(struct.pack(">I", 3)) == HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    with pytest.raises(ProtocolError):
        parse_client_flags(struct.pack(">I", 4))


def test_options_come_out_whole_and_long_ones_are_skipped() -> None:
    found = OptionInput(option_bytes_max=8)
    found.receive(struct.pack(">I", 3)[:2])
    assert found.next_flags() is None
    found.receive(struct.pack(">I", 3)[2:])
    assert found.next_flags() == 3
    data = options.request(Option.GO, bytes(9)) + options.request(Option.LIST, b"x")
    found.receive(data[:20])
    assert found.next_option() == ReceivedOption(Option.GO, None)
    assert not found.skip()
    found.receive(data[20:])
    assert found.skip()
    assert found.next_option() == ReceivedOption(Option.LIST, b"x")
    assert found.next_option() is None
    assert found.take_all() == b""
    found.receive(bytes(16))
    with pytest.raises(ProtocolError):
        found.next_option()


def test_a_run_of_changes_keeps_their_order_and_tells_fua_apart() -> None:
    run = ChangeRun()
    run.view = memoryview(b"..data")
    run.add((kind_of(Command.WRITE, CommandFlag.FUA), b"a", 0, 4, 2), OP_WRITE)
    run.add((kind_of(Command.TRIM), b"b", 8, 4, 0), OP_TRIM)
    assert run.ops == [(OP_WRITE, 0, 4, memoryview(b"data")), (OP_TRIM, 8, 4, None)]
    assert (run.plain, run.fua) == ([b"b"], [b"a"])
    assert run.clear() == [b"b", b"a"]
    assert not run.ops and not run.plain and not run.fua


class FakeWire:
    def __init__(self) -> None:
        self.backlog = 0
        self.sent: list[bytes] = []

    def send(self, buffers: list[memoryview]) -> None:
        self.sent += [bytes(buffer) for buffer in buffers]


class FakeAccount:
    held_bytes = 0
    exhausted = False

    def __init__(self) -> None:
        self.noted = 0

    def note_backlog(self, count: int) -> None:
        self.noted = count


def test_replies_leave_together_successes_first() -> None:
    wire, account = FakeWire(), FakeAccount()
    outlet = Outlet(cast(Any, wire), cast(Any, account), Limits())
    queue = ReplyQueue(SimpleEncoder(), Scratch(), outlet)
    queue.fail(b"aaaaaaaa", Errno.EIO, "broken")
    queue.succeeded.append(b"bbbbbbbb")
    queue.send()
    queue.send()
    assert [reply[-8:] for reply in wire.sent] == [b"bbbbbbbb", b"aaaaaaaa"]
    assert outlet.sent_bytes == 32
    outlet.closed = True
    queue.succeeded.append(b"cccccccc")
    queue.send()
    assert len(wire.sent) == 2


def test_only_a_backlog_above_the_low_water_mark_is_charged() -> None:
    wire, account = FakeWire(), FakeAccount()
    outlet = Outlet(cast(Any, wire), cast(Any, account), Limits(backlog_bytes_max=1 << 20))
    for backlog, blocked, clogged in ((1000, 0, False), (600 << 10, 600 << 10, False), (2 << 20, 2 << 20, True)):
        wire.backlog = backlog
        outlet.count_backlog()
        assert (account.noted, outlet.blocked_bytes, outlet.clogged) == (blocked, blocked, clogged)


@dataclass(eq=False)
class Guest:
    heard_ns: int
    local: bool = False


class FakeClock:
    def monotonic_ns(self) -> int:
        return 10_000_000_000


def test_the_most_silent_stranger_is_evicted_and_places_are_limited() -> None:
    limits = Limits(strangers_max=2, connections_max=1, local_reserve=1)
    places: Places[Guest] = Places(cast(Any, FakeClock()), limits)
    loud, silent, third = Guest(9_900_000_000), Guest(1_000_000_000), Guest(10_000_000_000)
    assert places.add(loud) is None
    assert places.add(silent) is None
    assert places.add(third) is silent
    places.remove(silent)
    assert places.admit(loud)
    assert not places.admit(third)
    local = Guest(0, local=True)
    assert places.add(local) is None
    assert places.admit(local)
    assert places.clients == 2
