"""Creating a volume: an empty image, its sums, and last of all the manifest, which makes it one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from revolume.errors import Refused, UsageError
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.log.transfer import BLOCK
from revolume.volume import layout
from revolume.volume.manifest import NAMES, Agreed, Epoch, Horizon, Manifest, PinnedSnapshot, Role, State
from revolume.volume.options import OpenOptions
from revolume.volume.sums import Sums

BUDGET_SEGMENTS = 4
OURS = {
    layout.LOG, layout.MAPS, layout.IMAGE, layout.SUMS, layout.PAGES, layout.RESERVE, layout.CONTROL_SOCKET,
    layout.NBD_SOCKET, "lost+found", *(name + ".new" for name in NAMES),
}  # fmt: skip


def check_sizes(options: OpenOptions) -> None:
    """UsageError unless the sizes make a volume."""
    size, segment = options.size, segment_of(options)
    if size is None or size <= 0 or size % layout.SECTOR or size > layout.MAX_SIZE:
        raise UsageError(
            "bad-size", f"{size} bytes is no size for a volume.", "Use a multiple of 512, say --size 10G."
        )
    if segment & (segment - 1) or not layout.MIN_SEGMENT_BYTES <= segment <= layout.MAX_SEGMENT_BYTES:
        raise UsageError(
            "bad-segment-size",
            f"{segment} bytes is no size for a segment.",
            "Use a power of two from 64K to 1G; 64M is the default.",
        )


def segment_of(options: OpenOptions) -> int:
    """The size of a new volume's segments."""
    if options.segment_bytes is not None:
        return options.segment_bytes
    return layout.DEFAULT_SEGMENT_BYTES if options.size is None else layout.default_segment_bytes(options.size)


def check_budget(options: OpenOptions, segment_bytes: int) -> None:
    """UsageError for a budget in which the log could not even turn round."""
    least = BUDGET_SEGMENTS * segment_bytes
    if options.budget_bytes is not None and options.budget_bytes < least:
        raise UsageError(
            "budget-too-small",
            f"A budget of {options.budget_bytes} bytes is too small for segments of {segment_bytes} bytes.",
            f"Give {least} bytes or more; a new volume may have smaller segments (--segment-size).",
        )


def default_budget(directory: Directory, log_bytes: int, segment_bytes: int) -> int:
    """Half of what would be free without the log, but enough for it to turn round."""
    return max((directory.free_bytes() + log_bytes) // 2, BUDGET_SEGMENTS * segment_bytes)


def create(host: Host, directory: Directory, options: OpenOptions, name: str) -> Manifest:
    """A new volume in an empty directory (or in what an interrupted creation left)."""
    check_sizes(options)
    check_budget(options, segment_of(options))
    assert options.size is not None
    state = State(
        volume=host.entropy.token(16),
        name=name,
        node=host.entropy.token(16),
        segment_blocks=segment_of(options) // BLOCK,
        created_ns=host.clock.wall_ns(),
        horizon=Horizon(size=options.size, time_ns=host.clock.wall_ns()),
    )
    return _made(directory, options, state)


@dataclass(frozen=True, slots=True)
class Birth:
    """What a mirror's source says of the volume when it brings up a new copy: the point at which the shipped log
    begins (``horizon``; its address is the copy's own), and the epochs until now. ``node``: the new copy's own
    id, which its source has been told. ``snapshots`` are those that it will hold, ``lacking`` those that it won't,
    by what the log says of them up to ``names_position``."""

    volume: bytes
    name: str
    node: bytes
    horizon: Horizon
    epochs: tuple[Epoch, ...]
    snapshots: tuple[PinnedSnapshot, ...] = ()
    lacking: tuple[PinnedSnapshot, ...] = ()
    names_position: int = 0


def create_copy(host: Host, directory: Directory, options: OpenOptions, birth: Birth) -> Manifest:
    """An empty copy of a volume, to be filled by its source."""
    size = birth.horizon.size
    begin = segment_of(options) // BLOCK  # where the first segment, of use 1, will begin
    check_sizes(replace(options, size=size))
    check_budget(options, segment_of(options))
    state = State(
        volume=birth.volume,
        name=birth.name,
        node=birth.node,
        role=Role.SECONDARY,
        segment_blocks=segment_of(options) // BLOCK,
        created_ns=host.clock.wall_ns(),
        horizon=replace(birth.horizon, address=begin, pages_generation=0),
        epochs=birth.epochs,
        snapshots=birth.snapshots,
        lacking=birth.lacking,
        names_position=birth.names_position,
        agreed=Agreed(birth.horizon.point, birth.horizon.position, birth.horizon.write),
        base=0,
    )
    return _made(directory, options, state)


def _made(directory: Directory, options: OpenOptions, state: State) -> Manifest:
    strange = [n for n in directory.names() if n not in OURS and not n.startswith(layout.PAGES)]
    if strange:
        raise Refused(
            "dir-not-empty",
            f"{directory.path} holds other things ({strange[0]}) and no volume.",
            "Name an empty or a new directory.",
        )
    directory.in_place(ask=True)
    for child in (layout.LOG, layout.MAPS):
        held = directory.child(child, create=True)
        held.in_place(ask=True)
        for left in held.names():
            held.remove(left)
        held.close()
    image = directory.open(layout.IMAGE, create=True)
    image.truncate(0)
    image.truncate(state.horizon.size)
    image.datasync()
    image.close()
    Sums.create(directory, state.volume, -(-state.horizon.size // BLOCK)).close()
    directory.sync()
    given = None if options.budget_once else options.budget_bytes
    budget = given or default_budget(directory, 0, segment_of(options))
    return Manifest.created(directory, replace(state, budget=budget))
