"""A primary made in an empty directory, of a moment that another copy of the volume holds.

It is the same volume, and a new copy of it: the lineage up to the moment is the volume's, and the first opening is
above every one that the other copy knows, so that no copy takes it for an older primary. What is written there
gets write numbers that nobody has given out. What the other copies have behind the moment they wrote alone, seen
from here: they go back to it when they are told to, and keep that as a branch.

    open the moment there → a copy is begun here, as a mirror's is → blocks that hold anything come, and are
    durable every second → all sums up to the moment's root → it is opened as primary once, and closed

Until the last step the directory holds a copy that is not whole, or a mirror's. Broken off, it goes on where it
was, if the other copy holds the moment still.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from revolume.blocks.geometry import BLOCK, ceil_div
from revolume.errors import NotFound, Refused
from revolume.history.moments import format_time, parse_moment
from revolume.host import Host
from revolume.mirror.recovery.recall import RecallLink, recall_link
from revolume.mirror.target.copy_directory import birth, point_of
from revolume.mirror.wire.block_messages import ROWS_MAX
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.comparison_messages import SUMS_BLOCKS_MAX
from revolume.mirror.wire.frames import ProtocolError
from revolume.mirror.wire.recall_messages import Recall, Recalled
from revolume.mirror.wire.tail_messages import Fetch
from revolume.node.service_options import ServiceOptions, open_options
from revolume.resync.moment_fetch import regions
from revolume.volume.livemap.reader import block_numbers
from revolume.volume.metadata.manifest import load
from revolume.volume.metadata.manifest_state import Role, State
from revolume.volume.open.create import Birth
from revolume.volume.open.directory_state import holds_volume
from revolume.volume.open.open import open_secondary, open_volume
from revolume.volume.open.options import OpenOptions
from revolume.volume.secondary import Secondary

U64 = npt.NDArray[np.uint64]
Report = Callable[[str, int, int], None]
_STAGE: Final = "fetching"


@dataclass(frozen=True, slots=True)
class NewPrimary:
    """What was made: volume, moment, blocks that were ``sent`` this time; ``told``: a sentence."""

    name: str
    write: int
    point: int
    time_ns: int
    opening: int
    sent: int
    told: str


@dataclass(frozen=True, slots=True)
class Wish:
    """A ``moment`` of the node at ``address``, as people write it; ``suspect``: also one that is; ``force``: also
    while that node's primary is connected. ``context``: for TLS; ``peer``: its certificate's name."""

    address: str
    moment: str
    suspect: bool = False
    force: bool = False
    context: ssl.SSLContext | None = None
    peer: str | None = None


async def make_primary(host: Host, options: ServiceOptions, wish: Wish, report: Report) -> NewPrimary:
    """Make it in the options' directory. TimedOut: nobody is at the address; NotFound: that node does not hold the
    moment; Refused: a volume is here, or the volume's primary lives. RevolumeError: the link was lost; it goes on
    when it is called again."""
    parse_moment(wish.moment)
    known = await host.work.call(_begun, host, options.directory)
    asker = Fetch(known.volume if known else bytes(16), known.node if known else bytes(16), NOWHERE)
    async with recall_link(host, wish.address, wish.context, wish.peer) as link:
        found = await link.open(Recall(asker, wish.moment, wish.suspect))
        _refuse_beside_primary(found, wish)
        opening = open_options(options)
        if opening.segment_bytes is None:
            opening = replace(opening, segment_bytes=found.segment_blocks * BLOCK)
        sent = 0
        if known is None or not _is_of(known, found) or known.base is not None:
            sent = await _Filling(host, options.directory, opening, link, found).run(known, report)
    volume = await open_volume(host, options.directory, replace(opening, promote=True))
    number = volume.epoch
    await volume.close()
    start = found.start
    meant = f" ({found.note})" if found.note else ""
    told = (
        f"{options.directory} is a primary of {found.name} as of cp{start.number} (w{start.write}) of "
        f"{format_time(start.time_ns)}{meant}, opening {number}; {sent} blocks were sent."
    )
    return NewPrimary(found.name, start.write, start.number, start.time_ns, number, sent, told)


def _begun(host: Host, path: str) -> State | None:
    """What an earlier attempt has left here; None: nothing. Refused: a volume is here."""
    if not holds_volume(host.disk, path):
        return None
    directory = host.disk.open(path)
    try:
        state = load(directory).state
    except NotFound:
        return None
    finally:
        directory.close()
    if state.role == Role.PRIMARY or not state.elsewhere:
        what = "primary" if state.role == Role.PRIMARY else "mirror's copy"
        raise Refused(
            "dir-not-empty", f"{path} holds a {what} of {state.name}: nothing new is made there.",
            "Serve it, and bring the moment there: 'revolume fetch'; or name an empty directory.",
        )  # fmt: skip
    return state


def _is_of(state: State, found: Recalled) -> bool:
    """Whether what was begun is the moment that was found."""
    moment, here = point_of(found.start), state.horizon
    return (state.volume, here.point, here.position, here.chain) == (
        found.volume, moment.point, moment.position, moment.chain
    )  # fmt: skip


def _refuse_beside_primary(found: Recalled, wish: Wish) -> None:
    if (found.primary or found.fed) and not wish.force:
        who = "is the volume's primary" if found.primary else "has its primary connected"
        raise Refused(
            "primary-lives",
            f"The node that answers {who}: a second primary of {found.name} would go its own way.",
            "Bring the moment to that primary: 'revolume fetch'; or say --force, and never serve the other again.",
        )


class _Filling:
    """The copy on its way."""

    def __init__(self, host: Host, path: str, options: OpenOptions, link: RecallLink, found: Recalled) -> None:
        self._host = host
        self._path = path
        self._options = options
        self._link = link
        self._found = found
        self._sent = 0

    async def run(self, known: State | None, report: Report) -> int:
        """Blocks that were sent. What was begun of another moment gives way."""
        if known is not None and not _is_of(known, self._found):
            raise Refused(
                "other-moment-begun",
                f"{self._path} holds part of another moment, cp{known.horizon.point} (w{known.horizon.write}).",
                f"Ask for that one, w{known.horizon.write}, to go on; or name an empty directory.",
            )
        copy = await open_secondary(self._host, self._path, self._options, None if known else self._birth())
        try:
            await self._fill(copy, report)
            await copy.finish_base()
        finally:
            await copy.close()
        return self._sent

    def _birth(self) -> Birth:
        found = self._found
        born = birth(found.volume, found.name, self._host.entropy.token(16), found.start)
        return replace(born, elsewhere=found.opening, reserved=found.numbers, largest_blocks=found.largest_blocks)

    async def _fill(self, copy: Secondary, report: Report) -> None:
        assert copy.base is not None
        end = ceil_div(self._found.start.size, BLOCK)
        begin = copy.base.next_block // SUMS_BLOCKS_MAX * SUMS_BLOCKS_MAX
        for first in range(begin, end, SUMS_BLOCKS_MAX):
            count = min(SUMS_BLOCKS_MAX, end - first)
            sums = await self._link.sums(first, count)
            for region, total in zip(regions(first, count), sums, strict=True):
                if total != (0, 0) and region.stop > copy.base.next_block:
                    await self._region(copy, region)
                report(_STAGE, min(region.stop, end) * BLOCK, end * BLOCK)

    async def _region(self, copy: Secondary, region: range) -> None:
        digests = await self._link.digests(region.start, len(region))
        assert copy.base is not None
        here = max(0, copy.base.next_block - region.start)  # what came in an earlier attempt
        filled = here + np.flatnonzero(digests[here:])
        blocks, stated = block_numbers(region.start, len(region))[filled], digests[filled]
        for at in range(0, len(blocks), ROWS_MAX):
            await self._piece(copy, blocks[at : at + ROWS_MAX], stated[at : at + ROWS_MAX])

    async def _piece(self, copy: Secondary, blocks: U64, digests: U64) -> None:
        rows = await self._link.blocks(self._found.start.number, blocks)
        if not np.array_equal(rows.blocks, blocks) or not np.array_equal(rows.digests, digests):
            raise ProtocolError("Other blocks of the moment than those whose digests it named.")
        await copy.put_base(rows.blocks, rows.digests, rows.payload, int(blocks[-1]) + 1)
        self._sent += len(blocks)
