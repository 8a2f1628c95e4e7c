"""What a service was asked to be, completed by what its directory says: the role, where it listens, its mirrors.

The role is the manifest's. What is given again on the command line must agree with what is recorded, or changes
it; each change is a sentence. ``--mirror-listen`` alone says that a mirror is meant: where the directory holds a
primary it is refused, because a primary that was replaced must not come back by the words that were meant to make
it a mirror.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from revolume.errors import NotFound, Refused, UsageError
from revolume.host.disk import Disk
from revolume.node.mirror_to import MirrorTo, as_recorded
from revolume.node.service_options import ServiceOptions
from revolume.volume.members.offline_orders import refuse_taken_address
from revolume.volume.metadata.manifest_state import MirrorState, Role, State
from revolume.volume.open.directory_state import stated

MIRROR_PORT: Final = 10810


@dataclass(frozen=True, slots=True)
class Completed:
    """``options`` leave nothing open that the directory knows. ``told``: sentences about what is changed by
    them."""

    options: ServiceOptions
    role: Role
    told: tuple[str, ...] = ()


def completed(disk: Disk, options: ServiceOptions) -> Completed:
    """Look into the directory, and say what is to be served. Reads one file. Refused: what was asked for is not
    what is there; UsageError: it makes no sense there."""
    state = _recorded(disk, options.directory) if options.as_recorded else None
    if state is None:
        mirror = options.mirror_listen is not None and not options.mirrors
        return Completed(options, Role.SECONDARY if mirror else Role.PRIMARY)
    return _secondary(options, state) if state.role == Role.SECONDARY else _primary(options, state)


def _recorded(disk: Disk, directory: str) -> State | None:
    try:
        return stated(disk, directory)
    except (FileNotFoundError, NotADirectoryError, NotFound):
        return None


# A mirror


def _secondary(options: ServiceOptions, state: State) -> Completed:
    if options.mirrors or options.size is not None or options.alone:
        raise Refused(
            "is-mirror", f"{options.directory} is a mirror: only its source changes it.",
            f"'revolume serve {options.directory}' serves it as such; 'revolume promote' makes it a primary.",
        )  # fmt: skip
    if options.name not in (None, state.name):
        cause = f"The volume in {options.directory} is called {state.name}."
        raise Refused("wrong-name", cause, "Leave --name out.")
    listen = options.mirror_listen or state.listener.address or _default_address(options)
    told = _listens_elsewhere(listen, state)
    return Completed(replace(_listening(options, state), mirror_listen=listen, name=None), Role.SECONDARY, told)


def _default_address(options: ServiceOptions) -> str:
    """Other machines come in only with certificates."""
    host = "127.0.0.1" if options.tls_dir is None else "0.0.0.0"
    return f"{host}:{MIRROR_PORT}"


def _listening(options: ServiceOptions, state: State) -> ServiceOptions:
    listener = state.listener
    advertise = listener.advertised if options.advertise is None else options.advertise
    return replace(options, mirror_listen=options.mirror_listen or listener.address or None, advertise=advertise)


def _listens_elsewhere(listen: str, state: State) -> tuple[str, ...]:
    before = state.listener.address
    if before in ("", listen):
        return ()
    return (f"{state.name} listens for other nodes at {listen} from now on; before it was {before}.",)


# A primary


def _primary(options: ServiceOptions, state: State) -> Completed:
    if options.mirror_listen is not None and not options.mirrors:
        raise Refused(
            "is-primary",
            f"{options.directory} holds a volume that clients may write to, not a mirror.",
            "Serve it without --mirror-listen, or name an empty directory. A primary listens for other nodes at "
            "--mirror-listen if --mirror-to is given as well.",
        )
    if options.source_name is not None:
        raise UsageError("source-name", "--source-name is for a mirror, and this is a primary.", "Leave it out.")
    mirrors = tuple(_known(each, state.mirrors) for each in options.mirrors)
    rest = _not_asked(mirrors, state.mirrors)
    with_listener = _listening(options, state)
    told = _moved(mirrors, state.mirrors) + _listens_elsewhere(with_listener.mirror_listen or "", state)
    return Completed(replace(with_listener, mirrors=mirrors + rest), Role.PRIMARY, told)


def _known(asked: MirrorTo, recorded: Sequence[MirrorState]) -> MirrorTo:
    """The mirror by the name that it has. Refused: another name is wanted for the one at this address."""
    there = next((mirror for mirror in recorded if mirror.address == asked.address), None)
    if there is None or there.name == asked.name:
        return asked
    if not asked.named:
        return replace(asked, name=there.name)
    refuse_taken_address([there], asked.address)
    return asked


def _not_asked(asked: Sequence[MirrorTo], recorded: Sequence[MirrorState]) -> tuple[MirrorTo, ...]:
    names = {each.name for each in asked}
    return tuple(as_recorded(mirror) for mirror in recorded if mirror.address and mirror.name not in names)


def _moved(asked: Sequence[MirrorTo], recorded: Sequence[MirrorState]) -> tuple[str, ...]:
    before = {mirror.name: mirror.address for mirror in recorded}
    return tuple(
        f"Mirror {each.name} is at {each.address} from now on; before it was {before[each.name]}."
        for each in asked
        if before.get(each.name, "") not in ("", each.address)
    )
