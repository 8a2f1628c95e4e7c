"""``revolume mirror add|set|replace|remove|list DIR …``: the mirrors of a primary, while it runs or is stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from revolume.cli.mirror_options import asked_on_lost, mirror_address
from revolume.cli.options import JsonOption, VolumeArgument
from revolume.cli.output import print_json, print_line
from revolume.cli.target import existing
from revolume.errors import UsageError
from revolume.node.addresses import absolute
from revolume.node.mirror_to import fit_name, known_history, known_mode

if TYPE_CHECKING:
    from revolume.api.client import ControlClient
    from revolume.volume.metadata.on_lost import AskedOnLost

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The mirror's name, as status shows it.")]
NewNameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A name for it.")]
AddressArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="Where it is, or will be: unix:PATH or HOST[:10810].")
]
NewAddressOption = Annotated[str | None, typer.Option("--address", metavar="ADDR", help="Where it is now.")]
AddedModeOption = Annotated[
    str, typer.Option("--mode", help="sync: a write is answered when the mirror has it too; async: before.")
]
NewModeOption = Annotated[str | None, typer.Option("--mode", help="sync or async.")]
HistoryOption = Annotated[
    str,
    typer.Option("--history", help="What it gets of the past: named (from the oldest snapshot on), all, none."),
]
PeerOption = Annotated[
    str | None, typer.Option("--peer", metavar="NAME", help="The name that its certificate must have.")
]
LostOption = Annotated[
    str | None,
    typer.Option("--on-lost", help="block: answers wait for it when it is lost; detach: not after the deadline."),
]
DeadlineOption = Annotated[
    str | None, typer.Option("--deadline", metavar="TIME", help="For --on-lost detach.  [default: 20s]")
]
YesOption = Annotated[
    bool, typer.Option("--yes", help="Also if answered writes may live only on the copy that is given up.")
]


def register(app: typer.Typer) -> None:
    app.add_typer(verbs)


verbs = typer.Typer(name="mirror", help="The mirrors of a primary.")


def _running(volume: str) -> ControlClient | None:
    from revolume.api.client import connect

    return connect(existing(volume))


@verbs.command()
def add(
    volume: VolumeArgument,
    name: NewNameArgument,
    address: AddressArgument,
    mode: AddedModeOption = "sync",
    history: HistoryOption = "named",
    peer: PeerOption = None,
    on_lost: LostOption = None,
    deadline: DeadlineOption = None,
    json: JsonOption = False,
) -> None:
    """Mirror to this address too, from now on.

    What listens there is an empty directory, or a copy of this volume. Says how much has to be sent until the
    mirror protects anything. Where nobody answers yet it is connected to again and again.
    """
    fit_name(name)
    place = absolute(mirror_address(address))
    known_mode(mode, "--mode")
    known_history(history, "--history")
    lost = asked_on_lost(on_lost, deadline, "--on-lost")
    client = _running(volume)
    if client is not None:
        with client:
            more = {"mode": mode, "history": history, "peer": peer, "on_lost": on_lost, "deadline": _seconds(lost)}
            answer = client.add_mirror(name, place, **more)
    else:
        answer = _added_to_stopped(volume, name, place, mode, history, peer, lost)
    if json:
        print_json(answer)
    else:
        print_line(answer["told"])


def _added_to_stopped(
    volume: str, name: str, address: str, mode: str, history: str, peer: str | None, lost: AskedOnLost
) -> dict[str, Any]:
    from revolume.blocks.numbers import WriteNumber
    from revolume.host import real_host
    from revolume.volume.members.offline_orders import add_stopped
    from revolume.volume.metadata.base_history import History
    from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState
    from revolume.volume.metadata.on_lost import BLOCK_WHEN_LOST

    mirror = MirrorState(
        name, MirrorMode[mode.upper()], joined=False, point=0, write=WriteNumber(0), peer=peer or "",
        address=address, history=History(history), on_lost=lost.applied(BLOCK_WHEN_LOST),
    )  # fmt: skip
    add_stopped(real_host(), volume, mirror)
    told = f"Mirror {name} at {address} is added, {mode}. It is connected to when the volume is served."
    return {"name": name, "address": address, "mode": mode, "told": told, "answers": False}


def _seconds(lost: AskedOnLost) -> float | None:
    return None if lost.deadline_ms is None else lost.deadline_ms / 1000


@verbs.command("set")
def change(
    volume: VolumeArgument,
    name: NameArgument,
    mode: NewModeOption = None,
    address: NewAddressOption = None,
    peer: PeerOption = None,
    on_lost: LostOption = None,
    deadline: DeadlineOption = None,
    json: JsonOption = False,
) -> None:
    """Change a mirror's mode, address or certificate name, or what happens when it is lost.

    A mirror that is not in sync can't become a sync mirror while it lacks something: answers would wait for it.
    """
    if all(option is None for option in (mode, address, peer, on_lost, deadline)):
        raise UsageError(
            "nothing-to-set",
            "Nothing is to be changed.",
            "Give --mode, --address, --peer, --on-lost or --deadline.",
        )
    lost = asked_on_lost(on_lost, deadline, "--on-lost")
    known_mode(mode, "--mode")
    place = None if address is None else absolute(mirror_address(address))
    client = _running(volume)
    if client is not None:
        with client:
            more = {"mode": mode, "address": place, "peer": peer, "on_lost": on_lost, "deadline": _seconds(lost)}
            answer = client.set_mirror(name, **more)
    else:
        answer = _set_in_stopped(volume, name, mode, place, peer, lost)
    if json:
        print_json(answer)
    else:
        print_line(answer["told"])


def _set_in_stopped(
    volume: str, name: str, mode: str | None, address: str | None, peer: str | None, lost: AskedOnLost
) -> dict[str, Any]:
    from revolume.host import real_host
    from revolume.volume.members.offline_orders import set_stopped
    from revolume.volume.metadata.manifest_state import MirrorMode

    asked = None if mode is None else MirrorMode[mode.upper()]
    set_stopped(real_host(), volume, name, lost, mode=asked, address=address, peer=peer)
    policy = None if lost.detaches is None else "detached when lost" if lost.detaches else "waited for when lost"
    deadline = lost.deadline_ms and f"with a deadline of {lost.deadline_ms / 1000:g} s"
    certificate = peer and f"with the certificate of {peer}"
    said = [word for word in (mode, address and f"at {address}", certificate, policy, deadline) if word]
    return {"name": name, "told": f"Mirror {name} is {', '.join(said)} when the volume is served next."}


@verbs.command()
def replace(volume: VolumeArgument, name: NameArgument, yes: YesOption = False, json: JsonOption = False) -> None:
    """Let another copy become the mirror NAME.

    Once a copy has joined, the mirror is that copy: an empty directory or another copy at its address is refused.
    This gives the copy up. Until the next one has joined, answers do not wait for this mirror.
    """
    client = _running(volume)
    if client is not None:
        with client:
            told = client.replace_mirror(name, yes)
    else:
        from revolume.host import real_host
        from revolume.volume.members.replace import replace_stopped

        told = replace_stopped(real_host(), volume, name, yes)
    if json:
        print_json({"replaced": name, "told": told})
    else:
        print_line(told)


@verbs.command()
def remove(volume: VolumeArgument, name: NameArgument, json: JsonOption = False) -> None:
    """Give a mirror up, for good; 'revolume detach' is the same.

    Durable before anything is answered without it. Don't promote that mirror afterwards: it misses what comes.
    If it comes back it is a stranger, until it is added again.
    """
    from revolume.cli.verbs.detach import given_up

    given_up(volume, name)
    if json:
        print_json({"removed": name})
    else:
        print_line(f"mirror {name} is given up")


@verbs.command("list")
def listed(volume: VolumeArgument, json: JsonOption = False) -> None:
    """The mirrors: where each is, its state, and whether answers wait for it. At a mirror: all copies of the
    volume that it knows, and whether it is one of them."""
    from revolume.cli.client import read_client
    from revolume.cli.mirror_status import copy_lines, mirror_line

    with read_client(volume) as client:
        status = client.status()
    mirrors = list(status.get("mirrors", ()))
    if json:
        print_json(mirrors)
    else:
        for line in copy_lines(status) if status.get("source") else map(mirror_line, mirrors):
            print_line(line)
