"""Giving up a mirror of a volume that is not open: an edit of its manifest, under the directory's lock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

from revolume.errors import NotFound
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.host.open_files import OpenFiles
from revolume.log.segment import Segment, segment_name
from revolume.log.tail import stated_durable, stated_edit
from revolume.volume import layout
from revolume.volume.locked import locked
from revolume.volume.manifest import EditKind, Manifest, MirrorState, judge_end


def detach_stopped(host: Host, path: str, name: str) -> None:
    """Nothing waits for this mirror, and nothing is kept for it, when the volume opens next."""
    with closing(locked(host, path, "Ask again when it serves, or has stopped.")) as directory:
        recorded(directory, name, lambda mirror: (EditKind.DROP_MIRROR, name.encode()))


def recorded(directory: Directory, name: str, change: Callable[[MirrorState], tuple[EditKind, bytes]]) -> None:
    """Record what ``change`` makes of the mirror of this name. NotFound: there is none."""
    manifest = Manifest.opened(directory)
    state = manifest.state
    mirror = next((each for each in state.mirrors if each.name == name), None)
    if mirror is None:
        known = ", ".join(mirror.name for mirror in state.mirrors) or "none"
        raise NotFound("no-mirror", f"{state.name} has no mirror {name}.", f"It has: {known}.")
    edit = change(mirror)
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
