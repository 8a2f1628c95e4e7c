"""What the manifest's edits amount to, as values."""

from __future__ import annotations

from dataclasses import replace

from revolume.volume.metadata.manifest import pack_edit, pack_header, parse
from revolume.volume.metadata.manifest_edits import EditKind, apply, pack_pairs, state_edits
from revolume.volume.metadata.manifest_state import State
from revolume.volume.metadata.scrub_record import (
    LastScrub,
    ScrubCounts,
    ScrubPlace,
    ScrubRecord,
    ScrubStage,
    pack_scrub,
)

VOLUME = bytes(range(16))
STATE = State(volume=VOLUME, name="v", segment_blocks=16, reserved=7)


def written(edits: list[tuple[EditKind, bytes]]) -> State:
    """The state that a file with these edits holds."""
    from revolume.log.format.transfer import volume_seed

    seed = volume_seed(VOLUME)
    parts = [pack_header(VOLUME, 1)]
    parts += [pack_edit(seed, 1 + number, *edit) for number, edit in enumerate(edits)]
    loaded = parse("manifest.a", b"".join(parts))
    assert loaded is not None
    return loaded.state


def test_use_numbers_never_repeat() -> None:
    """Not even that of a segment which was given back before anything was registered after it."""
    state = STATE
    for uses in ({1: 5, 2: 6}, {3: 9}, {3: 0}):
        state = apply(state, EditKind.USES, pack_pairs(uses))
    assert state.uses == {1: 5, 2: 6, 3: 0} and state.next_use == 10
    again = written(list(state_edits(state)))
    assert again == state


def test_a_manifest_of_before_holds_without_the_later_kinds() -> None:
    state = replace(apply(STATE, EditKind.USES, pack_pairs({1: 5, 2: 0})), budget=1 << 20)
    old = [edit for edit in state_edits(state) if edit[0] not in (EditKind.NEXT_USE, EditKind.BUDGET)]
    again = written(old)
    assert again.next_use == 6 and again.budget == 0
    assert again == replace(state, budget=0)


def test_how_far_a_scrub_has_come_is_kept_and_a_stage_of_a_later_version_begins_anew() -> None:
    last = LastScrub(5, 9, ScrubCounts(1 << 40, 3, 2))
    record = ScrubRecord(11, ScrubPlace(ScrubStage.RESCUED, 7, 1 << 33), ScrubCounts(123, 4, 1), last, 50 << 20)
    state = apply(STATE, EditKind.SCRUBBED, pack_scrub(record))
    assert state.scrub == record and record.under_way
    assert written(list(state_edits(state))).scrub == record
    body = bytearray(pack_scrub(record))
    body[8:16] = (77).to_bytes(8, "little")
    assert apply(STATE, EditKind.SCRUBBED, bytes(body)).scrub == replace(record, place=ScrubPlace())
