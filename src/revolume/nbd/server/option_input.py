"""The bytes of the option phase, cut into the client's flags and whole options.

An option's announced length is only a claim: an option that is longer than ``option_bytes_max`` is skipped without
being kept, so the stream stays in step and memory stays small.
"""

from __future__ import annotations

from dataclasses import dataclass

from revolume.nbd.wire.constants import OPTION_MAGIC, HandshakeFlag
from revolume.nbd.wire.errors import ProtocolError
from revolume.nbd.wire.greeting import CLIENT_FLAGS, parse_client_flags
from revolume.nbd.wire.options import OPTION_HEADER


@dataclass(frozen=True, slots=True)
class ReceivedOption:
    """One option. ``data`` is None if it is longer than is kept: call ``OptionInput.skip`` until it is over."""

    option: int
    data: bytes | None


class OptionInput:
    """What a client has sent in the option phase and what nobody has looked at yet."""

    def __init__(self, option_bytes_max: int) -> None:
        self._option_bytes_max = option_bytes_max
        self._buffer = bytearray()
        self._skip_bytes = 0

    def receive(self, data: bytes | memoryview) -> None:
        """Append bytes from the client; they are copied."""
        self._buffer += data

    @property
    def unread_bytes(self) -> int:
        """Received and not yet looked at."""
        return len(self._buffer)

    def next_flags(self) -> HandshakeFlag | None:
        """The client's handshake flags; None: more bytes are needed. ProtocolError: unknown flags."""
        if len(self._buffer) < CLIENT_FLAGS.size:
            return None
        flags = parse_client_flags(self._buffer)
        del self._buffer[: CLIENT_FLAGS.size]
        return flags

    def next_option(self) -> ReceivedOption | None:
        """The next option; None: more bytes are needed. ProtocolError: the stream is out of step."""
        if len(self._buffer) < OPTION_HEADER.size:
            return None
        magic, option, length = OPTION_HEADER.unpack_from(self._buffer)
        if magic != OPTION_MAGIC:
            raise ProtocolError("an option without its magic")
        if length > self._option_bytes_max:
            del self._buffer[: OPTION_HEADER.size]
            self._skip_bytes = length
            return ReceivedOption(option, None)
        end = OPTION_HEADER.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[OPTION_HEADER.size : end])
        del self._buffer[:end]
        return ReceivedOption(option, data)

    def skip(self) -> bool:
        """Drop what has come of an option that is too long; whether all of it has."""
        skipped = min(self._skip_bytes, len(self._buffer))
        del self._buffer[:skipped]
        self._skip_bytes -= skipped
        return not self._skip_bytes

    def take_all(self) -> bytes:
        """Everything that is not looked at yet; nothing is left."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data
