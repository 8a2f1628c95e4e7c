"""``revolume serve DIR``: one volume in the foreground, as qemu-nbd and nbdkit do it.

With ``--mirror-listen`` it serves a mirror: a copy that another node's ``--mirror-to`` feeds.

Reads the command line into one ``Serving`` value, refuses what would be unsafe before anything is touched,
and runs the service until a signal: SIGTERM and SIGINT are a clean stop and exit 0; so is SIGHUP, which a terminal
sends when it closes, but under a service manager it reads the TLS files again. Stdout has one ready
line for each address, flushed, and nothing else; the log goes to stderr.
"""

from __future__ import annotations

import re
from typing import Annotated

import typer

from revolume.cli.mirror_to import (
    NAME_BYTES_MAX,
    check_lost_policy,
    mirror_address,
    parse_mirrors,
    refuse_plaintext,
)
from revolume.cli.options import VolumeArgument
from revolume.cli.output import print_json_line, print_line
from revolume.cli.serving import Serving
from revolume.cli.target import trusted, wanted_name
from revolume.cli.values import parse_seconds, parse_size
from revolume.errors import UsageError

NameOption = Annotated[str | None, typer.Option("--name", help="The volume's name.  [default: DIR's base name]")]
SizeOption = Annotated[
    str | None, typer.Option("--size", help="Make the volume, with this size, if DIR has none.")
]
NbdOption = Annotated[
    list[str] | None,
    typer.Option(
        "--nbd", metavar="ADDR", help="unix:PATH or HOST:PORT; repeatable.  [default: unix:DIR/nbd.sock]"
    ),
]
IntervalOption = Annotated[str, typer.Option("--cp-interval", help="Time between consistency points.")]
KeepOption = Annotated[
    str, typer.Option("--keep", help="For how long, while open, every write is remembered: 90s, 30m, 24h, 7d.")
]
BudgetOption = Annotated[
    str | None,
    typer.Option("--budget", help="Room for history, from now on.  [default: half of what is free at creation]"),
]
MapMemoryOption = Annotated[str, typer.Option("--map-memory", help="Memory for the volume's map.")]
SegmentOption = Annotated[
    str | None,
    typer.Option(
        "--segment-size", help="Size of a log file.  [default: 64MiB, less below 1GiB; a mirror's: its source's]"
    ),
]
SpareOption = Annotated[
    str, typer.Option("--spare", help="Log written ahead for bursts; a quarter of the budget at most.")
]
OverlayOption = Annotated[
    str | None,
    typer.Option(
        "--overlay-quota", help="What one writable view (,rw) may take.  [default: a tenth of what is free then]"
    ),
]
TlsOption = Annotated[
    str | None,
    typer.Option(
        "--tls-dir",
        help="ca-cert.pem, server-cert.pem, server-key.pem: TLS, required on TCP, offered on unix.",
    ),
]
PlainOption = Annotated[bool, typer.Option("--allow-plaintext", help="Serve other machines without TLS.")]
ConnectionsOption = Annotated[int, typer.Option("--max-connections", min=1, max=10000, help="Clients at once.")]
SocketModeOption = Annotated[
    str, typer.Option("--socket-mode", metavar="OCTAL", help="Mode of unix sockets: who may connect.")
]
ListenOption = Annotated[
    str | None,
    typer.Option(
        "--mirror-listen", metavar="ADDR", help="Be a mirror; its source connects here. unix:PATH or HOST[:10810]."
    ),
]
SourceNameOption = Annotated[
    str | None,
    typer.Option(
        "--source-name", metavar="NAME", help="Of a mirror: the certificate's name that its source must have."
    ),
]
MirrorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror-to",
        metavar="ADDR[,mode=M][,name=N][,history=H][,peer=C]",
        help="Mirror to this address (HOST[:10810]); repeatable.",
    ),
]
ModeOption = Annotated[
    str, typer.Option("--mode", help="sync: a write is answered when the mirror has it too; async: before.")
]
HistoryOption = Annotated[
    str,
    typer.Option(
        "--history", help="What a new mirror gets of the past: named (from the oldest snapshot on), all, none."
    ),
]
LostOption = Annotated[str, typer.Option("--on-lost", help="A lost sync mirror means: replies wait (block).")]
AloneOption = Annotated[
    bool, typer.Option("--alone", help="After a crash, open without asking required mirrors for what is missing.")
]
EventOption = Annotated[
    str | None,
    typer.Option("--on-event", metavar="CMD", help="Run this on trouble: a mirror lost, nearly full, damage, …"),
]
JsonReady = Annotated[bool, typer.Option("--json", help="Ready lines and errors in JSON.")]


_INTERVAL_S_MIN = 0.1


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    volume: VolumeArgument,
    name: NameOption = None,
    size: SizeOption = None,
    nbd: NbdOption = None,
    cp_interval: IntervalOption = "5s",
    keep: KeepOption = "24h",
    budget: BudgetOption = None,
    map_memory: MapMemoryOption = "256MiB",
    segment_size: SegmentOption = None,
    spare: SpareOption = "1GiB",
    overlay_quota: OverlayOption = None,
    tls_dir: TlsOption = None,
    allow_plaintext: PlainOption = False,
    max_connections: ConnectionsOption = 100,
    socket_mode: SocketModeOption = "0600",
    mirror_listen: ListenOption = None,
    source_name: SourceNameOption = None,
    mirror_to: MirrorOption = None,
    mode: ModeOption = "sync",
    history: HistoryOption = "named",
    on_lost: LostOption = "block",
    alone: AloneOption = False,
    on_event: EventOption = None,
    json: JsonReady = False,
) -> None:
    """Serve a volume over NBD until stopped.

    SIGTERM, SIGINT and a terminal that closes (SIGHUP) are a clean stop. Under systemd SIGHUP reads the files of
    --tls-dir again, for new connections.
    """
    from revolume.cli.alarm import parse_command

    check_lost_policy(on_lost)
    if mirror_listen is not None:
        _refuse_of_source(name=name, size=size, mirror_to=mirror_to, alone=alone)
    asked = Serving(
        directory=trusted(volume),
        name=wanted_name(volume, name) if mirror_listen is None else None,
        size=None if size is None else parse_size(size),
        addresses=_addresses(volume, nbd or []),
        cp_interval_s=_interval(cp_interval),
        keep_s=parse_seconds(keep),
        budget_bytes=None if budget is None else parse_size(budget),
        map_memory_bytes=parse_size(map_memory),
        segment_bytes=None if segment_size is None else parse_size(segment_size),
        spare_bytes=parse_size(spare),
        overlay_quota_bytes=None if overlay_quota is None else parse_size(overlay_quota),
        tls_dir=tls_dir,
        plaintext_allowed=tls_dir is not None or allow_plaintext,
        connections_max=max_connections,
        socket_mode=_mode(socket_mode),
        mirror_listen=None if mirror_listen is None else mirror_address(mirror_listen),
        source_name=source_name,
        mirrors=parse_mirrors(mirror_to or [], mode, history),
        alone=alone,
        on_event=() if on_event is None else parse_command(on_event),
    )
    _check_source_name(asked)
    from revolume.cli import addresses

    addresses.refuse_plaintext(asked.addresses, allowed=asked.plaintext_allowed)
    links = [mirror.address for mirror in asked.mirrors]
    refuse_plaintext([*links, asked.mirror_listen] if asked.mirror_listen else links, tls_dir)
    from revolume.cli.service import run

    run(asked, lambda uri: _ready(uri, json=json))


def _refuse_of_source(**given: object) -> None:
    """A mirror's volume is what its source says."""
    for option, value in given.items():
        if value:
            raise UsageError(
                "mirror-option",
                f"--{option.replace('_', '-')} does not go with --mirror-listen: that comes from its source.",
                "Leave one of them out.",
            )


def _check_source_name(asked: Serving) -> None:
    if asked.source_name is None:
        return
    if asked.mirror_listen is None:
        raise UsageError("source-name", "--source-name is for a mirror.", "Give --mirror-listen with it.")
    if asked.tls_dir is None:
        raise UsageError("source-name", "--source-name needs certificates.", "Give --tls-dir with it.")
    fit = asked.source_name.isprintable() and len(asked.source_name.encode()) <= NAME_BYTES_MAX
    if not fit or not asked.source_name:
        raise UsageError("source-name", f"{asked.source_name[:80]!a} is no name of a certificate.")


def _mode(text: str) -> int:
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise UsageError("bad-mode", f"{text[:80]!a} is no mode.", "Write it in octal: 0600, 0660 or 0666.")
    return int(text, 8)


def _interval(text: str) -> float:
    seconds = parse_seconds(text)
    if seconds < _INTERVAL_S_MIN:
        cause = f"{text[:80]!a} is too short a time between consistency points."
        raise UsageError("bad-interval", cause, "Use 100ms or more; 5s is the default.")
    return seconds


def _ready(uri: str, *, json: bool) -> None:
    if json:
        print_json_line({"ready": uri})
    else:
        print_line(f"ready {uri}")


def _addresses(directory: str, given: list[str]) -> tuple[str, ...]:
    """What to announce: what was asked for, else the socket in DIR (which is always there for the verbs)."""
    from revolume.cli.addresses import normalised, own_address

    asked = [normalised(text) for text in given]
    if len(set(asked)) < len(asked):
        raise UsageError("address-twice", "An --nbd address is given twice.", "Leave one out.")
    return tuple(asked) or (own_address(directory),)
