"""The server's side of the option phase as a machine without I/O: bytes in, events and answers out.

    machine.receive(data)       what came
    machine.next_event()        the next thing the session must do, None: more bytes are needed
    machine.take_answers()      bytes to send; always before acting on an event

``option_input.py`` cuts the bytes into options, ``option_handlers.py`` says what each option does. An option that
depends on the exports (which are there, is this one to be had) comes out as an event; the machine is then in
ANSWERING and looks at no further byte until the session has given the answer through ``accept_export``,
``answer_list``, ``answer_contexts`` or ``refuse``.

What would break it:

* State from before STARTTLS must not survive it, nor may bytes that came in plaintext behind it be read
  as if they had come through TLS: a middleman could have put them there. ``tls_started`` forgets both.
* Everything a client may repeat is counted: options a session (more where more exports were listed, since clients
  ask about each on the same connection), queries an option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Final

from revolume.nbd.bounds.limits import OptionLimits
from revolume.nbd.server.handshake_events import (
    Event,
    Leave,
    Question,
    StartTls,
    WantContexts,
    WantExport,
    WantList,
)
from revolume.nbd.server.option_handlers import OPTION_HANDLERS, Agreement, Tls
from revolume.nbd.server.option_input import OptionInput
from revolume.nbd.wire import options
from revolume.nbd.wire.constants import HandshakeFlag, Option, Reply
from revolume.nbd.wire.errors import ProtocolError
from revolume.nbd.wire.greeting import server_greeting
from revolume.nbd.wire.options import BadOption, ExportFacts

_TLS_REQUIRED: Final = "this server speaks only through TLS"


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


class Handshake:
    """The option phase of one connection."""

    def __init__(self, tls: Tls, limits: OptionLimits) -> None:
        self.state = State.FLAGS
        self.agreed = Agreement(tls)
        self.count = 0  # options so far
        self._limits = limits
        self._options_max = limits.options_max
        self._client_flags = HandshakeFlag(0)
        self._question: Question | None = None
        self._input = OptionInput(limits.option_bytes_max)
        self._answers = [server_greeting()]

    # --- bytes -------------------------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview) -> None:
        """Bytes from the client."""
        self._input.receive(data)

    @property
    def unread_bytes(self) -> int:
        """Received and not yet looked at; the session stops reading when this grows too large."""
        return self._input.unread_bytes

    def take_answers(self) -> bytes:
        """What there is to send."""
        answers = b"".join(self._answers)
        self._answers.clear()
        return answers

    def take_first_requests(self) -> bytes:
        """What came behind the option that opened the export: the first bytes of the transmission phase."""
        assert self.state is State.TRANSMISSION
        return self._input.take_all()

    # --- events ------------------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """The next thing to do, or None until more bytes came. ProtocolError: close without an answer."""
        while True:
            before = (self.state, self._input.unread_bytes)
            step = _STEPS.get(self.state)
            event = step(self) if step is not None else None
            if event is not None or (self.state, self._input.unread_bytes) == before:
                return event

    def _move(self, cause: Input) -> None:
        self.state = TRANSITIONS[self.state, cause]

    def _read_flags(self) -> Event | None:
        flags = self._input.next_flags()
        if flags is not None:
            self._client_flags = flags
            self._move(Input.FLAGS)
        return None

    def _read_option(self) -> Event | None:
        received = self._input.next_option()
        if received is None:
            return None
        self.count += 1
        if self.count > self._options_max:
            raise ProtocolError(f"more than {self._options_max} options")
        if received.data is None:
            return self._begin_skipping(received.option)
        return self._on_option(received.option, received.data)

    def _begin_skipping(self, option: int) -> Event | None:
        if option == Option.EXPORT_NAME:
            return self._leave()
        if self.agreed.must_secure(option):
            self._refuse_option(option, Reply.ERR_TLS_REQD, _TLS_REQUIRED)
        else:
            limit = self._limits.option_bytes_max
            self._refuse_option(option, Reply.ERR_TOO_BIG, f"an option has at most {limit} bytes")
        self._move(Input.LONG_OPTION)
        return None

    def _skip_option(self) -> Event | None:
        if self._input.skip():
            self._move(Input.SKIPPED)
        return None

    def _on_option(self, option: int, data: bytes) -> Event | None:
        if option != Option.EXPORT_NAME and not self._client_flags & HandshakeFlag.FIXED_NEWSTYLE:
            raise ProtocolError("an option that a client of the unfixed newstyle protocol has no answer for")
        try:
            return self._handle(option, data)
        except BadOption as bad:
            if option == Option.EXPORT_NAME:
                return self._leave()
            self._refuse_option(option, bad.reply, bad.cause)
            return None

    def _handle(self, option: int, data: bytes) -> Event | None:
        if self.agreed.must_secure(option):
            raise BadOption(Reply.ERR_TLS_REQD, _TLS_REQUIRED)
        handler = OPTION_HANDLERS.get(option)
        if handler is None:
            raise BadOption(Reply.ERR_UNSUP, "unknown option")
        event = handler(self.agreed, self._limits, data)
        if isinstance(event, WantList | WantExport | WantContexts):
            self._question = event
            self._move(Input.QUESTION)
            return event
        self._answers.append(options.reply(option, Reply.ACK))
        if isinstance(event, StartTls):
            self._move(Input.STARTTLS)
        elif isinstance(event, Leave):
            self._move(Input.LEAVE)
        return event

    def _refuse_option(self, option: int, kind: Reply, cause: str) -> None:
        self._answers.append(options.refusal(option, kind, cause))

    def _leave(self) -> Event:
        self._move(Input.LEAVE)
        return Leave()

    # --- answers -----------------------------------------------------------------------------------------

    def refuse(self, kind: Reply, cause: str) -> Event | None:
        """The question is answered with an error; for EXPORT_NAME, which has none, by leaving."""
        question = self._question
        assert question is not None
        self._question = None
        option = Option.LIST if isinstance(question, WantList) else question.option
        if option is Option.EXPORT_NAME:
            return self._leave()
        self._refuse_option(option, kind, cause)
        self._move(Input.ANSWERED)
        return None

    def answer_list(self, names: Sequence[tuple[str, str]], names_max: int) -> None:
        """What LIST shows: (name, description). If there are more than ``names_max``, so many of them and an error
        in the place of the end: no client takes them for all."""
        assert isinstance(self._question, WantList)
        self._question = None
        shown = names[:names_max]
        self._options_max = max(
            self._options_max, self._limits.options_max + self._limits.options_per_export * len(shown)
        )
        self._answers.append(options.list_replies(shown))
        if len(names) > len(shown):
            told = f"{len(names)} exports are too many to be listed; ask for them by name"
            self._refuse_option(Option.LIST, Reply.ERR_TOO_BIG, told)
        else:
            self._answers.append(options.reply(Option.LIST, Reply.ACK))
        self._move(Input.ANSWERED)

    def accept_export(self, facts: ExportFacts) -> None:
        """The export is to be had. After GO and EXPORT_NAME the option phase is over."""
        question = self._question
        assert isinstance(question, WantExport)
        self._question = None
        if question.option is Option.EXPORT_NAME:
            self._answers.append(
                options.export_name_answer(facts, padded=not self._client_flags & HandshakeFlag.NO_ZEROES)
            )
        else:
            self._answers.append(options.export_replies(question.option, facts, question.wanted))
        if question.keep and question.name != self.agreed.contexts_of:
            self.agreed.unselect()
        self._move(Input.OPENED if question.keep else Input.ANSWERED)

    def answer_contexts(self, names: Iterable[str]) -> None:
        """The contexts that the queries name. Selected ones get their place as their id."""
        question = self._question
        assert isinstance(question, WantContexts)
        found = list(dict.fromkeys(names))
        if question.select and len(found) > self._limits.contexts_max:
            self.refuse(Reply.ERR_TOO_BIG, f"at most {self._limits.contexts_max} contexts at once")
            return
        self._question = None
        if question.select:
            self.agreed.select(tuple(found), question.name)
            numbered = list(enumerate(found))
        else:
            numbered = [(0, name) for name in found]
        self._answers.append(options.context_replies(question.option, numbered))
        self._move(Input.ANSWERED)

    def tls_started(self) -> None:
        """The connection is encrypted now: what came before, agreed on or not looked at yet, is dropped."""
        self._move(Input.SECURED)
        self.agreed.begin_tls()
        self._input.take_all()


_STEPS: Final[dict[State, Callable[[Handshake], Event | None]]] = {
    State.FLAGS: Handshake._read_flags,
    State.OPTIONS: Handshake._read_option,
    State.SKIPPING: Handshake._skip_option,
}
