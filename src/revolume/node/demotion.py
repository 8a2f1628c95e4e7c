"""A primary becomes a mirror's copy: in a running service without its listeners going, or in its directory.

    asked → refused while clients may write, or where it would listen nowhere
          → nothing is offered, connections end, what they wait for is answered if it can be
          → the volume is closed: a last point, the mirrors level
          → its directory is a mirror's (``volume/open/demote.py``): from here on no opening makes it a primary
          → it is served as a mirror, which listens for a source

A crash before the directory is a mirror's leaves a stopped primary. What it knew of its mirrors stays with it:
promoted before another primary was heard of, it is the primary that it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from revolume.api.schemas import DemotedSchema
from revolume.errors import Refused
from revolume.host import Host
from revolume.node.addresses import absolute, refuse_plaintext_links
from revolume.node.primary_role import PrimaryRole, open_promoted
from revolume.node.role import Role
from revolume.node.role_changes import GRACE_S, RoleChanges
from revolume.node.secondary_role import open_secondary_role
from revolume.node.service_options import ServiceOptions, history_preserving, open_options
from revolume.volume.metadata.manifest_state import Listener
from revolume.volume.open.demote import Demoted, demote_directory, is_mirror
from revolume.volume.open.directory_state import stated


class Demotion:
    """Of a running service's volume."""

    def __init__(self, changes: RoleChanges) -> None:
        self._changes = changes

    async def demote(self, current: Callable[[], Role], listen: str | None, yes: bool) -> DemotedSchema:
        """Make the primary a mirror's copy, which listens for a source at ``listen``, or where it is recorded that
        this node does. Refused without ``yes`` while clients may write; or it listens nowhere."""
        async with self._changes.turn:
            role = current()
            if not isinstance(role, PrimaryRole):
                raise is_mirror(role.name)
            role.clones.refuse_any("become a mirror")
            options = as_mirror(self._changes.options, listen, role.name)
            if not yes:
                self._refuse_writers(role)
            return await self._demoted(role, options)

    def _refuse_writers(self, role: PrimaryRole) -> None:
        writers = writers_of(self._changes, role)
        if writers:
            raise Refused(
                "clients-connected",
                f"{role.name} has {writers} connection{'s'[: writers != 1]} of clients that may write to it.",
                "Stop them first; with --yes they are disconnected, and find a mirror when they come back.",
            )

    async def _demoted(self, role: PrimaryRole, options: ServiceOptions) -> DemotedSchema:
        changes = self._changes
        changes.exports.withdraw(Refused("demoting", "The primary is being demoted.", "Try again in a moment."))
        await changes.server.dismiss(GRACE_S, lambda: role.waits_in_vain)
        demoted: Demoted | None = None
        try:
            await role.close()
            demoted = await demote_directory(changes.host, options.directory, open_options(options))
            mirror = await open_secondary_role(changes.host, options, changes.tell)
        except BaseException:
            await self._fall_back(demoted is not None)
            raise
        changes.options = options
        changes.become(mirror)
        told = demoted_schema(demoted, mirror.listening)
        changes.tell(told.told)
        return told

    async def _fall_back(self, is_mirror: bool) -> None:
        """It is served as the primary that it was: no other was told to take over."""
        changes = self._changes
        if is_mirror:
            primary = await open_promoted(changes.host, changes.options, changes.tell)
            changes.become(primary)
        else:
            await changes.serve_again()


def writers_of(changes: RoleChanges, role: PrimaryRole) -> int:
    """How many connections the live volume has. (Throw-away overlays of its past have names of their own.)"""
    return sum(connection.export == role.name for connection in changes.server.connections())


def as_mirror(options: ServiceOptions, listen: str | None, name: str) -> ServiceOptions:
    """``options`` of the same service as a mirror. Refused: it would listen nowhere, or others could change it."""
    address = absolute(listen) if listen is not None else options.mirror_listen
    if not address:
        raise no_listener(name)
    if not options.plain_links_allowed:
        refuse_plaintext_links([address], options.tls_dir)
    return replace(options, mirror_listen=address, mirrors=(), size=None, name=None, alone=False)


def no_listener(name: str) -> Refused:
    """A mirror must be found by its source."""
    return Refused(
        "no-listener", f"It is not known where {name} would listen for its source.",
        "Say so with --mirror-listen HOST[:10810] or unix:PATH.",
    )  # fmt: skip


def demoted_schema(demoted: Demoted, listening: str) -> DemotedSchema:
    """What was done, for a person too."""
    where = f", and listens for a source at {listening}" if listening else ""
    behind = demoted.position - demoted.agreed.position
    tail = f" Its log goes on behind that to position {demoted.position}; nothing of it is lost." if behind else ""
    return DemotedSchema(
        name=demoted.name,
        role="secondary",
        point=demoted.agreed.point,
        write=demoted.agreed.write,
        position=demoted.position,
        listening=listening,
        told=f"{demoted.name} is a mirror now: it stands at cp{demoted.agreed.point}{where}.{tail}",
    )


async def demote_stopped(host: Host, directory: str, listen: str | None = None) -> DemotedSchema:
    """Make the primary in ``directory``, which is not served, a mirror's copy. Refused: it is a mirror."""
    options = history_preserving(directory)
    listener = None
    if listen is not None:
        recorded = (await host.work.call(stated, host.disk, directory)).listener
        listener = Listener(absolute(listen), recorded.advertised)
    demoted = await demote_directory(host, directory, open_options(options), listener)
    return demoted_schema(demoted, listener.address if listener is not None else "")
