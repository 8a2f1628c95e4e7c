"""What may be said of a mirror on the command line, and what is refused with a sentence."""

from __future__ import annotations

import pytest

from revolume.cli.mirror_options import mirror_address, parse_mirror, parse_mirrors
from revolume.errors import UsageError
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.on_lost import BLOCK_WHEN_LOST, AskedOnLost, OnLost


def test_a_mirror_is_named_by_its_address_and_has_the_defaults() -> None:
    mirror = parse_mirror("backup", "async", "all")
    assert (mirror.address, mirror.name, mirror.sync) == ("backup:10810", "backup:10810", False)
    assert (mirror.peer, mirror.history) == (None, History.ALL)


def test_options_of_its_own_come_first() -> None:
    mirror = parse_mirror("backup:7,mode=sync,name=b,peer=node-b,history=none", "async", "all")
    assert (mirror.address, mirror.name, mirror.sync) == ("backup:7", "b", True)
    assert (mirror.peer, mirror.history) == ("node-b", History.NONE)


@pytest.mark.parametrize(
    ("text", "address"),
    [("b", "b:10810"), ("b:1", "b:1"), ("[::1]", "[::1]:10810"), ("unix:/run/m", "unix:/run/m")],
)
def test_the_port_may_be_left_out(text: str, address: str) -> None:
    assert mirror_address(text) == address


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("b,mode", "mirror-syntax"),
        ("b,colour=red", "mirror-syntax"),
        ("b,mode=sync,mode=async", "mirror-syntax"),
        ("b,mode=later", "mirror-mode"),
        ("b,history=some", "mirror-history"),
        ("b,name=", "mirror-name"),
        ("b,name=a\nb", "mirror-name"),
        (f"b,name={'n' * 256}", "mirror-name"),
    ],
)
def test_what_is_not_understood_is_refused(text: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_mirror(text, "sync")
    assert refused.value.code == code


@pytest.mark.parametrize("texts", [["b,name=x", "b,name=y"], ["b,name=x", "c,name=x"]])
def test_two_mirrors_differ_in_address_and_name(texts: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        parse_mirrors(texts, "sync")
    assert refused.value.code == "mirror-twice"


def test_defaults_are_checked_also_without_mirrors() -> None:
    assert parse_mirrors([], "sync") == ()
    with pytest.raises(UsageError, match="--mode"):
        parse_mirrors([], "later")
    for policy, deadline in (("go-on", None), (None, "0"), ("detach", "500ms"), ("detach", "2h"), ("detach", "x")):
        with pytest.raises(UsageError):
            parse_mirrors([], None, None, policy, deadline)


def test_what_happens_when_a_mirror_is_lost() -> None:
    assert parse_mirror("a", None).lost == AskedOnLost()
    assert parse_mirror("a,on-lost=block", None, None, "detach", "5s").lost == AskedOnLost(False, 5000)
    assert parse_mirror("a,on-lost=detach,deadline=20s", None).lost == AskedOnLost(True, 20_000)
    assert parse_mirror("a", None, None, "detach").lost.applied(BLOCK_WHEN_LOST) == OnLost(True, 20_000)
