"""The server's side of the option phase as a machine without I/O: bytes in, events and answers out.

    machine.receive(data)       what came
    machine.next_event()        the next thing the session must do, None: more bytes are needed
    machine.take_answers()      bytes to send; always before acting on an event

Most options are answered here. Some need the world (which exports are there, is this one to be had):
those come out as events, the machine then stands in ANSWERING and looks at no further byte until the
session has given the answer through ``accept_export``, ``answer_list``, ``answer_contexts`` or ``refuse``.

What would break it:

* State from before STARTTLS must not survive it, nor may bytes that came in plaintext behind it be read
  as if they had come through TLS: a middleman could have put them there. ``tls_started`` forgets both.
* An option's announced length is only a claim: what is longer than ``option_bytes_max`` is skipped
  without being kept, so the stream stays in step and memory stays small.
* Everything a client may repeat is counted: options a session (more where more exports were listed, since clients
  ask about each on the same connection), queries an option.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from revolume.nbd import options
from revolume.nbd.constants import GREETING_MAGIC, OPTION_MAGIC, HandshakeFlag, Option, Reply
from revolume.nbd.errors import ProtocolError
from revolume.nbd.options import BadOption, ExportFacts

GREETING: Final = struct.Struct(">QQH")
CLIENT_FLAGS: Final = struct.Struct(">I")
assert GREETING.size == 18
_OFFERED: Final = int(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)  # int: ~ means all bits


class State(Enum):
    """Where the option phase stands; each says what comes next."""

    FLAGS = "the client's flags"
    OPTIONS = "an option"
    SKIPPING = "the rest of an option that is too long to keep"
    ANSWERING = "the session's answer to an event"
    SECURING = "the TLS handshake; then everything begins anew"
    TRANSMISSION = "requests: the option phase is over"
    ENDED = "nothing: the connection is to be closed"


class Input(Enum):
    """What moves the machine from one state to another."""

    FLAGS = "client flags that make sense"
    LONG_OPTION = "an option longer than we keep"
    SKIPPED = "its last byte"
    QUESTION = "an option that the session must answer"
    ANSWERED = "the answer, with which options go on"
    OPENED = "the answer that opens an export"
    STARTTLS = "STARTTLS, accepted"
    SECURED = "a TLS session"
    LEAVE = "ABORT, or a failure that has no other answer"


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.FLAGS, Input.FLAGS): State.OPTIONS,
    (State.OPTIONS, Input.LONG_OPTION): State.SKIPPING,
    (State.SKIPPING, Input.SKIPPED): State.OPTIONS,
    (State.OPTIONS, Input.QUESTION): State.ANSWERING,
    (State.ANSWERING, Input.ANSWERED): State.OPTIONS,
    (State.ANSWERING, Input.OPENED): State.TRANSMISSION,
    (State.OPTIONS, Input.STARTTLS): State.SECURING,
    (State.SECURING, Input.SECURED): State.OPTIONS,
    (State.FLAGS, Input.LEAVE): State.ENDED,
    (State.OPTIONS, Input.LEAVE): State.ENDED,
    (State.ANSWERING, Input.LEAVE): State.ENDED,
}


class Tls(Enum):
    """What the server makes of encryption on this connection."""

    NONE = "not offered"
    OFFERED = "the client may ask for it"
    REQUIRED = "nothing is said without it"
    ACTIVE = "in use"


class Dialect(Enum):
    """The headers of the transmission phase, chosen by the client."""

    SIMPLE = "simple"
    STRUCTURED = "structured"
    EXTENDED = "extended"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one client may ask for in the option phase."""

    options_max: int = 32
    options_per_export: int = 4  # more of them for each export that was listed: clients ask about every one
    option_bytes_max: int = 64 << 10
    export_name_bytes_max: int = 255
    queries_max: int = 64
    contexts_max: int = 16


@dataclass(frozen=True, slots=True)
class WantList:
    """LIST: answer with ``answer_list``."""


@dataclass(frozen=True, slots=True)
class WantExport:
    """INFO, GO or EXPORT_NAME: answer with ``accept_export`` or ``refuse``."""

    option: Option
    name: str
    wanted: frozenset[int]

    @property
    def keep(self) -> bool:
        """The client wants to work on it now, not only to hear of it."""
        return self.option is not Option.INFO


@dataclass(frozen=True, slots=True)
class WantContexts:
    """A META_CONTEXT option: answer with ``answer_contexts`` or ``refuse``."""

    option: Option
    name: str
    queries: tuple[str, ...]

    @property
    def select(self) -> bool:
        """The client wants to use them, not only to hear of them."""
        return self.option is Option.SET_META_CONTEXT


@dataclass(frozen=True, slots=True)
class StartTls:
    """The ACK is among the answers; secure the connection, then call ``tls_started``."""


@dataclass(frozen=True, slots=True)
class Leave:
    """Send the answers, then close."""


Event = WantList | WantExport | WantContexts | StartTls | Leave


class Handshake:
    """The option phase of one connection."""

    def __init__(self, tls: Tls, bounds: Bounds) -> None:
        self.state = State.FLAGS
        self.tls = tls
        self.dialect = Dialect.SIMPLE
        self.contexts: tuple[str, ...] = ()  # by context id
        self._contexts_of: str | None = None  # the export name they were selected for
        self._bounds = bounds
        self._padded = True
        self._fixed = True
        self.count = 0  # options so far
        self._options_max = bounds.options_max
        self._skip = 0
        self._question: WantList | WantExport | WantContexts | None = None
        self._inbox = bytearray()
        self._outbox = [GREETING.pack(GREETING_MAGIC, OPTION_MAGIC, _OFFERED)]

    # --- bytes -------------------------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the client."""
        self._inbox += data

    @property
    def unread_bytes(self) -> int:
        """Received and not yet looked at; the session stops reading when this grows too large."""
        return len(self._inbox)

    def take_answers(self) -> bytes:
        """What there is to send."""
        answers = b"".join(self._outbox)
        self._outbox.clear()
        return answers

    def take_rest(self) -> bytes:
        """What came behind the option that opened the export: the first requests."""
        assert self.state is State.TRANSMISSION
        rest = bytes(self._inbox)
        self._inbox.clear()
        return rest

    # --- events ------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """The next thing to do, or None until more bytes came. ProtocolError: close without a word."""
        while True:
            before = (self.state, len(self._inbox))
            step = _STEPS.get(self.state)
            event = step(self) if step is not None else None
            if event is not None or (self.state, len(self._inbox)) == before:
                return event

    def _move(self, cause: Input) -> None:
        self.state = TRANSITIONS[self.state, cause]

    def _read_flags(self) -> Event | None:
        if len(self._inbox) < CLIENT_FLAGS.size:
            return None
        flags = int(CLIENT_FLAGS.unpack_from(self._inbox)[0])
        del self._inbox[: CLIENT_FLAGS.size]
        if flags & ~_OFFERED:
            raise ProtocolError(f"unknown client flags {flags:#x}")
        self._fixed = bool(flags & HandshakeFlag.FIXED_NEWSTYLE)
        self._padded = not flags & HandshakeFlag.NO_ZEROES
        self._move(Input.FLAGS)
        return None

    def _read_option(self) -> Event | None:
        if len(self._inbox) < options.OPTION_HEADER.size:
            return None
        magic, option, length = options.OPTION_HEADER.unpack_from(self._inbox)
        if magic != OPTION_MAGIC:
            raise ProtocolError("an option without its magic")
        end = options.OPTION_HEADER.size + length
        kept = length <= self._bounds.option_bytes_max
        if kept and len(self._inbox) < end:
            return None
        self.count += 1
        if self.count > self._options_max:
            raise ProtocolError(f"more than {self._options_max} options")
        if not kept:
            return self._begin_skipping(option, length)
        data = bytes(self._inbox[options.OPTION_HEADER.size : end])
        del self._inbox[:end]
        return self._on_option(option, data)

    def _begin_skipping(self, option: int, length: int) -> Event | None:
        del self._inbox[: options.OPTION_HEADER.size]
        if option == Option.EXPORT_NAME:
            return self._leave()
        if self._must_secure(option):
            self._say(option, Reply.ERR_TLS_REQD, "this server speaks only through TLS")
        else:
            limit = self._bounds.option_bytes_max
            self._say(option, Reply.ERR_TOO_BIG, f"an option has at most {limit} bytes")
        self._skip = length
        self._move(Input.LONG_OPTION)
        return None

    def _skip_option(self) -> Event | None:
        skipped = min(self._skip, len(self._inbox))
        del self._inbox[:skipped]
        self._skip -= skipped
        if not self._skip:
            self._move(Input.SKIPPED)
        return None

    # --- options -----------------------------------------------------------------------------------------

    def _on_option(self, option: int, data: bytes) -> Event | None:
        if not self._fixed and option != Option.EXPORT_NAME:
            raise ProtocolError("an option that a client of the unfixed newstyle protocol has no answer for")
        if self._must_secure(option):
            if option == Option.EXPORT_NAME:
                return self._leave()
            self._say(option, Reply.ERR_TLS_REQD, "this server speaks only through TLS")
            return None
        handler = _OPTIONS.get(option)
        if handler is None:
            self._say(option, Reply.ERR_UNSUP, "unknown option")
            return None
        try:
            return handler(self, data)
        except BadOption as bad:
            if option == Option.EXPORT_NAME:
                return self._leave()
            self._say(option, bad.reply, bad.cause)
            return None

    def _must_secure(self, option: int) -> bool:
        return self.tls is Tls.REQUIRED and option not in (Option.STARTTLS, Option.ABORT)

    def _on_export_name(self, data: bytes) -> Event | None:
        if self.dialect is Dialect.EXTENDED:
            raise ProtocolError("EXPORT_NAME after extended headers")
        name = options.decode_text(data)
        self._check_export_name(name)
        return self._ask(WantExport(Option.EXPORT_NAME, name, frozenset()))

    def _on_abort(self, data: bytes) -> Event | None:
        self._outbox.append(options.reply(Option.ABORT, Reply.ACK))
        return self._leave()

    def _on_list(self, data: bytes) -> Event | None:
        _no_data(data)
        return self._ask(WantList())

    def _on_starttls(self, data: bytes) -> Event | None:
        _no_data(data)
        if self.tls is Tls.ACTIVE:
            raise BadOption(Reply.ERR_INVALID, "TLS is already in use")
        if self.tls is Tls.NONE:
            raise BadOption(Reply.ERR_POLICY, "this server has no TLS")
        self._outbox.append(options.reply(Option.STARTTLS, Reply.ACK))
        self._move(Input.STARTTLS)
        return StartTls()

    def _on_info(self, data: bytes) -> Event | None:
        return self._want_export(Option.INFO, data)

    def _on_go(self, data: bytes) -> Event | None:
        return self._want_export(Option.GO, data)

    def _want_export(self, option: Option, data: bytes) -> Event | None:
        asked = options.parse_export_request(data)
        self._check_export_name(asked.name)
        return self._ask(WantExport(option, asked.name, asked.wanted))

    def _on_structured_reply(self, data: bytes) -> Event | None:
        _no_data(data)
        if self.dialect is Dialect.EXTENDED:
            raise BadOption(Reply.ERR_EXT_HEADER_REQD, "extended headers are already in use")
        self.dialect = Dialect.STRUCTURED
        self._outbox.append(options.reply(Option.STRUCTURED_REPLY, Reply.ACK))
        return None

    def _on_extended_headers(self, data: bytes) -> Event | None:
        _no_data(data)
        self.dialect = Dialect.EXTENDED
        self._outbox.append(options.reply(Option.EXTENDED_HEADERS, Reply.ACK))
        return None

    def _on_list_contexts(self, data: bytes) -> Event | None:
        return self._want_contexts(Option.LIST_META_CONTEXT, data)

    def _on_set_contexts(self, data: bytes) -> Event | None:
        self.contexts, self._contexts_of = (), None  # also when it fails
        return self._want_contexts(Option.SET_META_CONTEXT, data)

    def _want_contexts(self, option: Option, data: bytes) -> Event | None:
        if self.dialect is Dialect.SIMPLE:
            raise BadOption(Reply.ERR_INVALID, "metadata contexts need structured replies")
        asked = options.parse_context_request(data, self._bounds.queries_max)
        self._check_export_name(asked.name)
        return self._ask(WantContexts(option, asked.name, asked.queries))

    def _check_export_name(self, name: str) -> None:
        if len(name.encode()) > self._bounds.export_name_bytes_max:
            raise BadOption(Reply.ERR_UNKNOWN, "no export has so long a name")

    # --- answers -----------------------------------------------------------------------------------------

    def _ask(self, question: WantList | WantExport | WantContexts) -> Event:
        self._question = question
        self._move(Input.QUESTION)
        return question

    def _say(self, option: int, kind: Reply, cause: str) -> None:
        self._outbox.append(options.refusal(option, kind, cause))

    def _leave(self) -> Event:
        self._move(Input.LEAVE)
        return Leave()

    def refuse(self, kind: Reply, cause: str) -> Event | None:
        """The question is answered with an error; for EXPORT_NAME, which has none, by leaving."""
        question = self._question
        assert question is not None
        self._question = None
        option = Option.LIST if isinstance(question, WantList) else question.option
        if option is Option.EXPORT_NAME:
            return self._leave()
        self._say(option, kind, cause)
        self._move(Input.ANSWERED)
        return None

    def answer_list(self, names: Sequence[tuple[str, str]], names_max: int) -> None:
        """What LIST shows: (name, description). If there are more than ``names_max``, so many of them and an error
        in the place of the end: no client takes them for all."""
        assert isinstance(self._question, WantList)
        self._question = None
        shown = names[:names_max]
        self._options_max = max(
            self._options_max, self._bounds.options_max + self._bounds.options_per_export * len(shown)
        )
        self._outbox.append(options.list_replies(shown))
        if len(names) > len(shown):
            told = f"{len(names)} exports are too many to be listed; ask for them by name"
            self._say(Option.LIST, Reply.ERR_TOO_BIG, told)
        else:
            self._outbox.append(options.reply(Option.LIST, Reply.ACK))
        self._move(Input.ANSWERED)

    def accept_export(self, facts: ExportFacts) -> None:
        """The export is to be had. After GO and EXPORT_NAME the option phase is over."""
        question = self._question
        assert isinstance(question, WantExport)
        self._question = None
        if question.option is Option.EXPORT_NAME:
            self._outbox.append(options.export_name_answer(facts, padded=self._padded))
        else:
            self._outbox.append(options.export_replies(question.option, facts, question.wanted))
        if question.keep and question.name != self._contexts_of:
            self.contexts, self._contexts_of = (), None
        self._move(Input.OPENED if question.keep else Input.ANSWERED)

    def answer_contexts(self, names: Iterable[str]) -> None:
        """The contexts that the queries name. Selected ones get their place as their id."""
        question = self._question
        assert isinstance(question, WantContexts)
        found = list(dict.fromkeys(names))
        if question.select and len(found) > self._bounds.contexts_max:
            self.refuse(Reply.ERR_TOO_BIG, f"at most {self._bounds.contexts_max} contexts at once")
            return
        self._question = None
        if question.select:
            self.contexts, self._contexts_of = tuple(found), question.name
            numbered = list(enumerate(found))
        else:
            numbered = [(0, name) for name in found]
        self._outbox.append(options.context_replies(question.option, numbered))
        self._move(Input.ANSWERED)

    def tls_started(self) -> None:
        """The connection is encrypted now: what was said before it was said by anybody."""
        self._move(Input.SECURED)
        self.tls = Tls.ACTIVE
        self.dialect = Dialect.SIMPLE
        self.contexts, self._contexts_of = (), None
        self._inbox.clear()


def _no_data(data: bytes) -> None:
    if data:
        raise BadOption(Reply.ERR_INVALID, "this option has no data")


_STEPS: Final[dict[State, Callable[[Handshake], Event | None]]] = {
    State.FLAGS: Handshake._read_flags,
    State.OPTIONS: Handshake._read_option,
    State.SKIPPING: Handshake._skip_option,
}

_OPTIONS: Final[dict[int, Callable[[Handshake, bytes], Event | None]]] = {
    Option.EXPORT_NAME: Handshake._on_export_name,
    Option.ABORT: Handshake._on_abort,
    Option.LIST: Handshake._on_list,
    Option.STARTTLS: Handshake._on_starttls,
    Option.INFO: Handshake._on_info,
    Option.GO: Handshake._on_go,
    Option.STRUCTURED_REPLY: Handshake._on_structured_reply,
    Option.LIST_META_CONTEXT: Handshake._on_list_contexts,
    Option.SET_META_CONTEXT: Handshake._on_set_contexts,
    Option.EXTENDED_HEADERS: Handshake._on_extended_headers,
}
