"""Creating a volume: an empty image, its sums, and last of all the manifest, which makes it one."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

from revolume.blocks.geometry import BLOCK
from revolume.blocks.numbers import Address, Position, WriteNumber
from revolume.errors import Refused, UsageError
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.log.format.segment import SEGMENT_SUFFIX
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.image_size import stretch
from revolume.volume.image.seed import GENERATION
from revolume.volume.metadata import layout
from revolume.volume.metadata.manifest import NAMES, Manifest
from revolume.volume.metadata.manifest_state import Agreed, Epoch, Horizon, Member, PinnedSnapshot, Role, State
from revolume.volume.metadata.resync_point import ResyncPoint
from revolume.volume.open.options import OpenOptions
from revolume.volume.space.budget import BUDGET_SEGMENTS, refuse_small_budget

OURS = {
    layout.LOG, layout.MAPS, layout.RESCUE, layout.JUMP, layout.BRANCHES, layout.COMPARE, layout.IMAGE,
    layout.SUMS, layout.PAGES, layout.CLONES, layout.ORIGIN, layout.PROOFS, layout.MIRRORS, layout.RESERVE,
    layout.DISCARDED, layout.CONTROL_SOCKET, layout.NBD_SOCKET, "lost+found",
    *(name + ".new" for name in NAMES),
}  # fmt: skip


def check_sizes(options: OpenOptions) -> None:
    """UsageError unless the sizes make a volume."""
    size, segment = options.size, segment_of(options)
    if size is None or size <= 0 or size % layout.SECTOR or size > layout.MAX_SIZE:
        raise UsageError(
            "bad-size", f"{size} bytes is not a valid size for a volume.", layout.SIZE_RULE + " Say --size 10G."
        )
    if segment & (segment - 1) or not layout.MIN_SEGMENT_BYTES <= segment <= layout.MAX_SEGMENT_BYTES:
        raise UsageError(
            "bad-segment-size",
            f"{segment} bytes is not a valid size for a segment.",
            "Use a power of two from 64K to 1G; 64M is the default.",
        )


def segment_of(options: OpenOptions) -> int:
    """The size of a new volume's segments."""
    if options.segment_bytes is not None:
        return options.segment_bytes
    if options.size is None:
        return layout.DEFAULT_SEGMENT_BYTES
    return layout.default_segment_bytes(options.size, options.budget_bytes)


def check_budget(options: OpenOptions, segment_bytes: int) -> None:
    """UsageError for a budget in which the log could not even turn round."""
    if options.budget_bytes is not None:
        refuse_small_budget(options.budget_bytes, segment_bytes)


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
        largest_blocks=segment_of(options) // BLOCK,
        created_ns=host.clock.wall_ns(),
        horizon=Horizon(size=options.size, time_ns=host.clock.wall_ns()),
    )
    return _made(directory, options, state)


@dataclass(frozen=True, slots=True)
class Birth:
    """What a mirror's source says of the volume when it brings up a new copy: the point at which the shipped log
    begins (``horizon``; its address is the copy's own), and the epochs until now. ``node``: the new copy's own
    id, which its source has been told. ``snapshots`` are those that it will hold, ``lacking`` those that it won't,
    by what the log says of them up to ``names_position``; ``members`` are the volume's, up to there;
    ``resync_points`` are those of members that it will have. ``seeded``: image and digests are there already.
    ``elsewhere``: openings up to this number are known to other copies; ``reserved``: so may be write numbers.
    ``largest_blocks``: of the volume's largest transfer, 0: not known yet."""

    volume: bytes
    name: str
    node: bytes
    horizon: Horizon
    epochs: tuple[Epoch, ...]
    snapshots: tuple[PinnedSnapshot, ...] = ()
    lacking: tuple[PinnedSnapshot, ...] = ()
    names_position: Position = Position(0)
    members: tuple[Member, ...] = ()
    resync_points: tuple[ResyncPoint, ...] = ()
    seeded: bool = False
    elsewhere: int = 0
    reserved: WriteNumber = WriteNumber(0)
    largest_blocks: int = 0


def create_copy(host: Host, directory: Directory, options: OpenOptions, birth: Birth) -> Manifest:
    """An empty copy of a volume, to be filled by its source."""
    size = birth.horizon.size
    begin = Address(segment_of(options) // BLOCK)  # where the first segment, of use 1, will begin
    check_sizes(replace(options, size=size))
    check_budget(options, segment_of(options))
    state = State(
        volume=birth.volume,
        name=birth.name,
        node=birth.node,
        role=Role.SECONDARY,
        segment_blocks=segment_of(options) // BLOCK,
        created_ns=host.clock.wall_ns(),
        horizon=replace(birth.horizon, address=begin, pages_generation=GENERATION if birth.seeded else 0),
        epochs=birth.epochs,
        snapshots=birth.snapshots,
        lacking=birth.lacking,
        names_position=birth.names_position,
        agreed=Agreed(birth.horizon.point, birth.horizon.position, birth.horizon.write),
        base=0,
        listener=options.listener,
        members=birth.members,
        resync_points=birth.resync_points,
        elsewhere=birth.elsewhere,
        reserved=birth.reserved,
        largest_blocks=birth.largest_blocks,
    )
    return _made(directory, options, state, with_image=not birth.seeded)


def create_clone(directory: Directory, options: OpenOptions, state: State) -> None:
    """The volume that ``state`` describes, last of all by its manifest: image, digests and ``origin/`` are there
    already. The directory is the caller's."""
    check_budget(options, state.segment_blocks * BLOCK)
    _made(directory, options, state, with_image=False).close()


def _made(directory: Directory, options: OpenOptions, state: State, with_image: bool = True) -> Manifest:
    strange = [n for n in directory.names() if n not in OURS and not n.startswith(layout.PAGES)]
    if strange:
        raise Refused(
            "dir-not-empty",
            f"{directory.path} holds other things ({strange[0]}) and no volume.",
            "Name an empty or a new directory.",
        )
    refuse_remains(directory)
    directory.in_place(ask=True)
    left = [name for name in (layout.RESCUE, layout.JUMP, layout.MIRRORS) if directory.exists(name)]
    for child in (layout.LOG, layout.MAPS, *left):
        held = directory.child(child, create=True)
        held.in_place(ask=True)
        for name in held.names():
            held.remove(name)
        held.close()
    if with_image:
        _make_image(directory, state)
    directory.sync()
    given = None if options.budget_once else options.budget_bytes
    budget = given or default_budget(directory, 0, segment_of(options))
    manifest = Manifest.created(directory, replace(state, budget=budget))
    if directory.exists(layout.DISCARDED):
        directory.remove(layout.DISCARDED)
    return manifest


def _make_image(directory: Directory, state: State) -> None:
    """Empty, with its digests."""
    with closing(directory.open(layout.IMAGE, create=True)) as image:
        image.truncate(0)
        stretch(image, state.horizon.size, directory.path)
        image.datasync()
    BlockDigests.create(directory, state.volume, -(-state.horizon.size // BLOCK)).close()


def refuse_remains(directory: Directory) -> None:
    """Refused: a log lies in the directory, and no manifest. It is what is left of a volume, unless a mirror has
    discarded it."""
    if not directory.exists(layout.LOG) or directory.exists(layout.DISCARDED):
        return
    with closing(directory.child(layout.LOG)) as log:
        if not any(name.endswith(SEGMENT_SUFFIX) for name in log.names()):
            return
    raise Refused(
        "volume-remains",
        f"{directory.path} holds the log of a volume whose manifest is missing: nothing new is made there.",
        "Read what is left with 'revolume salvage', or remove the files by hand.",
    )
