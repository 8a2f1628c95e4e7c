"""Orders about the mirrors of a volume that is not open: edits of its manifest, under the directory's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any

from revolume.errors import NotFound, Refused
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.host.open_files import OpenFiles
from revolume.log.format.segment import Segment, segment_name
from revolume.log.read.recovery import stated_durable, stated_edit
from revolume.volume.metadata import layout
from revolume.volume.metadata.directory_lock import locked
from revolume.volume.metadata.manifest import Manifest, judge_end
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import MirrorMode, MirrorState, Role, State
from revolume.volume.metadata.node_edits import pack_member
from revolume.volume.metadata.on_lost import AskedOnLost

IN_USE = "Try again when it is served, or has stopped."
Edit = tuple[EditKind, bytes]


def detach_stopped(host: Host, path: str, name: str) -> None:
    """Nothing waits for this mirror, and nothing is kept for it, when the volume opens next."""
    with closing(locked(host, path, IN_USE)) as directory:
        recorded(directory, name, lambda mirror: (EditKind.DROP_MIRROR, name.encode()))


def add_stopped(host: Host, path: str, mirror: MirrorState) -> None:
    """One more mirror, to which the volume connects when it opens next. Refused: its name or address is taken,
    or this is a mirror itself."""

    def added(state: State) -> Edit:
        if state.role == Role.SECONDARY:
            raise Refused("is-mirror", f"{path} is a mirror: only its source changes it.", "Ask its source.")
        refuse_cloned(state)
        if any(each.name == mirror.name for each in state.mirrors):
            raise mirror_exists(state.name, mirror.name)
        refuse_taken_address(state.mirrors, mirror.address)
        return EditKind.MEMBER, pack_member(mirror)

    with closing(locked(host, path, IN_USE)) as directory:
        edited(directory, added)


def set_stopped(host: Host, path: str, name: str, lost: AskedOnLost, **changes: Any) -> None:
    """Other fields of ``MirrorState``, where they are not None, for a mirror. NotFound: there is none; Refused:
    another mirror is at the address, or answered writes may live on a sync mirror that would become async."""
    given = {field: value for field, value in changes.items() if value is not None}

    def changed(state: State) -> Edit:
        mirror = found(state, name)
        if mirror.required and given.get("mode") == MirrorMode.ASYNC and state.clean is None:
            raise Refused(
                "mirror-required",
                f"Mirror {name} is required and {state.name} was not closed cleanly: answered writes may live "
                "only there.",
                "Serve it first, so that it asks the mirror for what it lacks.",
            )
        others = [each for each in state.mirrors if each.name != name]
        refuse_taken_address(others, given.get("address", ""))
        return EditKind.MEMBER, pack_member(replace(mirror, **given, on_lost=lost.applied(mirror.on_lost)))

    with closing(locked(host, path, IN_USE)) as directory:
        edited(directory, changed)


def refuse_cloned(state: State) -> None:
    """Refused for a clone: a mirror of it, promoted, would have its parent's blocks nowhere to be healed from."""
    if state.clones.origin is not None:
        raise Refused(
            "is-clone", f"{state.name} is a clone of {state.clones.origin.parent}, and can't have mirrors.",
            "Make it independent first: 'revolume detach-clone DIR'.",
        )  # fmt: skip


def mirror_exists(volume: str, name: str) -> Refused:
    """Names of mirrors are unique."""
    return Refused(
        "mirror-exists", f"{volume} has a mirror {name}.",
        f"Choose another name, or change that one with 'revolume mirror set DIR {name}'.",
    )  # fmt: skip


def refuse_taken_address(mirrors: Iterable[MirrorState], address: str) -> None:
    """Refused if one of these mirrors is at this address; "" is none."""
    there = next((mirror for mirror in mirrors if address and mirror.address == address), None)
    if there is not None:
        raise Refused(
            "mirror-address-taken", f"Mirror {there.name} is at {address} already.",
            f"Use its name; or give it up first: 'revolume mirror remove DIR {there.name}'.",
        )  # fmt: skip


def found(state: State, name: str) -> MirrorState:
    """The mirror of this name. NotFound: there is none."""
    mirror = next((each for each in state.mirrors if each.name == name), None)
    if mirror is None:
        known = ", ".join(mirror.name for mirror in state.mirrors) or "none"
        raise NotFound("no-mirror", f"{state.name} has no mirror {name}.", f"It has: {known}.")
    return mirror


def recorded(directory: Directory, name: str, change: Callable[[MirrorState], Edit]) -> None:
    """Record what ``change`` makes of the mirror of this name. NotFound: there is none."""
    edited(directory, lambda state: change(found(state, name)))


def edited(directory: Directory, change: Callable[[State], Edit]) -> None:
    """Record what ``change`` makes of the state. Damaged: the manifest has lost its end."""
    manifest = Manifest.opened(directory)
    edit = change(manifest.state)
    _judge(directory, manifest)
    manifest.renew()
    try:
        manifest.record(edit)
    except BaseException:
        manifest.close()
        raise
    manifest.close_clean()


def _judge(directory: Directory, manifest: Manifest) -> None:
    """Damaged if the log knows a later edit: only a manifest that has its end may be written anew."""
    state, log = manifest.state, directory.child(layout.LOG)
    first = state.horizon.address // state.segment_blocks
    files = OpenFiles(log, write=False)
    segments = [
        Segment(index, use, state.segment_blocks, files.file(segment_name(index)))
        for use, index in sorted((use, index) for index, use in state.uses.items() if use and use >= first)
    ]
    try:
        _, inside = stated_durable(segments, state.volume)
        edit = max(inside, stated_edit(log, state.segment_blocks, state.volume))
    finally:
        for segment in segments:
            segment.file.close()
        log.close()
    judge_end(manifest.number, edit)
