"""Addresses that a promoted mirror takes over: all of them are bound, or none stays so."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from revolume.errors import Refused, RevolumeError
from revolume.node.service_options import ServiceOptions
from revolume.node.takeover import reserve


class Bound:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.state = "bound"

    def open(self) -> None:
        self.state = "open"

    def close(self) -> None:
        self.state = "closed"


class Server:
    """Binds any address but ``taken``."""

    def __init__(self, taken: str = "") -> None:
        self.bound: list[Bound] = []
        self.tls: list[bool] = []
        self._taken = taken

    async def bind(self, address: str, *, tls_required: bool) -> Bound:
        if address == self._taken:
            raise RevolumeError("address-taken", "Somebody listens there.")
        self.tls.append(tls_required)
        self.bound.append(Bound(f"nbd{'s' * tls_required}://{address}"))
        return self.bound[-1]


def reserved(server: Server, *addresses: str, **options: Any) -> Any:
    return asyncio.run(reserve(cast(Any, server), ServiceOptions("/v", (), **options), addresses))


def test_the_volume_is_found_where_clients_knew_the_old_primary() -> None:
    server = Server()
    takeover = reserved(server, "127.0.0.1:10809", "127.0.0.1:7")
    assert [each.state for each in server.bound] == ["bound", "bound"]
    assert takeover.open("vm") == ("nbd://127.0.0.1:10809/vm", "nbd://127.0.0.1:7/vm")
    assert [each.state for each in server.bound] == ["open", "open"]


def test_one_that_is_taken_gives_the_others_back() -> None:
    server = Server(taken="127.0.0.1:7")
    with pytest.raises(RevolumeError, match="listens"):
        reserved(server, "127.0.0.1:10809", "127.0.0.1:7")
    assert [each.state for each in server.bound] == ["closed"]


def test_another_machine_is_not_served_without_tls() -> None:
    server = Server()
    with pytest.raises(Refused):
        reserved(server, "10.0.0.1:10809")
    assert server.bound == []
    reserved(server, "10.0.0.1:10809", plaintext_allowed=True).close()
    assert [each.state for each in server.bound] == ["closed"]
    assert server.tls == [False]
