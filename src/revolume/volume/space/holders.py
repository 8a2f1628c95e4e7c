"""Who keeps history from going.

Everything that must not be folded away has a *holder*. Most hold the log from a write on: by a lease, for as long
as they are open. Some of those give way when the log has no other room (``retention.py`` says which): a throw-away
overlay, then a view, then what is kept for an async mirror. Required mirrors do not.

Others are *pinned*: snapshots and what branches begin at, durably, by the manifest, points that are kept for
mirrors (at a mirror: the resync points of other members), and the views that are open at one of these. They keep
no log. A fold stops at a pinned moment, goes on, and rescues what it is about to overwrite (``rescuer.py``). What
is pinned for a mirror gives way when the disk has no room for that (``make_room.py``, ``mirror_room.py``). The
policy pins points by a rule (``policy_pins.py``); those give way before that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from revolume.blocks.numbers import WriteNumber
from revolume.volume.metadata.manifest_state import Role
from revolume.volume.metadata.manifest_writer import ManifestWriter
from revolume.volume.space.holder import Holder, HolderKind
from revolume.volume.space.policy_pins import PolicyPins


def _nothing() -> None:
    return None


def _no_bytes() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class _Lease:
    kind: HolderKind
    owner: str
    write: WriteNumber
    revoke: Callable[[], None]
    held_bytes: Callable[[], int]
    pinned: bool


class Holders:
    """The holders of an open volume."""

    def __init__(self, manifest: ManifestWriter, policy: PolicyPins | None = None) -> None:
        """``policy``: the points that are pinned by it; None: it pins none."""
        self._manifest = manifest
        self._policy = policy
        self._given = 0
        self._leases: dict[int, _Lease] = {}

    def __len__(self) -> int:
        """How many leases are held."""
        return len(self._leases)

    def lease(
        self,
        kind: HolderKind,
        owner: str,
        write: WriteNumber,
        revoke: Callable[[], None] = _nothing,
        held_bytes: Callable[[], int] = _no_bytes,
        pinned: bool = False,
    ) -> Callable[[], None]:
        """Keep everything from ``write`` on, or only that moment (``pinned``: it is that of a point); returns the
        function that releases it. A kind that gives way says how it is ended (``revoke``, which releases before it
        returns), and what that gives back by itself."""
        self._given += 1
        number = self._given
        self._leases[number] = _Lease(kind, owner, write, revoke, held_bytes, pinned)

        def release() -> None:
            self._leases.pop(number, None)

        return release

    def revoke(self, holder: Holder) -> None:
        """End a lease: whoever has it is told, and lets go at once."""
        if holder.lease is not None and holder.lease in self._leases:
            self._leases[holder.lease].revoke()

    def all(self) -> list[Holder]:
        """Oldest write first. Of an open clone what its record keeps is told, not its lease beside it."""
        state = self._manifest.state
        rescued = state.rescued_bytes()
        found = [
            Holder(HolderKind.SNAPSHOT, s.name, s.write, rescued.get(s.write, 0), pinned=True)
            for s in state.snapshots
        ]
        found += [
            Holder(HolderKind.BRANCH, branch.name, branch.common.write, branch.bytes, pinned=True)
            for branch in state.branches
        ]
        found += [
            Holder(HolderKind.CLONE, each.name, each.write, rescued.get(each.write, 0), pinned=True)
            for each in state.clones.records
        ]
        if state.role == Role.SECONDARY:
            found += [
                Holder(HolderKind.MIRROR, each.name, each.write, rescued.get(each.write, 0), pinned=True)
                for each in state.resync_points
            ]
        found += [
            Holder(lease.kind, lease.owner, lease.write, lease.held_bytes(), number, lease.pinned)
            for number, lease in self._leases.items()
            if lease.kind != HolderKind.CLONE
        ]
        return sorted(found, key=lambda holder: holder.write)

    def firm(self) -> list[Holder]:
        """Those who keep log and never give way, oldest write first; of the same write in order of name."""
        kept = [holder for holder in self.all() if not holder.kind.gives_way and not holder.pinned]
        return sorted(kept, key=lambda holder: (holder.write, holder.name))

    def oldest_write(self) -> WriteNumber | None:
        """No fold goes beyond it; None: nobody holds any log."""
        return min((lease.write for lease in self._leases.values() if not lease.pinned), default=None)

    def pinned_writes(self) -> list[WriteNumber]:
        """The moments at which folds stop, and for which they rescue what they overwrite; oldest first. Of those
        in the log that the policy pins only the next."""
        found = self.firmly_pinned()
        if self._policy is not None:
            stop = self._policy.next_stop()
            found |= {*self._policy.writes(), *(() if stop is None else (stop,))}
        return sorted(found)

    def firmly_pinned(self) -> set[WriteNumber]:
        """Those that somebody has pinned, whatever the policy says."""
        state = self._manifest.state
        found = state.pinned_writes()
        if state.role == Role.SECONDARY:  # it was their primary: where they stood it may have to go back to
            found |= {mirror.write for mirror in state.mirrors if mirror.kept}
        return found | {lease.write for lease in self._leases.values() if lease.pinned}

    def end_readers(self, moments: Collection[WriteNumber]) -> None:
        """Of moments that were pinned and are not any more: who reads one keeps what was rescued for it. Not of
        those that a snapshot has named."""
        holders = self.all()
        kinds = (HolderKind.SNAPSHOT, HolderKind.BRANCH, HolderKind.CLONE)
        named = {each.write for each in holders if each.kind in kinds}
        for each in holders:
            if each.pinned and each.kind.gives_way and each.write in moments and each.write not in named:
                self.revoke(each)

    def refusal(self) -> str:
        """Who keeps the log from growing when nobody gives way, as the end of a sentence; empty: nobody does."""
        kept = self.firm()
        return f"{kept[0].name} keeps everything from w{kept[0].write} on" if kept else ""
