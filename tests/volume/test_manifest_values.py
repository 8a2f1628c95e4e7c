"""What the manifest's edits amount to, as values."""

from __future__ import annotations

from dataclasses import replace

from revolume.volume.manifest import (
    EditKind,
    State,
    apply,
    pack_edit,
    pack_header,
    pack_pairs,
    parse,
    state_edits,
)

VOLUME = bytes(range(16))
STATE = State(volume=VOLUME, name="v", segment_blocks=16, reserved=7)


def written(edits: list[tuple[EditKind, bytes]]) -> State:
    """The state that a file with these edits holds."""
    from revolume.log.transfer import volume_seed

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
