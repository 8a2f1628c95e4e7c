"""Addresses as people write them."""

from __future__ import annotations

import pytest

from revolume.errors import UsageError
from revolume.host.address import TcpAddress, UnixAddress, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:/run/nbd.sock", UnixAddress("/run/nbd.sock")),
        ("unix:nbd:1.sock", UnixAddress("nbd:1.sock")),
        ("127.0.0.1:10809", TcpAddress("127.0.0.1", 10809)),
        ("host.example:0", TcpAddress("host.example", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        (":10809", TcpAddress("", 10809)),
    ],
)
def test_what_is_an_address(text: str, address: UnixAddress | TcpAddress) -> None:
    assert parse_address(text) == address
    assert str(address) == text


def test_a_star_is_every_address() -> None:
    assert parse_address("*:1") == TcpAddress("", 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unix:", "path is missing"),
        ("unix:a\0b", "path is missing"),
        ("localhost", "port is missing"),
        ("localhost:", "not a port"),
        ("localhost:http", "not a port"),
        ("localhost:65536", "not a port"),
        ("localhost:-1", "not a port"),
        ("localhost:١", "not a port"),
        ("::1:10809", "in brackets"),
        ("[::1:10809", "in brackets"),
        ("", "port is missing"),
    ],
)
def test_what_is_none_is_said_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_address(text)
