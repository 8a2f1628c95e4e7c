"""``--mirror-to ADDR[,mode=sync|async][,name=NAME][,history=H][,peer=NAME][,on-lost=P][,deadline=T]``, and the
options that go with it."""

from __future__ import annotations

import re
from typing import Final

from revolume.cli.values import parse_seconds
from revolume.errors import UsageError
from revolume.node.addresses import absolute, normalised
from revolume.node.mirror_to import MirrorTo, fit_name, known_history, known_mode, known_on_lost
from revolume.volume.metadata.on_lost import AskedOnLost

PORT: Final = 10810
_KNOWN: Final = ("mode", "name", "peer", "history", "on-lost", "deadline")
_OPTION = re.compile(r"([a-z-]+)=(.*)", re.DOTALL)


def mirror_address(text: str) -> str:
    """``text`` as an address is written; the port may be left out. UsageError."""
    if text.startswith("unix:"):
        return normalised(text)
    bare = bool(text) and (":" not in text or text.endswith("]"))
    return normalised(f"{text}:{PORT}" if bare else text)


def place(text: str) -> str:
    """A mirror's name, or an address that means the same to a process with another working directory."""
    return absolute(mirror_address(text)) if any(sign in text for sign in ":./") else text


def parse_mirrors(
    texts: list[str], mode: str | None, history: str | None = None, on_lost: str | None = None,
    deadline: str | None = None,
) -> tuple[MirrorTo, ...]:  # fmt: skip
    """All of them; ``mode`` and what else is given for those that name none. UsageError, also where two are the
    same."""
    asked_on_lost(on_lost, deadline, "--on-lost")
    known_mode(mode, "--mode")
    known_history(history, "--history")
    mirrors = tuple(parse_mirror(text, mode, history, on_lost, deadline) for text in texts)
    for what, values in (("address", [m.address for m in mirrors]), ("name", [m.name for m in mirrors])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UsageError("mirror-twice", f"Two mirrors have the {what} {twice}.", "Leave one out.")
    return mirrors


def parse_mirror(
    text: str,
    mode: str | None,
    history: str | None = None,
    on_lost: str | None = None,
    deadline: str | None = None,
) -> MirrorTo:
    """One of them."""
    address, *options = text.split(",")
    given: dict[str, str] = {}
    for option in options:
        found = _OPTION.fullmatch(option)
        if found is None or found[1] not in _KNOWN or found[1] in given:
            raise UsageError(
                "mirror-syntax", f"{text[:200]!a} is not a mirror: {option[:80]!a} is not understood.",
                "Write ADDR, and after commas mode=sync|async, name=NAME, history=named|all|none, peer=NAME, "
                "on-lost=block|detach, deadline=20s.",
            )  # fmt: skip
        given[found[1]] = found[2]
    place = mirror_address(address)
    return MirrorTo(
        absolute(place),
        known_mode(given.get("mode", mode), text),
        fit_name(given.get("name", place)),
        given.get("peer"),
        known_history(given.get("history", history), text),
        asked_on_lost(given.get("on-lost", on_lost), given.get("deadline", deadline), text),
        named="name" in given,
    )


def asked_on_lost(policy: str | None, deadline: str | None, where: str) -> AskedOnLost:
    """What becomes of answers when a mirror is lost. UsageError."""
    return known_on_lost(policy, None if deadline is None else parse_seconds(deadline), where)
