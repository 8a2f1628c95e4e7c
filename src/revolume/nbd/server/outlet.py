"""Where the replies of one connection go: the wire, and the charge for what the client does not take."""

from __future__ import annotations

from typing import Final

from revolume.host.network import Wire
from revolume.nbd.bounds.budget import Account
from revolume.nbd.bounds.limits import Limits

_CLOGGED_BYTES_MIN: Final = 512 << 10  # above every wire's low-water mark, so that ``writable`` will come


class Outlet:
    """Sends replies on ``wire``. Its unsent bytes are charged to ``account``, the connection's."""

    __slots__ = ("_account", "_backlog_bytes_max", "_wire", "closed", "sent_bytes")

    def __init__(self, wire: Wire, account: Account, limits: Limits) -> None:
        self._wire = wire
        self._account = account
        self._backlog_bytes_max = limits.backlog_bytes_max
        self.closed = False
        self.sent_bytes = 0  # given to the wire

    def send(self, buffers: list[memoryview]) -> None:
        """Send ``buffers`` in order; they must not change afterwards. After the connection's end: nothing."""
        if self.closed:
            return
        for buffer in buffers:
            self.sent_bytes += len(buffer)
        self._wire.send(buffers)
        if self._wire.backlog or self._account.held_bytes:
            self.count_backlog()

    def count_backlog(self) -> None:
        """Charge what the client does not take; a little, below any wire's low-water mark, is free."""
        self._account.note_backlog(self.blocked_bytes)

    @property
    def backlog(self) -> int:
        """Bytes of replies that the socket did not take yet."""
        return self._wire.backlog

    @property
    def blocked_bytes(self) -> int:
        """``backlog``, or 0 where it is so small that the wire does not report when it is gone."""
        backlog = self._wire.backlog
        return backlog if backlog > _CLOGGED_BYTES_MIN else 0

    @property
    def clogged(self) -> bool:
        """The client does not take its replies: begin nothing that makes more of them."""
        backlog = self._wire.backlog
        return backlog > _CLOGGED_BYTES_MIN and (backlog > self._backlog_bytes_max or self._account.exhausted)

    @property
    def taken_bytes(self) -> int:
        """Bytes that the client has taken."""
        return self.sent_bytes - self._wire.backlog
