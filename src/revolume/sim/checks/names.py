"""A snapshot that was answered is there, whichever machine has become the primary and however new it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from revolume.volume.volume_base import OpenVolume


def check_names(
    answered: Mapping[str, int], volume: OpenVolume, who: str, lacks: Callable[[int], bool] = lambda write: False
) -> list[str]:
    """``answered``: name and write number of each that must be there; but for those that the copy ``lacks``, which
    it says."""
    said = {pin.name: pin.write for pin in volume.manifest.state.lacking}
    held = {snapshot.name: snapshot.write for snapshot in volume.snapshots()}
    return [
        f"{who}: the snapshot {name} at w{write} was answered, and is {'another' if name in held else 'not there'}"
        for name, write in answered.items()
        if held.get(name) != write and not (lacks(write) and said.get(name) == write)
    ]


def check_same_names(
    volume: OpenVolume, there: OpenVolume, lacks: Callable[[int], bool], dropping: Collection[str] = ()
) -> list[str]:
    """A mirror that has come to rest, and that was to begin at the oldest name at least, has every name of its
    source, or says that it lacks it: if it has jumped over that, or its source lacks it. Of those in ``dropping``
    the order to drop them was not answered: a crash may leave one at the source that the mirror has dropped."""
    known = {snapshot.name: snapshot.write for snapshot in volume.snapshots() if not snapshot.holder}
    names = {name: write for name, write in known.items() if name not in dropping}
    return check_names(names, there, "the mirror", lacks)
