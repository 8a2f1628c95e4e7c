"""What a view looks blocks up in: maps of the past that are there already, and a map of its own of the rest.

From what is known before the moment (a rung of the ladder that ends closest before it, over the rungs below, over
the live map's base or the image) to the moment itself the helper process reads the log, which is little, and
writes the view's own map. Where there are no maps to stand on, or one of them is damaged, it reads all of the log
behind the horizon: the same, and slower.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from revolume.blocks.numbers import Address, WriteNumber
from revolume.chain.layered_map import LayeredMap
from revolume.chain.map_builder import MapSpec, make_map
from revolume.chain.map_file import MapFile, MapMeta
from revolume.chain.versions import Fragment
from revolume.errors import Damaged, NoSpace, RevolumeError
from revolume.host.disk import Directory, out_of_room
from revolume.volume.livemap.rung_plan import as_ground
from revolume.volume.metadata import layout
from revolume.volume.volume_base import OpenVolume

MERGED_MAX: Final = 1 << 16
"""A base of so few entries is merged into the view's own map: a look-up then asks one map."""


@dataclass(frozen=True, slots=True)
class ViewMap:
    """``files``: what blocks are looked up in. ``fragments``, in write order: partial writes over versions in it.
    ``close`` lets go of them."""

    files: LayeredMap
    fragments: tuple[Fragment, ...]
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is there already, newest first. ``meta``: what is known there; None: nothing but the image. ``merged``:
    the name of a map that goes into the view's own."""

    layers: tuple[MapFile, ...] = ()
    meta: MapMeta | None = None
    merged: str = ""


async def made_view_map(volume: OpenVolume, write: WriteNumber, check: Callable[[], None]) -> ViewMap | None:
    """The map of a moment. If a fold recycles segments meanwhile, the job fails; it is run again from the new
    horizon, since what it missed is in the image by then. None: the horizon has reached the moment, which is
    pinned, and no map is needed. ``check`` raises when nobody wants it any more. Damaged: the log is. NoSpace: no
    room on the disk."""
    plain = False
    while not volume.isolated(write):
        check()
        horizon = volume.folder.horizon
        try:
            with volume.maps.in_use():
                return await _made(volume, write, plain)
        except (Damaged, OSError) as error:
            if volume.folder.horizon == horizon and plain:
                raise error if isinstance(error, Damaged) else _not_made(volume.name, error) from error
            plain = volume.folder.horizon == horizon
    return None


def note_damaged(volume: OpenVolume) -> None:
    """Of the maps that views look into, those that have been met damaged are used no more."""
    volume.rungs.note_damaged()
    base = volume.live.base
    if base is not None and volume.rungs.base_damaged(base.meta):
        base.damaged = True


def _not_made(name: str, error: OSError) -> RevolumeError:
    kind = NoSpace if out_of_room(error) else RevolumeError
    cause = f"The map of that moment of {name} could not be made: {error.strerror}."
    return kind(
        "view-failed", cause, "The live volume is not affected; check the disk, then open the moment again."
    )


async def _made(volume: OpenVolume, write: WriteNumber, plain: bool) -> ViewMap:
    """``plain``: from the log alone."""
    with ExitStack() as held:
        ground = _Ground() if plain else _ground(volume, write, held)
        layers, fragments = ground.layers, tuple[Fragment, ...]()
        if not ground.layers or ground.meta is None or ground.meta.write < write:
            name = layout.view_map_name(volume.context.host.entropy.token(8).hex())
            held.callback(_removed, volume.context.maps_directory, name)
            fragments = await volume.transfer_healer.with_records(partial(_job, volume, write, name, ground))
            own = volume.maps.open(name)
            held.callback(own.close)
            layers = (own, *layers)
        close = held.pop_all().close
        return ViewMap(LayeredMap(layers), fragments, close)


def _ground(volume: OpenVolume, write: WriteNumber, held: ExitStack) -> _Ground:
    """The maps that lead to the moment; ``held`` lets go of them."""
    base, base_name = volume.live.base, volume.maps.base_name
    if base is not None and (base.meta.write > write or base.damaged):
        base = None
    begin = base.meta.point if base is not None else volume.folder.horizon.point
    rungs = volume.rungs.leading_to(begin, write)
    if not rungs and base is not None and len(base) <= MERGED_MAX:
        return _Ground(meta=base.meta, merged=base_name)
    layers, meta = list[MapFile](), base.meta if base is not None else None
    if base is not None:
        layers.append(volume.rungs.open_base(base_name))
        held.callback(volume.rungs.close_base, layers[0])
    for rung in rungs:
        layers.append(volume.rungs.take(rung))
        held.callback(volume.rungs.let_go, rung)
        meta = as_ground(rung)
    return _Ground(tuple(reversed(layers)), meta)


async def _job(volume: OpenVolume, write: WriteNumber, name: str, ground: _Ground) -> tuple[Fragment, ...]:
    context, meta = volume.context, ground.meta
    await volume.log.footers.written()
    spec = MapSpec(
        log_path=context.log_directory.path,
        maps_path=context.maps_directory.path,
        volume=volume.volume_id,
        log_range=volume.ranges.up_to_write(meta, write),
        base=ground.merged,
        after=meta.write if meta is not None else volume.image.horizon.write,
        upto=write,
        folded=volume.live.folded,
        name=name,
        address=Address(0),
        point=0,
        lasting=False,
    )
    return (await volume.log.work.job(make_map, spec)).fragments


def _removed(directory: Directory, name: str) -> None:
    with suppress(OSError):  # what the disk does not let go of now goes when the volume is opened next
        if directory.exists(name):
            directory.remove(name)
