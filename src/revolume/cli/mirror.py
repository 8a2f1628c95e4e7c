"""A mirror in a service: the listener for its source, the copy that it keeps, and its exports.

The directory may be empty: then there is no volume until a source has come. Assembly: how a mirror receives is
``mirror/target.py``'s business, what it stores ``volume/secondary.py``'s.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn

from revolume.chain.point import Point
from revolume.cli.compared import refuse_shorter
from revolume.cli.heard import Heard
from revolume.cli.mirror_shapes import base_sentence, lacks, source_shape, why_not_promotable
from revolume.cli.role import open_options
from revolume.cli.serving import Serving
from revolume.cli.target import holds_volume
from revolume.errors import NotFound, Refused, RevolumeError
from revolume.history.exports import VolumeExports
from revolume.history.moments import Moment
from revolume.history.spot import Spot
from revolume.host import Host
from revolume.host.disk import Directory
from revolume.mirror.messages import Start
from revolume.mirror.shelf import DirectoryShelf
from revolume.mirror.target import Target
from revolume.volume.creating import OURS
from revolume.volume.opening import open_secondary
from revolume.volume.secondary import COPY_OUT, Secondary
from revolume.volume.secondary_status import empty_status, secondary_status
from revolume.volume.status import Snapshot, VolumeStatus

Tell = Callable[[str], None]
LACKS_HINT = (
    "Let its source bring it up to date, or promote another mirror. With --yes it is promoted as it is, and what "
    "was answered on its word may be lost."
)


async def open_mirror(host: Host, asked: Serving, tell: Tell) -> SecondaryRole:
    """The mirror in the directory, listening for its source. Refused: something else is there."""
    role = SecondaryRole(host, asked, tell)
    try:
        await role.open()
    except BaseException:
        await role.close()
        raise
    return role


class SecondaryRole:
    """See the module's text; a ``role.Role``. ``failure``: why it is not served."""

    def __init__(self, host: Host, asked: Serving, tell: Tell, failure: str = "") -> None:
        self._host = host
        self._asked = asked
        self._tell = tell
        self._failure = failure
        self._target: Target | None = None
        self._shelf: DirectoryShelf | None = None
        self._exports: VolumeExports | None = None
        self._empty: Directory | None = None
        self._heard: Heard | None = None
        self.listening = ""

    async def open(self) -> None:
        """Open what is there, and listen."""
        asked, context = self._asked, _link_context(self._asked)
        options = open_options(asked)
        secondary = None
        if holds_volume(asked.directory):
            secondary = await open_secondary(self._host, asked.directory, options)
        else:
            self._empty = _held(self._host, asked.directory)
        self._shelf = _Shelf(self._host, asked.directory, options, secondary, self._opened, self._let_go_of_empty)
        if secondary is not None:
            self._opened(secondary)
            if asked.source_name is not None:
                await secondary.bound.name_source(asked.source_name)
        self._target = Target(self._host, self._shelf, context, self._tell, asked.source_name or "")
        assert asked.mirror_listen is not None
        self.listening = (await self._target.listen(asked.mirror_listen))[0]

    def _opened(self, secondary: Secondary) -> None:
        """This is the copy that is here from now on."""
        if self._exports is not None:
            self._exports.close()
        self._exports = VolumeExports(secondary, None)
        if self._heard is not None:
            secondary.core.events.follow(partial(self._heard.event, secondary.name))

    def follow(self, heard: Heard) -> None:
        """See ``role.Role``: the copy that is here, and whichever comes later."""
        self._heard = heard
        if self.secondary is not None:
            self.secondary.core.events.follow(partial(heard.event, self.secondary.name))

    def _let_go_of_empty(self) -> None:
        if self._empty is not None:
            self._empty.close()
            self._empty = None

    @property
    def secondary(self) -> Secondary | None:
        """None: no source has come yet."""
        return self._shelf.secondary if self._shelf is not None else None

    @property
    def name(self) -> str:
        """Its source's; empty until one has come."""
        return self.secondary.name if self.secondary is not None else ""

    @property
    def size(self) -> int:
        """Bytes, as of the last agreed point."""
        return self.secondary.size if self.secondary is not None else 0

    # Looking

    def exports_now(self) -> VolumeExports:
        """See ``role.Role``: a mirror is opened at points, once it is a whole copy."""
        secondary = self._there()
        if secondary.base is not None:
            raise Refused("base-incomplete", base_sentence(secondary), "Wait until its source has sent the rest.")
        assert self._exports is not None
        return self._exports

    def _there(self) -> Secondary:
        if self._failure:
            raise Refused("not-served", self._failure, "Serve it again.")
        if self.secondary is None:
            raise Refused(
                "no-source", "No source has connected yet, so there is no volume.",
                f"Start it with --mirror-to {self.listening}.",
            )  # fmt: skip
        return self.secondary

    def status(self) -> VolumeStatus:
        """See ``role.Role``."""
        if self.secondary is not None:
            return secondary_status(self.secondary)
        return empty_status(self._asked.directory, self._failure or "No source has connected yet.")

    def mirroring(self) -> dict[str, Any]:
        """See ``role.Role``."""
        names = lacks(self.secondary.core.manifest.state) if self.secondary is not None else []
        source = source_shape(self._target, self.secondary, self.listening)
        return {"role": "secondary", "source": source, "lacks": names}

    def points(self) -> list[Point]:
        """The agreed ones that are retained."""
        return self.secondary.points() if self.secondary is not None else []

    def snapshots(self) -> list[Snapshot]:
        """Its source's, as far as they have come."""
        return self.secondary.snapshots() if self.secondary is not None else []

    def resolve(self, moment: Moment) -> Spot:
        """See ``role.Role``."""
        return self.exports_now().timeline.resolve(moment)

    # Changing: its source alone does that

    @property
    def waits_in_vain(self) -> bool:
        """See ``role.Role``: nobody's answer waits here."""
        return False

    async def cut(self) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def snapshot(self, name: str) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def drop_snapshot(self, name: str) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def grow(self, size: int) -> NoReturn:
        """Refused."""
        raise self._refusal()

    async def detach(self, name: str) -> NoReturn:
        """NotFound: a mirror has none itself."""
        raise NotFound("no-mirror", f"This is a mirror; it has no mirror {name}.", "Ask its source.")

    async def replace_mirror(self, name: str, yes: bool) -> NoReturn:
        """NotFound: a mirror has none itself."""
        await self.detach(name)

    def _refusal(self) -> Refused:
        return Refused(
            "is-mirror", "This is a mirror: only its source changes it.", "Ask its source, or promote the mirror."
        )

    # Becoming a primary

    def refuse_promotion(self, yes: bool = False) -> None:
        """Refused while its source is connected, or while it is no whole copy; without ``yes``, if it holds less
        than it had acknowledged."""
        owes = self.secondary.bound.why_no_proof if self.secondary is not None else ""
        reason = self._failure or why_not_promotable(self.secondary)
        if owes and reason == owes:
            if not yes:
                raise Refused("lacks-acknowledged", owes, LACKS_HINT)
            reason = ""
        if reason:
            stuck = self.secondary is not None and self.secondary.failure is not None
            hint = COPY_OUT if stuck else "Promote another mirror, or let the source finish this one."
            raise Refused("not-promotable", reason, hint)
        current = self._target.current if self._target is not None else None
        if current is not None and current.hello is not None:
            raise Refused(
                "source-alive",
                f"Its source is connected and alive: {current.hello.name}, opening {current.hello.epoch}, "
                f"from {current.link.peer.address}.",
                "Stop the source first: two primaries of one volume would go apart.",
            )

    async def refuse_shorter(self, others: Sequence[str]) -> None:
        """Refused if a mirror at one of these addresses has more than this one, or can't be asked."""
        assert self.secondary is not None
        assert self._shelf is not None
        context = None
        if self._asked.tls_dir is not None:
            from revolume.host.tls import client_context

            context = client_context(self._asked.tls_dir, only_tls13=True)
        await refuse_shorter(self._host, self.secondary, self._shelf.node, others, context)

    async def close(self) -> None:
        """See ``role.Role``. The source is let go first, so that nothing more comes."""
        try:
            if self._target is not None:
                await self._target.stop()
        finally:
            if self._exports is not None:
                self._exports.close()
            if self.secondary is not None:
                await self.secondary.close()
            self._let_go_of_empty()


class _Shelf(DirectoryShelf):
    """An empty directory is held by us until it becomes a volume's."""

    def __init__(
        self, host: Host, path: str, options: Any, secondary: Secondary | None, opened: Any, let_go: Any
    ) -> None:
        super().__init__(host, path, options, secondary, opened)
        self._let_go = let_go

    async def create(self, volume: bytes, name: str, start: Start) -> Secondary:
        """See ``parts.Shelf``."""
        self._let_go()
        return await super().create(volume, name, start)


def _held(host: Host, path: str) -> Directory:
    """A new or empty directory, locked. Refused: it is not empty, or somebody else holds it."""
    try:
        directory = host.disk.open(path, create=True)
    except (FileExistsError, NotADirectoryError):
        raise Refused("not-a-directory", f"{path} is not a directory.", "Name a directory.") from None
    try:
        directory.lock()
        strange = sorted(set(directory.names()) - OURS)
        if strange:
            raise Refused(
                "dir-not-empty", f"{path} holds other things ({strange[0]}) and no volume.",
                "Name an empty or a new directory.",
            )  # fmt: skip
    except BlockingIOError:
        directory.close()
        raise Refused("dir-in-use", f"{path} is in use by another process.", "Stop that one first.") from None
    except RevolumeError:
        directory.close()
        raise
    return directory


def _link_context(asked: Serving) -> ssl.SSLContext | None:
    if asked.tls_dir is None or asked.mirror_listen is None or asked.mirror_listen.startswith("unix:"):
        return None
    from revolume.host.tls import server_context

    return server_context(asked.tls_dir, verify_peer=True, only_tls13=True)
