"""The offline verifier: every structure and every digest that a retained moment can reach.

Not a second implementation of the store but a second *reader*: it follows the chain header by header, reads
every payload, and builds each point's delta map from the references in its record, the way a mirror does;
interval digests and volume roots must come out as stated. Image, sums, base map and footers are compared with
what follows from that. Bytes that no retained moment can reach (free segments, what lies behind the log's
end, blocks of the image that a fold in progress was about to replace) are not looked at.

Of a mirror whose base is under way, the image is what has durably come of it: these blocks are held against their
digests, and the sum over all of them against the point's root only once all are there. The report says what is
lacking; such a copy is not good, though nothing is wrong with it.

What has arrived of a jump is held against its digests. Once it is flipped it is what the copy is: then the report
says that an opening has still to put it into the image, which is compared as far as the jump leaves it alone.

Nothing is written and nothing is repaired.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack, closing
from typing import Final

from revolume.blocks.geometry import BLOCK
from revolume.errors import NotFound, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory, File
from revolume.host.open_files import OpenFiles
from revolume.log.format.segment import Segment, segment_name
from revolume.log.read.recovery import stated_durable, stated_edit
from revolume.offline.check.base_map import verify_base_map
from revolume.offline.check.branches import verify_branches
from revolume.offline.check.dirty_logs import verify_dirty_logs
from revolume.offline.check.image import verify_image
from revolume.offline.check.jump import jumped_sentence, verify_jump, verify_jumped_image
from revolume.offline.check.marks import verify_marks
from revolume.offline.check.points import verify_points
from revolume.offline.check.rescued import verify_rescued, verify_snapshots
from revolume.offline.check.rungs import verify_rungs
from revolume.offline.walk.check_context import CheckContext
from revolume.offline.walk.log_walk import walk
from revolume.offline.walk.report import CheckReport, Progress
from revolume.volume.image.block_digests import BlockDigests
from revolume.volume.image.origin_image import OriginDigests
from revolume.volume.members.base_progress import lacking
from revolume.volume.metadata import layout
from revolume.volume.metadata.directory_lock import locked
from revolume.volume.metadata.manifest import NAMES, Loaded, judge_end, load, parse, read_file
from revolume.volume.metadata.manifest_state import State
from revolume.volume.suspect.periods import SuspectPeriods
from revolume.volume.suspect.suspect_history import load_marks

_OWN: Final = frozenset((errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


def check(host: Host, path: str, progress: Progress = lambda stage, done, total: None) -> CheckReport:
    """Verify the stopped volume in ``path``; nothing is changed. ``progress`` is called from this thread.
    NotFound: there is no volume. Refused: it is running. What prevents a verdict (permissions, descriptors,
    memory, a newer format) is raised, not reported."""
    with closing(locked(host, path, "Stop the volume, then check it.")) as directory:
        context = CheckContext(progress)
        try:
            with ExitStack() as held:
                _verify(directory, held, context)
        except NotFound:
            raise
        except (RevolumeError, OSError, ValueError, KeyError, IndexError) as error:
            if _hinders(error):
                raise
            context.add_problem(directory.path, _cause(error))
        return context.report()


def _hinders(error: Exception) -> bool:
    """Whether the error says nothing about the volume: this process lacks permission, descriptors or memory, or is
    older than the volume's format."""
    if isinstance(error, RevolumeError):
        return error.code == "newer-format"
    return isinstance(error, OSError) and error.errno in _OWN


def _cause(error: Exception) -> str:
    """The error in a sentence that names the file concerned."""
    match error:
        case RevolumeError():
            return error.cause
        case FileNotFoundError(filename=str(name)):
            return f"{name} is missing."
        case OSError(filename=name, strerror=str(words)):
            return f"{name} can't be read: {words}." if name else f"It can't be read: {words}."
        case _:
            return f"Its content is not valid ({type(error).__name__}: {error})."


def _verify(directory: Directory, held: ExitStack, context: CheckContext) -> None:
    loaded = load(directory)
    state = loaded.state
    context.incomplete = lacking(state) or jumped_sentence(state) or _differs(state)
    context.periods = SuspectPeriods(load_marks(directory, state))
    _manifests(directory, loaded, context)
    arrived = verify_jump(directory, state, held, context)
    image = held.enter_context(closing(directory.open(layout.IMAGE, write=False)))
    sums = held.enter_context(
        closing(BlockDigests.open(directory, state.volume, state.horizon.pages_generation, write=False))
    )
    if state.jumped is not None:  # of the log that was there nothing is needed any more
        verify_jumped_image(image, sums, directory, state.jumped, arrived, context)
    else:
        _verify_log(directory, loaded, image, sums, held, context)
    verify_rescued(directory, sums, state, held, context)
    verify_snapshots(state, context)
    verify_branches(directory, state, context)
    verify_marks(directory, state, context)
    verify_dirty_logs(directory, state, context)


def _differs(state: State) -> str:
    """Of a copy that was found to differ from its source; else empty."""
    point = state.suspect.differs_since
    return f"It differs from its source since cp{point} or before: a verification is due." if point else ""


def _verify_log(
    directory: Directory, loaded: Loaded, image: File, sums: BlockDigests, held: ExitStack, context: CheckContext
) -> None:
    """The log, and what follows from it of image and maps."""
    state = loaded.state
    log = held.enter_context(closing(directory.child(layout.LOG)))
    judge_end(loaded.number, stated_edit(log, state.segment_blocks, state.volume))
    segments = _segments(log, state, held, context)
    judge_end(loaded.number, stated_durable(segments, state.volume)[1])
    records = walk(segments, state, context)
    verify_image(image, sums, state, records, context, _origin(directory, state, held))
    verify_points(sums, state, records, context)
    maps = held.enter_context(closing(directory.child(layout.MAPS)))
    verify_base_map(maps, state, records, context)
    verify_rungs(maps, state, records, context)


def _origin(directory: Directory, state: State, held: ExitStack) -> OriginDigests | None:
    """What says which blocks of a clone lie in its parent. Damaged: it does not hold."""
    origin = state.clones.origin
    if origin is None:
        return None
    digests = held.enter_context(closing(OriginDigests.open(directory, state.volume, origin.own_below)))
    digests.verify()
    return digests


def _manifests(directory: Directory, loaded: Loaded, context: CheckContext) -> None:
    """Verify both manifests after a clean stop. What follows the last edit of the newest one was written by an
    opening that a crash cut short, and what follows that of the older was torn by an earlier crash if the newest
    goes on from there."""
    if loaded.state.clean is None:
        return
    for name in NAMES:
        if not directory.exists(name):
            context.add_problem(name, "is missing although the volume was stopped cleanly")
            continue
        found = parse(name, read_file(directory, name))
        if found is None:
            context.add_problem(name, "is not whole")
        elif found.torn and name != loaded.name and found.number + 1 != loaded.first:
            context.add_problem(name, "has something behind its last edit")


def _segments(log: Directory, state: State, held: ExitStack, context: CheckContext) -> list[Segment]:
    """The log's segments from the horizon on, oldest use first. They are closed with ``held``."""
    first = state.horizon.address // state.segment_blocks
    found, files = [], OpenFiles(log, write=False)
    for index, use in sorted(state.uses.items(), key=lambda pair: pair[1]):
        if use == 0 or use < first:
            continue
        name = segment_name(index)
        if not log.exists(name):
            context.add_problem(f"log/{name}", "is missing")
            continue
        file = held.enter_context(closing(files.file(name)))
        if file.size() != state.segment_blocks * BLOCK:
            context.add_problem(f"log/{name}", f"has {file.size()} bytes, not {state.segment_blocks * BLOCK}")
        found.append(Segment(index, use, state.segment_blocks, file))
    return found
