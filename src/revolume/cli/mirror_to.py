"""``--mirror-to ADDR[,mode=sync|async][,name=NAME][,peer=NAME]``: where a mirror of a volume is, what it is for,
and whose certificate it must show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from revolume.errors import Refused, UsageError
from revolume.volume.base_history import History

PORT: Final = 10810
MODES: Final = ("sync", "async")
LOST_POLICIES: Final = ("block",)
NAME_BYTES_MAX: Final = 255
_OPTION = re.compile(r"([a-z-]+)=(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MirrorTo:
    """One mirror as the command line has it."""

    address: str
    sync: bool
    name: str
    peer: str | None = None
    """The name for which its certificate must be valid, instead of the address's host. None: as it was before."""
    history: History = History.NAMED


def mirror_address(text: str) -> str:
    """``text`` as an address is written; the port may be left out. UsageError."""
    from revolume.cli.addresses import normalised

    if text.startswith("unix:"):
        return normalised(text)
    bare = bool(text) and (":" not in text or text.endswith("]"))
    return normalised(f"{text}:{PORT}" if bare else text)


def parse_mirrors(texts: list[str], mode: str, history: str = "named") -> tuple[MirrorTo, ...]:
    """All of them; ``mode`` and ``history`` for those that name none. UsageError, also where two are the same."""
    _known_mode(mode, "--mode")
    _known_history(history, "--history")
    mirrors = tuple(parse_mirror(text, mode, history) for text in texts)
    for what, values in (("address", [m.address for m in mirrors]), ("name", [m.name for m in mirrors])):
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UsageError("mirror-twice", f"Two mirrors have the {what} {twice}.", "Leave one out.")
    return mirrors


def parse_mirror(text: str, mode: str, history: str = "named") -> MirrorTo:
    """One of them."""
    address, *options = text.split(",")
    given: dict[str, str] = {}
    for option in options:
        found = _OPTION.fullmatch(option)
        if found is None or found[1] not in ("mode", "name", "peer", "history") or found[1] in given:
            raise UsageError(
                "mirror-syntax", f"{text[:200]!a} is no mirror: {option[:80]!a} is not understood.",
                "Write ADDR, and behind commas mode=sync|async, name=NAME, history=named|all|none, peer=NAME.",
            )  # fmt: skip
        given[found[1]] = found[2]
    place = mirror_address(address)
    return MirrorTo(
        place,
        _known_mode(given.get("mode", mode), text) == "sync",
        _fit_name(given.get("name", place)),
        given.get("peer"),
        _known_history(given.get("history", history), text),
    )


def _known_history(history: str, where: str) -> History:
    try:
        return History(history)
    except ValueError:
        raise UsageError(
            "mirror-history", f"{where[:200]!a}: {history[:80]!a} is no history.", "It is named, all or none."
        ) from None


def _known_mode(mode: str, where: str) -> str:
    if mode not in MODES:
        raise UsageError("mirror-mode", f"{where[:200]!a}: {mode[:80]!a} is no mode.", "It is sync or async.")
    return mode


def _fit_name(name: str) -> str:
    if not name or not name.isprintable() or len(name.encode()) > NAME_BYTES_MAX:
        raise UsageError(
            "mirror-name", f"{name[:80]!a} is no name for a mirror.", "Use 1 to 255 bytes of printable text."
        )
    return name


def check_lost_policy(policy: str) -> None:
    """UsageError: there is one policy so far."""
    if policy not in LOST_POLICIES:
        raise UsageError(
            "on-lost",
            f"--on-lost {policy[:80]!a} is not known.",
            "The only policy is 'block': replies wait for a lost sync mirror until it is back or detached.",
        )


def refuse_plaintext(addresses: list[str], tls_dir: str | None) -> None:
    """Refused where a link would leave the machine unencrypted: whoever speaks to a mirror can change it."""
    from revolume.cli.addresses import leaves_the_machine

    for address in addresses:
        if tls_dir is None and leaves_the_machine(address):
            raise Refused(
                "mirror-plaintext",
                f"{address} is not on this machine, and there is no TLS.",
                "Give --tls-dir with ca-cert.pem, server-*.pem and client-*.pem on both nodes; mirror links have "
                "no plain mode off the machine (--allow-plaintext is for NBD).",
            )
