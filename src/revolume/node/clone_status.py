"""What is told of clones: of those over a volume, and of what a clone lies over."""

from __future__ import annotations

import os
from dataclasses import dataclass

from revolume.api.clone_schemas import CloneSchema
from revolume.history.moments import format_time
from revolume.volume.metadata import layout
from revolume.volume.metadata.clone_edits import CloneRecord, CloneStage
from revolume.volume.metadata.manifest_state import State


@dataclass(frozen=True, slots=True)
class OriginSchema:
    """What a clone lies over: the volume ``parent`` in ``directory``, as of the point at ``write``, for the moment
    that was asked for. ``detaching``: it is being made independent; blocks below ``own_below`` are its own."""

    parent: str
    directory: str
    moment: str
    write: int
    own_below: int
    detaching: bool


def clone_directory(parent: str, record: CloneRecord) -> str:
    """Where the clone of the volume in ``parent`` lies, absolute."""
    return record.path or os.path.join(os.path.abspath(parent), layout.CLONES, record.name)


def clone_schema(
    parent: str, state: State, record: CloneRecord, reason: str, size: int = 0, detaching: bool = False
) -> CloneSchema:
    """A clone of the volume in the directory ``parent``, whose manifest is ``state``. ``size`` 0: it is not open,
    for ``reason``."""
    return CloneSchema(
        name=record.name,
        directory=clone_directory(parent, record),
        moment=record.moment,
        write=record.write,
        point=record.point,
        time_ns=record.time_ns,
        time=format_time(record.time_ns),
        made_ns=record.made_ns,
        made=format_time(record.made_ns),
        open=size > 0,
        reason=reason,
        size=size,
        rescued_bytes=state.rescued_bytes().get(record.write, 0),
        detaching=detaching,
    )


def stopped_clones(parent: str, state: State) -> list[CloneSchema]:
    """Of a volume that is not served."""
    whys = {
        CloneStage.MADE: "its parent is stopped",
        CloneStage.MAKING: "it was being made",
        CloneStage.DROPPING: "it is being dropped",
    }
    return [clone_schema(parent, state, record, whys[record.stage]) for record in state.clones.records]


def origin_schema(state: State) -> OriginSchema | None:
    """None: the volume is no clone."""
    origin = state.clones.origin
    if origin is None:
        return None
    return OriginSchema(
        origin.parent, origin.directory, origin.moment, origin.write, origin.own_below, origin.detaching
    )
