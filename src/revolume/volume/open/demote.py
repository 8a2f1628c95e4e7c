"""A primary becomes a mirror's copy: an edit of its manifest, which says where that copy stands.

Nothing of the log is cut, and no opening begins: the copy stands at the newest point that is sealed in its log,
and what lies behind that point it has as any mirror has what it received. What the primary knew of its mirrors
stays in the manifest until another primary is heard of (``points/received_facts.py``): whoever promotes this
copy before that gets back the primary that it was.

A stopped primary is recovered first, as by any opening. After a stop that was not clean a mirror on which answers
rest may have a longer end of the log: until the copy holds more than it does now, it proves nothing (OWES).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from revolume.blocks.numbers import Position, WriteNumber
from revolume.chain.point import Point
from revolume.errors import Refused
from revolume.host import Host
from revolume.volume.livemap.point_records import newest_seal, read_points
from revolume.volume.members.resync_points import edits_of_demoted
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_edits import EditKind, pack_agreed, pack_number
from revolume.volume.metadata.manifest_state import Agreed, Horizon, Listener, Role, State
from revolume.volume.metadata.node_edits import pack_listener, pack_source
from revolume.volume.open.log_recovery import Ending
from revolume.volume.open.open import is_clone, locked
from revolume.volume.open.open_context import Ground
from revolume.volume.open.options import OpenOptions
from revolume.volume.primary import Volume

Edit = tuple[EditKind, bytes]


@dataclass(frozen=True, slots=True)
class Demoted:
    """Where the copy stands: ``agreed``; its log ends at ``position``, with ``write``. ``clean``: the primary was
    closed."""

    name: str
    agreed: Agreed
    position: Position
    write: WriteNumber
    clean: bool


async def demote_directory(
    host: Host, path: str, options: OpenOptions, listener: Listener | None = None
) -> Demoted:
    """Make the stopped primary in ``path`` a mirror's copy. ``listener``: where its node listens from now on.
    Refused: it is a mirror. Damaged: its log can't be a mirror's; nothing has changed then."""
    directory = locked(host, path, options)
    with ExitStack() as held:
        held.callback(directory.close)
        manifest = await host.work.call(Manifest.opened, directory)
        held.callback(manifest.close)
        state = manifest.state
        if state.role == Role.SECONDARY:
            raise is_mirror(state.name)
        if state.clones.origin is not None:
            raise is_clone(state, path)
        if state.clones.records:
            raise has_clones(state)
        return await _demoted(host, Ground(host, directory, manifest, options, held), listener)


def has_clones(state: State) -> Refused:
    """They can be read in no mirror's copy."""
    names = ", ".join(record.name for record in state.clones.records)
    return Refused(
        "has-clones", f"{state.name} has clones ({names}), so it can't become a mirror.",
        "Make them independent with 'revolume detach-clone', or drop them with 'revolume clone DIR NAME --drop'.",
    )  # fmt: skip


async def _demoted(host: Host, ground: Ground, listener: Listener | None) -> Demoted:
    state, clean = ground.state, ground.state.clean is not None
    tail = await Ending(ground).ready()
    points, _ = await host.work.call(read_points, state.volume, tail.columns, state.horizon)
    seal = await host.work.call(newest_seal, [columns for _, columns in tail.columns])
    agreed = _agreed(points[-1] if points else None, seal, state.horizon)
    end = Demoted(state.name, agreed, tail.end.position, tail.end.write, clean)
    edits = _edits(end, state)
    if state.node == bytes(16):  # a store of before
        edits.append((EditKind.NODE, host.entropy.token(16)))
    if listener is not None and listener != state.listener:
        edits.append((EditKind.LISTENER, pack_listener(listener)))
    await ground.manifest.record(*edits)
    return end


async def demote_open(volume: Volume, to: str) -> Demoted:
    """Make an open primary's directory a mirror's copy, which hands over to the mirror ``to``, while the volume is
    still there to be closed. Nothing may be appended to it any more, and all of it is durable."""
    point, state = volume.retained.newest, volume.manifest.state
    columns = await volume.log.columns_between(
        point.address if point is not None else state.horizon.address, volume.log.appender.address
    )
    agreed = _agreed(point, await volume.log.work.call(newest_seal, columns), state.horizon)
    end = Demoted(volume.name, agreed, volume.position, volume.log.appender.write, True)
    await volume.manifest.record(*_edits(end, state), (EditKind.HANDED_TO, to.encode()))
    return end


def _edits(end: Demoted, state: State) -> list[Edit]:
    """What makes the copy a mirror's, bound to nobody's certificate yet."""
    edits = [
        (EditKind.ROLE, bytes([Role.SECONDARY])), (EditKind.AGREED, pack_agreed(end.agreed)),
        (EditKind.YIELDS, b"\x01"), *edits_of_demoted(state),
    ]  # fmt: skip
    if end.clean:  # numbers above were reserved, and not given out
        edits.append((EditKind.RESERVE, pack_number(end.write)))
    elif any(mirror.required for mirror in state.mirrors):
        edits.append((EditKind.OWES, pack_number(end.position + 1)))
    if state.source_name:
        edits.append((EditKind.SOURCE, pack_source("")))
    return edits


def is_mirror(name: str) -> Refused:
    """There is no primary to be demoted."""
    return Refused("is-mirror", f"{name} is a mirror already.", "There is nothing to be done.")


def _agreed(point: Point | None, seal: Position, horizon: Horizon) -> Agreed:
    if point is None:
        return Agreed(horizon.point, horizon.position, horizon.write)
    return Agreed(point.number, seal, point.write)
