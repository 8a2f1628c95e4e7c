"""``revolume serve DIR``: one volume in the foreground, as qemu-nbd and nbdkit do it.

What is there says what it is: a primary, whose mirrors it knows, or a mirror, a copy that another node feeds. An
empty directory becomes a primary with ``--size``, a mirror with ``--mirror-listen``.

Reads the command line into one ``ServiceOptions`` value, refuses what would be unsafe before anything is touched,
and runs the service until a signal: SIGTERM and SIGINT are a clean stop and exit 0; so is SIGHUP, which a terminal
sends when it closes; nohup has it ignored, and under a service manager it reads the TLS files again. Stdout has
one ready line for each address, flushed, and nothing else; the log goes to stderr.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from revolume.api.keep_text import parse_policy, parse_when_full
from revolume.cli.hook_command import parse_command
from revolume.cli.mirror_options import mirror_address, parse_mirrors
from revolume.cli.options import VolumeArgument
from revolume.cli.output import print_json_line, print_line
from revolume.cli.target import wanted_name
from revolume.cli.values import parse_bulk_window, parse_rate, parse_seconds, parse_size
from revolume.errors import UsageError
from revolume.host.owner import trusted
from revolume.node.addresses import absolute, normalised, own_address, refuse_plaintext, refuse_plaintext_links
from revolume.node.mirror_to import NAME_BYTES_MAX
from revolume.node.service_options import ServiceOptions
from revolume.pace.limits import BulkLimits

if TYPE_CHECKING:
    from revolume.nbd.bounds.limits import Limits

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
    str | None,
    typer.Option(
        "--keep",
        metavar="POLICY",
        help="What is remembered, in time while it is open: 24h of every write; or every-write=24h every-cp=3d "
        "hourly=7d daily=30d.  [default: as before, or 24h]",
    ),
]
FullOption = Annotated[
    str | None,
    typer.Option(
        "--when-full",
        help="Without room for that: shrink (the oldest goes), block (writers wait), refuse (they get an error).  "
        "[default: as before, or shrink]",
    ),
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
        "--mirror-listen",
        metavar="ADDR",
        help="Where other nodes connect: unix:PATH or HOST[:10810]. Of an empty directory: be a mirror.  "
        "[default: as before]",
    ),
]
AdvertiseOption = Annotated[
    str | None,
    typer.Option(
        "--advertise",
        metavar="ADDR",
        help="Where other nodes reach --mirror-listen.  [default: as before, or the same]",
    ),
]
SeedOption = Annotated[
    str | None,
    typer.Option(
        "--seed",
        metavar="IMAGE",
        help="Of a new mirror: a raw image of the volume, as on a shipped disk. What differs from it is sent.",
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
        metavar="ADDR[,mode=M][,name=N][,history=H][,peer=C][,on-lost=P][,deadline=T]",
        help="Mirror to this address (HOST[:10810]); repeatable.",
    ),
]
ModeOption = Annotated[
    str | None,
    typer.Option(
        "--mode",
        help="sync: a write is answered when the mirror has it too; async: before.  [default: as before, or sync]",
    ),
]
HistoryOption = Annotated[
    str | None,
    typer.Option(
        "--history",
        help="What a new mirror gets of the past: named (from the oldest snapshot on), all, none.  "
        "[default: as before, or named]",
    ),
]
LostOption = Annotated[
    str | None,
    typer.Option(
        "--on-lost",
        help="A lost sync mirror means: replies wait (block), or it is given up after --deadline (detach).  "
        "[default: as before, or block]",
    ),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline", help="For --on-lost detach; below clients' time-outs.  [default: as before, or 20s]"
    ),
]
AloneOption = Annotated[
    bool, typer.Option("--alone", help="After a crash, open without asking required mirrors for what is missing.")
]
EventOption = Annotated[
    str | None,
    typer.Option("--on-event", metavar="CMD", help="Run this on trouble: a mirror lost, nearly full, damage, …"),
]
RateOption = Annotated[
    str | None,
    typer.Option(
        "--resync-rate",
        metavar="SIZE",
        help="A second, at most, of what mirrors are sent in bulk: bases, differences.  [default: no limit]",
    ),
]
WindowOption = Annotated[
    str | None,
    typer.Option(
        "--resync-window",
        metavar="22:00-06:00",
        help="Of the day, in this machine's time zone: bulk is sent only then, the log always.  [default: always]",
    ),
]
ScrubPeriodOption = Annotated[
    str, typer.Option("--scrub-period", help="Read everything that is kept so often, to find damage; or off.")
]
VerifyPeriodOption = Annotated[
    str, typer.Option("--verify-period", help="Compare each mirror with this primary so often; or off.")
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
    keep: KeepOption = None,
    when_full: FullOption = None,
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
    advertise: AdvertiseOption = None,
    seed: SeedOption = None,
    source_name: SourceNameOption = None,
    mirror_to: MirrorOption = None,
    mode: ModeOption = None,
    history: HistoryOption = None,
    on_lost: LostOption = None,
    deadline: DeadlineOption = None,
    resync_rate: RateOption = None,
    resync_window: WindowOption = None,
    scrub_period: ScrubPeriodOption = "30d",
    verify_period: VerifyPeriodOption = "off",
    alone: AloneOption = False,
    on_event: EventOption = None,
    json: JsonReady = False,
) -> None:
    """Serve a volume over NBD until stopped: what is in DIR, a primary with its mirrors or a mirror.

    SIGTERM, SIGINT and a terminal that closes (SIGHUP, unless started with nohup) are a clean stop. Under systemd
    SIGHUP reads the files of --tls-dir again, for new connections.
    """
    new_mirror = _new_mirror(mirror_listen is not None and not mirror_to, name=name, size=size, alone=alone)
    options = ServiceOptions(
        directory=trusted(volume),
        name=None if new_mirror else wanted_name(volume, name),
        size=None if size is None else parse_size(size),
        addresses=_addresses(volume, nbd or []),
        cp_interval_s=_interval(cp_interval),
        **_kept(keep, when_full, budget),
        map_memory_bytes=parse_size(map_memory),
        segment_bytes=None if segment_size is None else parse_size(segment_size),
        spare_bytes=parse_size(spare),
        overlay_quota_bytes=None if overlay_quota is None else parse_size(overlay_quota),
        tls_dir=tls_dir,
        plaintext_allowed=tls_dir is not None or allow_plaintext,
        limits=_limits(max_connections),
        mirror_listen=_link_address(mirror_listen),
        advertise=_link_address(advertise),
        seed=_seed(seed, new_mirror),
        source_name=source_name,
        mirrors=parse_mirrors(mirror_to or [], mode, history, on_lost, deadline),
        bulk=BulkLimits(parse_rate(resync_rate), parse_bulk_window(resync_window)),
        scrub_period_s=0.0 if scrub_period == "off" else parse_seconds(scrub_period),
        verify_period_s=0.0 if verify_period == "off" else parse_seconds(verify_period),
        alone=alone,
    )
    _run(options, socket_mode, on_event, json=json)


def _kept(keep: str | None, when_full: str | None, budget: str | None) -> dict[str, Any]:
    """What is kept of the past, as options; what was not said is left out."""
    given: dict[str, Any] = {}
    if keep is not None:
        given["keep"] = parse_policy(keep)
    if when_full is not None:
        given["when_full"] = parse_when_full(when_full)
    return given if budget is None else {**given, "budget_bytes": parse_size(budget)}


def _limits(max_connections: int) -> Limits:
    from revolume.nbd.bounds.limits import limits_for

    return limits_for(max_connections)


def _run(options: ServiceOptions, socket_mode: str, on_event: str | None, *, json: bool) -> None:
    mode_bits = _mode(socket_mode)
    command = () if on_event is None else parse_command("--on-event", on_event)
    _check(options)
    from revolume.cli.local_service import run_until_signal

    run_until_signal(options, lambda uri: _ready(uri, json=json), socket_mode=mode_bits, on_event=command)


def _link_address(text: str | None) -> str | None:
    return None if text is None else absolute(mirror_address(text))


def _seed(image: str | None, new_mirror: bool) -> str | None:
    if image is not None and not new_mirror:
        raise UsageError(
            "seed", "--seed is for a new mirror.", "Give --mirror-listen with it, and no --mirror-to."
        )
    return None if image is None else os.path.abspath(image)


def _check(options: ServiceOptions) -> None:
    _check_source_name(options)
    _refuse_plaintext(options)


def _refuse_plaintext(asked: ServiceOptions) -> None:
    """Also what was not asked for now, because the directory knows it."""
    from revolume.host.real.disk import RealDisk
    from revolume.node.completed_options import completed

    options = completed(RealDisk(), asked).options
    refuse_plaintext(options.addresses, allowed=options.plaintext_allowed)
    links = [mirror.address for mirror in options.mirrors]
    refuse_plaintext_links([*links, options.mirror_listen] if options.mirror_listen else links, options.tls_dir)


def _new_mirror(asked: bool, **given: object) -> bool:
    """Whether one is ``asked`` for. UsageError: with something that is given too: a mirror's volume is what its
    source says."""
    for option, value in given.items():
        if value and asked:
            raise UsageError(
                "mirror-option",
                f"--{option.replace('_', '-')} does not go with --mirror-listen: that comes from its source.",
                "Leave one of them out.",
            )
    return asked


def _check_source_name(options: ServiceOptions) -> None:
    if options.source_name is None:
        return
    if options.tls_dir is None:
        raise UsageError("source-name", "--source-name needs certificates.", "Give --tls-dir with it.")
    fit = options.source_name.isprintable() and len(options.source_name.encode()) <= NAME_BYTES_MAX
    if not fit or not options.source_name:
        raise UsageError("source-name", f"{options.source_name[:80]!a} is not the name of a certificate.")


def _mode(text: str) -> int:
    if re.fullmatch("0?[0-7]{3}", text) is None:
        raise UsageError("bad-mode", f"{text[:80]!a} is not a mode.", "Write it in octal: 0600, 0660 or 0666.")
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
    asked = [normalised(text) for text in given]
    if len(set(asked)) < len(asked):
        raise UsageError("address-twice", "An --nbd address is given twice.", "Leave one out.")
    return tuple(asked) or (own_address(directory),)
