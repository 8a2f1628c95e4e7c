"""Copies of a simulated disk share their bytes, and nobody can tell."""

from __future__ import annotations

from revolume.sim.kernel.chance import Chance
from revolume.sim.kernel.simulated_fs import KEPT, LOST, Cut, Inode, Platter, Write, state_of


def made() -> tuple[Platter, Inode]:
    """One file: its first half is on the disk, a write over it is pending."""
    platter = Platter(1 << 20)
    file = Inode(platter.number())
    for content in (file.memory, file.disk):
        content[:] = b"a" * 8192
    file.use(0, 8192)
    pending = Write(4096, b"b" * 4096)
    pending.apply(file.memory)
    file.pending.append(pending)
    platter.root.memory["file"] = platter.root.disk["file"] = file
    return platter, file


def file_of(platter: Platter) -> Inode:
    (file,) = platter.files()
    return file


def test_what_changes_a_copy_leaves_the_first_as_it_was_and_the_other_way_round() -> None:
    platter, file = made()
    old, before = bytes(file.on_disk), state_of(platter)
    for which in ("memory", "disk"):
        lost = file_of(platter.after(Cut(lambda ordinal: LOST, Chance(0))))
        assert lost.in_memory is lost.on_disk is file.on_disk, "nothing is copied to look at it"
        getattr(lost, which)[:1] = b"x"
        assert file.on_disk == old and getattr(lost, which)[:1] == b"x"
        assert (lost.on_disk if which == "memory" else lost.in_memory) == old, "its two contents are two"
    lost = file_of(platter.after(Cut(lambda ordinal: LOST, Chance(0))))
    file.disk[:1] = b"y"
    assert lost.on_disk == lost.in_memory == old
    file.disk[:1] = b"a"
    assert state_of(platter) == before


def test_a_copy_has_what_a_cut_keeps_and_is_copied_again() -> None:
    platter, file = made()
    kept = platter.after(Cut(lambda ordinal: KEPT, Chance(0)))
    assert file_of(kept).on_disk == file.in_memory != file.on_disk
    again = file_of(kept.copy())
    file_of(kept).memory[:1] = b"x"
    assert again.on_disk == again.in_memory == file.in_memory
    assert again.pages == file.pages and not again.pending
