"""Who holds history: snapshots pin a moment, by the manifest; everything else holds by a lease."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from revolume.volume.metadata.manifest_state import PinnedSnapshot, State
from revolume.volume.space.holder import Holder, HolderKind
from revolume.volume.space.holders import Holders


def made(*snapshots: PinnedSnapshot) -> Holders:
    manifest: Any = SimpleNamespace(state=State(snapshots=snapshots))
    return Holders(manifest)


def test_holders_are_named_as_operators_know_them_oldest_first() -> None:
    holders = made(PinnedSnapshot("before-upgrade", 7, 2, 0))
    holders.lease(HolderKind.VIEW, "view v@w9", 9)
    holders.lease(HolderKind.REQUIRED_MIRROR, "m", 3)
    holders.lease(HolderKind.MIRROR, "far", 5)
    names = [(holder.name, holder.write, holder.kind.gives_way) for holder in holders.all()]
    assert names == [
        ("mirror m", 3, False),
        ("mirror far", 5, True),
        ("snapshot before-upgrade", 7, False),
        ("view v@w9", 9, True),
    ]
    assert [holder.owner for holder in holders.firm()] == ["m"], "a snapshot keeps no log"
    assert holders.pinned_writes() == [7]
    assert holders.oldest_write() == 3
    assert holders.refusal() == "mirror m keeps everything from w3 on"


def test_a_pinned_lease_keeps_its_moment_and_no_log() -> None:
    holders = made(PinnedSnapshot("s", 7, 2, 0))
    release = holders.lease(HolderKind.VIEW, "view v@w4", 4, pinned=True)
    assert (holders.oldest_write(), holders.pinned_writes()) == (None, [4, 7])
    release()
    assert holders.pinned_writes() == [7]


def test_nobody_holds_anything() -> None:
    holders = made()
    assert (holders.all(), holders.oldest_write(), holders.refusal(), len(holders)) == ([], None, "", 0)


def test_a_lease_lasts_until_it_is_released() -> None:
    holders = made()
    release = holders.lease(HolderKind.UNDER_WAY, "snapshot s being made", 4)
    again = holders.lease(HolderKind.UNDER_WAY, "snapshot s being made", 2)
    assert holders.oldest_write() == 2
    again()
    again()  # twice does no harm
    assert holders.oldest_write() == 4 and len(holders) == 1
    release()
    assert not holders.all()


def test_whoever_is_evicted_releases_at_once() -> None:
    holders, told = made(), list[str]()

    def ended() -> None:
        told.append("ended")
        release()

    release = holders.lease(HolderKind.OVERLAY, "overlay o", 4, ended, lambda: 4096)
    holder = holders.all()[0]
    assert holder == Holder(HolderKind.OVERLAY, "overlay o", 4, 4096, 1)
    holders.revoke(holder)
    holders.revoke(holder)  # it is gone
    assert told == ["ended"] and not len(holders)
