"""The offline verifier: every structure and every digest that a retained moment can reach.

Not a second implementation of the store but a second *reader*: it follows the chain header by header, reads
every payload, and builds each point's delta map from the references in its record, the way a mirror does;
interval digests and volume roots must come out as stated. Image, sums, base map and footers are compared with
what follows from that. Bytes that no retained moment can reach (free segments, what lies behind the log's
end, blocks of the image that a fold in progress was about to replace) are not looked at.

Of a mirror whose base is under way, the image is what has durably come of it: these blocks are held against their
digests, and the sum over all of them against the point's root only once all are there. The report says what is
lacking; such a copy is not good, though nothing is wrong with it.

Nothing is written and nothing is repaired.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

from revolume.errors import NotFound, RevolumeError
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.host.open_files import OpenFiles
from revolume.log.segment import Segment, segment_name
from revolume.log.tail import stated_durable, stated_edit
from revolume.log.transfer import BLOCK
from revolume.offline.base_map import verify_base_map
from revolume.offline.findings import Findings
from revolume.offline.image import verify_image
from revolume.offline.points import verify_points
from revolume.offline.report import CheckReport, Progress
from revolume.offline.walked import walk
from revolume.volume import layout
from revolume.volume.lacking import lacking
from revolume.volume.locked import locked
from revolume.volume.manifest import NAMES, Loaded, State, judge_end, load, parse, read_file
from revolume.volume.sums import Sums


def check(host: Host, path: str, progress: Progress = lambda stage, done, total: None) -> CheckReport:
    """Verify the stopped volume in ``path``. Refused while it is open; NotFound where there is none."""
    with closing(locked(host, path, "Stop the volume, then check it.")) as directory:
        findings = Findings(progress)
        try:
            with ExitStack() as held:
                _verify(directory, held, findings)
        except NotFound:
            raise
        except (RevolumeError, OSError, ValueError, KeyError, IndexError) as error:
            findings.say(directory.path, _cause(error))
        return findings.report()


def _cause(error: Exception) -> str:
    """In words, whatever it is: what is missing or unreadable by its name."""
    match error:
        case RevolumeError():
            return error.cause
        case FileNotFoundError(filename=str(name)):
            return f"{name} is missing."
        case OSError(filename=name, strerror=str(words)):
            return f"{name} can't be read: {words}." if name else f"It can't be read: {words}."
        case _:
            return f"What is there makes no sense ({type(error).__name__}: {error})."


def _verify(directory: Directory, held: ExitStack, findings: Findings) -> None:
    loaded = load(directory)
    state = loaded.state
    findings.incomplete = lacking(state)
    _manifests(directory, loaded, findings)
    log = held.enter_context(closing(directory.child(layout.LOG)))
    judge_end(loaded.number, stated_edit(log, state.segment_blocks, state.volume))
    segments = _segments(log, state, held, findings)
    judge_end(loaded.number, stated_durable(segments, state.volume)[1])
    walked = walk(segments, state, findings)
    image = held.enter_context(closing(directory.open(layout.IMAGE, write=False)))
    sums = held.enter_context(
        closing(Sums.open(directory, state.volume, state.horizon.pages_generation, write=False))
    )
    verify_image(image, sums, state, walked, findings)
    verify_points(sums, state, walked, findings)
    maps = held.enter_context(closing(directory.child(layout.MAPS)))
    verify_base_map(maps, state, walked, findings)
    _snapshots(state, findings)


def _manifests(directory: Directory, loaded: Loaded, findings: Findings) -> None:
    """What the newest has behind its last edit is of an opening that a crash cut short. If it goes on from the
    older's last edit, what that one has behind was torn by a crash, before the newest was begun."""
    if loaded.state.clean is None:
        return
    for name in NAMES:
        if not directory.exists(name):
            findings.say(name, "is missing although the volume was stopped cleanly")
            continue
        found = parse(name, read_file(directory, name))
        if found is None:
            findings.say(name, "is not whole")
        elif found.torn and name != loaded.name and found.number + 1 != loaded.first:
            findings.say(name, "has something behind its last edit")


def _segments(log: Directory, state: State, held: ExitStack, findings: Findings) -> list[Segment]:
    """From the horizon on, oldest use first."""
    first = state.horizon.address // state.segment_blocks
    found, files = [], OpenFiles(log, write=False)
    for index, use in sorted(state.uses.items(), key=lambda pair: pair[1]):
        if use == 0 or use < first:
            continue
        name = segment_name(index)
        if not log.exists(name):
            findings.say(f"log/{name}", "is missing")
            continue
        file = held.enter_context(closing(files.file(name)))
        if file.size() != state.segment_blocks * BLOCK:
            findings.say(f"log/{name}", f"has {file.size()} bytes, not {state.segment_blocks * BLOCK}")
        found.append(Segment(index, use, state.segment_blocks, file))
    return found


def _snapshots(state: State, findings: Findings) -> None:
    for snapshot in state.snapshots:
        findings.moments += 1
        if snapshot.write < state.horizon.write:
            findings.say(f"snapshot {snapshot.name}", "lies before the horizon")
