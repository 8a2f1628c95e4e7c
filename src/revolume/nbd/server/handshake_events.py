"""What the option phase asks of the session: values that ``Handshake.next_event`` returns."""

from __future__ import annotations

from dataclasses import dataclass

from revolume.nbd.wire.constants import Option


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


Question = WantList | WantExport | WantContexts
"""What the session has to answer before the next option is read."""

Event = Question | StartTls | Leave
