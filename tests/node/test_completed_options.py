"""What is served in a directory: what its manifest says, completed or changed by what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from revolume.blocks.numbers import WriteNumber
from revolume.errors import Refused, UsageError
from revolume.host.real.disk import RealDisk
from revolume.node.completed_options import completed
from revolume.node.mirror_to import MirrorTo
from revolume.node.service_options import ServiceOptions, history_preserving
from revolume.volume.metadata.manifest import Manifest
from revolume.volume.metadata.manifest_state import Listener, MirrorMode, MirrorState, Role, State

M1 = MirrorState(
    "m1", MirrorMode.ASYNC, joined=True, point=3, write=WriteNumber(7), node=b"n" * 16, address="unix:/m1"
)
OLD = MirrorState("old", MirrorMode.SYNC, joined=True, point=3, write=WriteNumber(7))
PRIMARY = State(b"v" * 16, "v", 16, mirrors=(M1, OLD))
MIRROR = State(b"v" * 16, "v", 16, role=Role.SECONDARY, listener=Listener("unix:/here", "unix:/there"))


def directory(tmp_path: Path, state: State | None) -> ServiceOptions:
    """A directory with this manifest, as ``serve DIR`` asks for it."""
    if state is not None:
        opened = RealDisk().open(str(tmp_path), create=True)
        Manifest.created(opened, state).close()
        opened.close()
    return ServiceOptions(str(tmp_path), ())


def test_an_empty_directory_becomes_what_is_asked_for(tmp_path: Path) -> None:
    asked = directory(tmp_path, None)
    listening = replace(asked, mirror_listen="unix:/x")
    mirrored = replace(listening, mirrors=(MirrorTo("unix:/y", True, "y"),))
    assert [completed(RealDisk(), each).role for each in (asked, listening, mirrored)] == [
        Role.PRIMARY, Role.SECONDARY, Role.PRIMARY,
    ]  # fmt: skip
    assert completed(RealDisk(), mirrored).options is mirrored


def test_a_mirror_listens_where_it_was_told_before(tmp_path: Path) -> None:
    found = completed(RealDisk(), directory(tmp_path, MIRROR))
    assert (found.role, found.options.mirror_listen, found.told) == (Role.SECONDARY, "unix:/here", ())
    assert found.options.advertise == "unix:/there"


def test_a_mirror_that_is_told_another_address_says_so(tmp_path: Path) -> None:
    asked = replace(directory(tmp_path, MIRROR), mirror_listen="unix:/elsewhere")
    found = completed(RealDisk(), asked)
    assert found.options.mirror_listen == "unix:/elsewhere"
    assert found.told == ("v listens for other nodes at unix:/elsewhere from now on; before it was unix:/here.",)


@pytest.mark.parametrize(("tls", "address"), [(None, "127.0.0.1:10810"), ("/tls", "0.0.0.0:10810")])
def test_a_mirror_of_a_store_that_knows_no_address_has_the_default(
    tmp_path: Path, tls: str | None, address: str
) -> None:
    asked = replace(directory(tmp_path, replace(MIRROR, listener=Listener())), tls_dir=tls)
    assert completed(RealDisk(), asked).options.mirror_listen == address


@pytest.mark.parametrize(
    "asked", [{"size": 1 << 20}, {"alone": True}, {"mirrors": (MirrorTo("unix:/y", True, "y"),)}]
)
def test_a_mirror_is_not_served_as_a_primary(tmp_path: Path, asked: dict[str, object]) -> None:
    with pytest.raises(Refused, match="is a mirror"):
        completed(RealDisk(), replace(directory(tmp_path, MIRROR), **asked))


def test_a_primary_feeds_the_mirrors_whose_address_it_knows(tmp_path: Path) -> None:
    found = completed(RealDisk(), directory(tmp_path, PRIMARY))
    assert (found.role, found.options.mirrors) == (Role.PRIMARY, (MirrorTo("unix:/m1", None, "m1"),))


def test_what_is_said_of_a_mirror_again_holds_and_the_others_stay(tmp_path: Path) -> None:
    moved, new = MirrorTo("unix:/m2", True, "m1"), MirrorTo("unix:/new", True, "new")
    found = completed(RealDisk(), replace(directory(tmp_path, PRIMARY), mirrors=(moved, new)))
    assert found.options.mirrors == (moved, new)
    assert found.told == ("Mirror m1 is at unix:/m2 from now on; before it was unix:/m1.",)
    found = completed(RealDisk(), replace(directory(tmp_path, PRIMARY), mirrors=(new,)))
    assert [each.name for each in found.options.mirrors] == ["new", "m1"]


def test_a_mirror_without_a_name_is_the_one_that_is_known_at_its_address(tmp_path: Path) -> None:
    asked = MirrorTo("unix:/m1", None, "unix:/m1", named=False)
    found = completed(RealDisk(), replace(directory(tmp_path, PRIMARY), mirrors=(asked,)))
    assert [each.name for each in found.options.mirrors] == ["m1"]
    with pytest.raises(Refused, match="Mirror m1 is at unix:/m1 already"):
        completed(RealDisk(), replace(directory(tmp_path, PRIMARY), mirrors=(replace(asked, named=True),)))


def test_a_primary_does_not_come_back_by_the_words_for_a_mirror(tmp_path: Path) -> None:
    asked = replace(directory(tmp_path, PRIMARY), mirror_listen="unix:/x")
    with pytest.raises(Refused) as refused:
        completed(RealDisk(), asked)
    assert refused.value.code == "is-primary"
    with_mirror = replace(asked, mirrors=(MirrorTo("unix:/m1", None, "m1"),))
    assert completed(RealDisk(), with_mirror).role == Role.PRIMARY
    with pytest.raises(UsageError, match="--source-name is for a mirror"):
        completed(RealDisk(), replace(directory(tmp_path, PRIMARY), source_name="x"))


def test_an_opening_of_its_own_takes_nothing_from_the_directory(tmp_path: Path) -> None:
    directory(tmp_path, PRIMARY)
    asked = history_preserving(str(tmp_path))
    assert completed(RealDisk(), asked).options is asked
