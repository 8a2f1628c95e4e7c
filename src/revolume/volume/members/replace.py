"""What it means to forget which copy a mirror is, in words, and the order itself for a volume that is not open."""

from __future__ import annotations

from contextlib import closing

from revolume.errors import Refused
from revolume.host import Host
from revolume.volume.members.mirrors import forgotten
from revolume.volume.members.offline_orders import recorded
from revolume.volume.metadata.directory_lock import locked
from revolume.volume.metadata.manifest_edits import EditKind
from revolume.volume.metadata.manifest_state import MirrorState
from revolume.volume.metadata.node_edits import pack_member


def known_of(mirror: MirrorState) -> str:
    """How far a mirror's copy is known to be, from what is recorded of it."""
    if not mirror.point:
        return "nothing is known of how far it is"
    at = f", and the log up to position {mirror.durable}" if mirror.durable else ""
    return f"it is known to hold cp{mirror.point} (w{mirror.write}){at} on its disk"


def replacing_loses(name: str, known: str) -> Refused:
    """Answers rest on the copy, and it is away."""
    return Refused(
        "mirror-required",
        f"Mirror {name} is required and its copy is not connected: answered writes may live only there; {known}.",
        f"Bring that copy back; or, if it is gone for good: 'revolume mirror replace DIR {name} --yes'. From then "
        "on writes are answered without a mirror until a new copy has joined.",
    )


def given_up(name: str, mirror: MirrorState) -> str:
    """What was done."""
    if not mirror.joined:
        return f"Mirror {name}: no copy had joined; the next one that does is the mirror."
    return (
        f"Mirror {name}: the copy that it was is given up ({known_of(mirror)}). The next copy that joins is the "
        "mirror; until then answers do not wait for it."
    )


def replace_stopped(host: Host, path: str, name: str, yes: bool) -> str:
    """As ``PrimaryRole.replace_mirror``, under the directory's lock."""
    with closing(locked(host, path, "Try again when it is served, or has stopped.")) as directory:
        told = [""]

        def edit(mirror: MirrorState) -> tuple[EditKind, bytes]:
            if mirror.required and not yes:
                raise replacing_loses(name, known_of(mirror))
            told[0] = given_up(name, mirror)
            return EditKind.MEMBER, pack_member(forgotten(mirror))

        recorded(directory, name, edit)
        return told[0]
