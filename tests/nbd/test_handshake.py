"""The option phase as bytes and events, without a socket."""

from __future__ import annotations

import random
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revolume.nbd.bounds.limits import OptionLimits
from revolume.nbd.server.handshake import TRANSITIONS, Handshake, State
from revolume.nbd.server.handshake_events import Leave, StartTls, WantContexts, WantExport, WantList
from revolume.nbd.server.option_handlers import Tls
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import (
    GREETING_MAGIC,
    OPTION_MAGIC,
    OPTION_REPLY_MAGIC,
    Dialect,
    Info,
    Option,
    Reply,
    TransmissionFlag,
)
from revolume.nbd.wire.errors import ProtocolError
from revolume.nbd.wire.options import ExportFacts

FLAGS = struct.pack(">I", 3)
FACTS = ExportFacts("vol1", "a volume", 1 << 20, int(TransmissionFlag.HAS_FLAGS), 1, 4096, 64 << 20)


def begun(tls: Tls = Tls.NONE, bounds: OptionLimits | None = None, flags: int = 3) -> Handshake:
    machine = Handshake(tls, bounds or OptionLimits())
    assert machine.take_answers() == struct.pack(">QQH", GREETING_MAGIC, OPTION_MAGIC, 3)
    machine.receive(struct.pack(">I", flags))
    assert machine.next_event() is None
    return machine


def replies(machine: Handshake) -> list[tuple[int, Reply, bytes]]:
    """The option replies among the answers."""
    data, found = machine.take_answers(), []
    while data:
        magic, option, kind, length = options.OPTION_REPLY_HEADER.unpack_from(data)
        assert magic == OPTION_REPLY_MAGIC
        found.append((option, Reply(kind), data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def kinds(machine: Handshake) -> list[Reply]:
    return [kind for _, kind, _ in replies(machine)]


def ask(machine: Handshake, data: bytes):
    machine.receive(data)
    return machine.next_event()


def go(name: str = "vol1", wanted=(), option: Option = Option.GO) -> bytes:
    return options.export_request(option, name, wanted)


def test_every_transition_starts_and_ends_in_a_state_that_can_be_reached():
    reached = {State.FLAGS} | set(TRANSITIONS.values())
    assert {state for state, _ in TRANSITIONS} <= reached
    assert reached == set(State)


def test_go_tells_what_was_asked_for_and_ends_the_option_phase():
    machine = begun()
    event = ask(machine, go(wanted=[Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE]) + b"first request")
    assert event == WantExport(Option.GO, "vol1", frozenset({1, 2, 3}))
    machine.accept_export(FACTS)
    found = replies(machine)
    assert [kind for _, kind, _ in found] == [Reply.INFO] * 4 + [Reply.ACK]
    assert found[0][2] == struct.pack(">HQH", 0, 1 << 20, 1)
    assert found[1][2] == b"\0\1vol1"
    assert found[2][2] == b"\0\2a volume"
    assert found[3][2] == struct.pack(">HIII", 3, 1, 4096, 64 << 20)
    assert machine.state is State.TRANSMISSION
    assert machine.take_first_requests() == b"first request"


def test_info_leaves_the_options_open():
    machine = begun()
    assert not ask(machine, go(option=Option.INFO)).keep
    machine.accept_export(FACTS)
    assert kinds(machine) == [Reply.INFO, Reply.ACK]
    assert machine.state is State.OPTIONS


@pytest.mark.parametrize(("flags", "padding"), [(1, 124), (3, 0)], ids=["padded", "no-zeroes"])
def test_export_name_has_its_own_answer(flags: int, padding: int):
    machine = begun(flags=flags)
    event = ask(machine, options.request(Option.EXPORT_NAME, b"vol1"))
    assert event == WantExport(Option.EXPORT_NAME, "vol1", frozenset())
    machine.accept_export(FACTS)
    assert machine.take_answers() == struct.pack(">QH", 1 << 20, 1) + bytes(padding)


def test_export_name_that_is_not_to_be_had_ends_the_connection():
    machine = begun()
    ask(machine, options.request(Option.EXPORT_NAME, b"nope"))
    assert machine.refuse(Reply.ERR_UNKNOWN, "no such export") == Leave()
    assert machine.take_answers() == b""


def test_a_refused_go_may_be_tried_again():
    machine = begun()
    ask(machine, go("nope"))
    assert machine.refuse(Reply.ERR_UNKNOWN, "no such export") is None
    assert replies(machine) == [(Option.GO, Reply.ERR_UNKNOWN, b"no such export")]
    assert isinstance(ask(machine, go()), WantExport)


@pytest.mark.parametrize("flags", [4, 7, 0x80000001])
def test_unknown_client_flags_end_the_connection(flags: int):
    machine = Handshake(Tls.NONE, OptionLimits())
    machine.receive(struct.pack(">I", flags))
    with pytest.raises(ProtocolError):
        machine.next_event()


@pytest.mark.parametrize("flags", [0, 2])
def test_a_client_of_the_unfixed_protocol_has_export_name_and_nothing_else(flags: int):
    machine = Handshake(Tls.NONE, OptionLimits())
    machine.receive(struct.pack(">I", flags))
    assert isinstance(
        ask(machine, options.OPTION_HEADER.pack(OPTION_MAGIC, Option.EXPORT_NAME, 3) + b"vol"), WantExport
    )
    machine = Handshake(Tls.NONE, OptionLimits())
    machine.receive(struct.pack(">I", flags))
    with pytest.raises(ProtocolError):
        ask(machine, options.OPTION_HEADER.pack(OPTION_MAGIC, Option.LIST, 0))


def test_an_unknown_option_is_consumed_and_answered():
    machine = begun()
    assert isinstance(ask(machine, options.request(99, b"x" * 1000) + options.request(Option.LIST)), WantList)
    assert kinds(machine) == [Reply.ERR_UNSUP]


def test_an_option_that_is_too_long_is_passed_over_without_being_kept():
    machine = begun(bounds=OptionLimits(option_bytes_max=100))
    assert ask(machine, options.OPTION_HEADER.pack(OPTION_MAGIC, Option.GO, 1_000_000)) is None
    for _ in range(100):
        assert ask(machine, bytes(10_000)) is None
        assert machine.unread_bytes == 0
    assert kinds(machine) == [Reply.ERR_TOO_BIG]
    assert isinstance(ask(machine, go()), WantExport)


def test_too_many_options_end_the_connection():
    machine = begun(bounds=OptionLimits(options_max=32))
    machine.receive(options.request(99) * 32)
    assert machine.next_event() is None
    assert kinds(machine) == [Reply.ERR_UNSUP] * 32
    machine.receive(options.request(99))
    with pytest.raises(ProtocolError):
        machine.next_event()


def test_an_option_without_its_magic_ends_the_connection():
    machine = begun()
    machine.receive(bytes(16))
    with pytest.raises(ProtocolError):
        machine.next_event()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(options.request(Option.LIST, b"x"), Reply.ERR_INVALID, id="list-with-data"),
        pytest.param(options.request(Option.STRUCTURED_REPLY, b"x"), Reply.ERR_INVALID, id="structured-with-data"),
        pytest.param(options.request(Option.EXTENDED_HEADERS, b"x"), Reply.ERR_INVALID, id="extended-with-data"),
        pytest.param(options.request(Option.STARTTLS), Reply.ERR_POLICY, id="no-tls-here"),
        pytest.param(options.request(Option.GO), Reply.ERR_INVALID, id="go-without-data"),
        pytest.param(
            options.request(Option.GO, b"\0\0\0\xffabc\0\0"), Reply.ERR_INVALID, id="name-longer-than-data"
        ),
        pytest.param(
            options.request(Option.GO, b"\0\0\0\1a\0\2\0\0"), Reply.ERR_INVALID, id="fewer-infos-than-said"
        ),
        pytest.param(options.request(Option.GO, b"\0\0\0\1a\0\0\0\0"), Reply.ERR_INVALID, id="bytes-left-over"),
        pytest.param(go("a\0b"), Reply.ERR_INVALID, id="nul-in-name"),
        pytest.param(options.request(Option.GO, b"\0\0\0\1\xff\0\0"), Reply.ERR_INVALID, id="not-utf8"),
        pytest.param(go("n" * 256), Reply.ERR_UNKNOWN, id="name-256"),
        pytest.param(go("n" * 5000), Reply.ERR_TOO_BIG, id="name-5000"),
        pytest.param(
            options.context_request(Option.SET_META_CONTEXT, "v", ["base:allocation"]),
            Reply.ERR_INVALID,
            id="contexts-without-structured",
        ),
    ],
)
def test_what_is_wrong_is_answered_and_the_options_go_on(data: bytes, kind: Reply):
    machine = begun()
    assert ask(machine, data) is None
    assert kinds(machine) == [kind]
    assert isinstance(ask(machine, go()), WantExport)


def test_abort_is_acknowledged():
    machine = begun()
    assert ask(machine, options.request(Option.ABORT, b"ignored")) == Leave()
    assert kinds(machine) == [Reply.ACK]
    assert machine.state is State.ENDED


def structured(tls: Tls = Tls.NONE, bounds: OptionLimits | None = None) -> Handshake:
    machine = begun(tls, bounds)
    assert ask(machine, options.request(Option.STRUCTURED_REPLY)) is None
    assert kinds(machine) == [Reply.ACK]
    return machine


def test_selected_contexts_get_ids_and_hold_for_their_export_only():
    machine = structured()
    event = ask(machine, options.context_request(Option.SET_META_CONTEXT, "vol1", ["base:allocation", "x-a:b"]))
    assert event == WantContexts(Option.SET_META_CONTEXT, "vol1", ("base:allocation", "x-a:b"))
    machine.answer_contexts(["base:allocation", "qemu:dirty-bitmap:a", "base:allocation"])
    assert [data for _, _, data in replies(machine)] == [
        b"\0\0\0\0base:allocation",
        b"\0\0\0\1qemu:dirty-bitmap:a",
        b"",
    ]
    assert machine.agreed.contexts == ("base:allocation", "qemu:dirty-bitmap:a")
    ask(machine, go("other"))
    machine.accept_export(FACTS)
    assert machine.agreed.contexts == ()


def test_listed_contexts_select_nothing_and_a_failed_selection_clears():
    machine = structured(bounds=OptionLimits(queries_max=2))
    ask(machine, options.context_request(Option.SET_META_CONTEXT, "v", ["base:allocation"]))
    machine.answer_contexts(["base:allocation"])
    ask(machine, options.context_request(Option.LIST_META_CONTEXT, "v", []))
    machine.answer_contexts(["base:allocation"])
    assert machine.agreed.contexts == ("base:allocation",)
    replies(machine)
    ask(machine, options.context_request(Option.SET_META_CONTEXT, "v", ["a:", "b:", "c:"]))
    assert kinds(machine) == [Reply.ERR_TOO_BIG]
    assert machine.agreed.contexts == ()


def test_too_many_contexts_are_refused():
    machine = structured(bounds=OptionLimits(contexts_max=2))
    ask(machine, options.context_request(Option.SET_META_CONTEXT, "v", ["x-a:"]))
    machine.answer_contexts(["x-a:1", "x-a:2", "x-a:3"])
    assert kinds(machine) == [Reply.ERR_TOO_BIG]
    assert machine.agreed.contexts == ()


def test_a_query_needs_its_namespace():
    machine = structured()
    assert ask(machine, options.context_request(Option.LIST_META_CONTEXT, "v", ["base"])) is None
    assert kinds(machine) == [Reply.ERR_INVALID]


def test_structured_replies_after_extended_headers_are_refused_and_export_name_is_an_end():
    machine = begun()
    ask(machine, options.request(Option.EXTENDED_HEADERS))
    ask(machine, options.request(Option.STRUCTURED_REPLY))
    assert kinds(machine) == [Reply.ACK, Reply.ERR_EXT_HEADER_REQD]
    assert machine.agreed.dialect is Dialect.EXTENDED
    machine.receive(options.request(Option.EXPORT_NAME, b"v"))
    with pytest.raises(ProtocolError):
        machine.next_event()


def test_starttls_forgets_what_was_agreed_and_what_came_behind_it_in_plaintext():
    machine = structured(Tls.OFFERED)
    ask(machine, options.context_request(Option.SET_META_CONTEXT, "vol1", ["base:allocation"]))
    machine.answer_contexts(["base:allocation"])
    replies(machine)
    event = ask(machine, options.request(Option.STARTTLS) + options.request(Option.STRUCTURED_REPLY))
    assert event == StartTls()
    assert kinds(machine) == [Reply.ACK]
    assert machine.next_event() is None
    machine.tls_started()
    assert machine.next_event() is None
    assert machine.take_answers() == b""
    assert machine.agreed.dialect is Dialect.SIMPLE
    assert machine.agreed.contexts == ()
    assert ask(machine, options.request(Option.STARTTLS)) is None
    assert kinds(machine) == [Reply.ERR_INVALID]


def test_where_tls_is_required_nothing_else_is_answered():
    machine = begun(Tls.REQUIRED)
    for option in (Option.LIST, Option.INFO, Option.GO, Option.STRUCTURED_REPLY, 77):
        assert ask(machine, options.request(option, b"junk")) is None
        assert kinds(machine) == [Reply.ERR_TLS_REQD]
    machine.receive(options.OPTION_HEADER.pack(OPTION_MAGIC, Option.GO, 70_000) + bytes(70_000))
    assert machine.next_event() is None
    assert kinds(machine) == [Reply.ERR_TLS_REQD]
    assert ask(machine, options.request(Option.EXPORT_NAME, b"vol1")) == Leave()


def test_abort_is_answered_where_tls_is_required():
    machine = begun(Tls.REQUIRED)
    assert ask(machine, options.request(Option.ABORT)) == Leave()
    assert kinds(machine) == [Reply.ACK]


CONVERSATION = (
    FLAGS
    + options.request(Option.STRUCTURED_REPLY)
    + options.request(99, b"abc")
    + options.context_request(Option.SET_META_CONTEXT, "vol1", ["base:allocation"])
    + go("nope")
    + options.request(Option.LIST)
    + go("vol1", [Info.NAME])
)


def hold(machine: Handshake, chunks: list[bytes]) -> tuple[list[object], bytes]:
    """Feed the chunks, answering questions; everything that came out."""
    events: list[object] = []
    for chunk in chunks:
        machine.receive(chunk)
        while (event := machine.next_event()) is not None:
            events.append(event)
            if isinstance(event, WantList):
                machine.answer_list([("vol1", "a volume")], 1000)
            elif isinstance(event, WantContexts):
                machine.answer_contexts(event.queries)
            elif isinstance(event, WantExport) and event.name == "vol1":
                machine.accept_export(FACTS)
            elif isinstance(event, WantExport):
                machine.refuse(Reply.ERR_UNKNOWN, "no")
            elif isinstance(event, StartTls):
                machine.tls_started()
    return events, machine.take_answers()


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_how_the_bytes_are_cut_makes_no_difference(cuts: list[int]):
    whole = hold(Handshake(Tls.NONE, OptionLimits()), [CONVERSATION])
    assert hold(Handshake(Tls.NONE, OptionLimits()), pieces(CONVERSATION, cuts)) == whole
    assert len(whole[0]) == 4


_option = st.builds(
    lambda option, data, lie: options.OPTION_HEADER.pack(OPTION_MAGIC, option, max(0, len(data) + lie)) + data,
    st.integers(0, 12),
    st.one_of(st.binary(max_size=40), st.just(go()[16:]), st.just(b"\0\0\0\1v\0\0\0\1\0\0\0\5base:")),
    st.sampled_from([0, 0, 0, 0, -1, 1, 70_000]),
)


def garbage(data: bytes, tls: Tls) -> None:
    machine = Handshake(tls, OptionLimits(options_max=4))
    try:
        hold(machine, [FLAGS, data, data])
    except ProtocolError:
        return
    assert machine.unread_bytes <= 2 * len(data) + 4


@settings(max_examples=1000, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.lists(_option, max_size=6).map(b"".join)), st.sampled_from(list(Tls)))
def test_garbage_never_crashes_the_option_phase(data: bytes, tls: Tls):
    garbage(data, tls)


def test_good_conversations_gone_bad_never_crash_the_option_phase():
    for seed in range(10_000):
        chance = random.Random(seed)
        data = bytearray(CONVERSATION[4:])
        for _ in range(chance.randrange(1, 6)):
            at = chance.randrange(len(data))
            if chance.random() < 0.7:
                data[at] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
            else:
                del data[at : at + chance.randrange(1, 20)]
        garbage(bytes(data), chance.choice(list(Tls)))
