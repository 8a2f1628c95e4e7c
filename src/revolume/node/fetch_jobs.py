"""Jobs of kind ``fetch``: a moment that a mirror of this primary holds, and it does not, is brought here."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from revolume.errors import NotFound
from revolume.history.moments import check_snapshot_name, format_time, parse_moment
from revolume.host import Host
from revolume.jobs.job import Job, JobPlan, Outcome
from revolume.jobs.jobs import Jobs
from revolume.mirror.recovery.recall import recall_link
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.wire.codec import NOWHERE
from revolume.mirror.wire.recall_messages import Recall, Recalled
from revolume.mirror.wire.tail_messages import Fetch
from revolume.node.addresses import absolute, refuse_plaintext_links
from revolume.node.service_options import ServiceOptions
from revolume.pace.pacer import Pacer
from revolume.resync.moment_fetch import FetchResult, MomentFetch
from revolume.volume.metadata.manifest_state import MirrorState
from revolume.volume.open.directory_state import stated
from revolume.volume.primary import Volume

KIND: Final = "fetch"
LIST_KIND: Final = "list-moments"
NOBODY: Final = Fetch(bytes(16), bytes(16), NOWHERE)
"""An asker that has no volume, and asks for none in particular."""


class FetchJobs:
    """Of one open primary. ``context``: for TLS; ``pacer``: the node's, for what is sent in bulk."""

    def __init__(
        self,
        host: Host,
        volume: Volume,
        jobs: Jobs,
        options: ServiceOptions,
        context: ssl.SSLContext | None,
        pacer: Pacer,
    ) -> None:
        self._host = host
        self._volume = volume
        self._options = options
        self._context = context
        self._pacer = pacer
        jobs.register(KIND, self._plan)
        jobs.register(LIST_KIND, self._plan_list)

    def _plan(self, orders: Mapping[str, Any]) -> JobPlan:
        """``from``: a mirror's name, or an address; ``moment``, as people write it; ``suspect``: also one that is;
        ``name``: what it is called here."""
        asked = str(orders.get("moment", ""))
        parse_moment(asked)
        name = orders.get("name")
        if name is not None:
            check_snapshot_name(str(name))
        address, peer = self._place(str(orders.get("from", "")))
        recall = Recall(self._asker(), asked, bool(orders.get("suspect", False)))

        async def work(job: Job) -> Outcome:
            async with recall_link(self._host, address, self._context, peer) as link:
                found = await link.open(recall)
                chosen = str(name) if name is not None else name_of(asked, found)
                result = await MomentFetch(self._volume, link, found, self._pacer, job.report).run(chosen)
            told = _told(self._volume.name, result, found.note)
            self._volume.events.tell(told)
            return Outcome({**asdict(result), "told": told}, finding=result.lost)

        return JobPlan(f"{asked} of {self._volume.name}, from {orders.get('from')}", work)

    def _plan_list(self, orders: Mapping[str, Any]) -> JobPlan:
        """``from``: a mirror's name, or an address."""
        address, peer = self._place(str(orders.get("from", "")))

        async def work(_: Job) -> Outcome:
            return Outcome(await moments_at(self._host, address, self._context, peer, self._asker()))

        return JobPlan(f"moments that {orders.get('from')} holds", work)

    def _asker(self) -> Fetch:
        state = self._volume.manifest.state
        return Fetch(state.volume, state.node, VolumeSource(self._volume).end())

    def _place(self, text: str) -> tuple[str, str | None]:
        """Address and certificate name of the node that is asked. NotFound: no mirror has that name."""
        address, peer = place_of(self._volume.name, [mirror.state for mirror in self._volume.mirrors], text)
        if not self._options.plain_links_allowed:
            refuse_plaintext_links([address], self._options.tls_dir)
        return address, peer


def place_of(volume: str, mirrors: Sequence[MirrorState], text: str) -> tuple[str, str | None]:
    """Address and certificate name of the node that ``text`` names: one of the ``mirrors``, or an address.
    NotFound: no mirror has that name. UsageError."""
    known = next((mirror for mirror in mirrors if mirror.name == text), None)
    if known is not None and known.address:
        return known.address, known.peer or None
    if known is not None or not any(sign in text for sign in ":./"):
        names = ", ".join(mirror.name for mirror in mirrors) or "none"
        raise NotFound(
            "no-mirror", f"{volume} knows no mirror {text[:64]!a} and where it is.",
            f"It has: {names}. Or give an address, unix:PATH or HOST:PORT.",
        )  # fmt: skip
    return absolute(text), None


def name_of(asked: str, found: Recalled) -> str:
    """What a moment is called here that nobody gave a name: that of the snapshot it is, or its write."""
    write = found.start.write
    named = [each.name for each in found.start.names if each.write == write]
    return asked if asked in named else named[0] if named else f"fetched-w{write}"


async def moments_at(
    host: Host, address: str, context: ssl.SSLContext | None, peer: str | None, asker: Fetch = NOBODY
) -> dict[str, Any]:
    """Which moments the node at this address holds, as JSON values. TimedOut: nobody is there."""
    async with recall_link(host, address, context, peer) as link:
        moments = await link.moments(asker)
    return {"name": moments.name, "moments": [asdict(entry) for entry in moments.entries]}


def recorded_place(host: Host, path: str, text: str) -> tuple[str, str | None]:
    """Address and certificate name of the node that ``text`` names: a mirror of the volume in the directory
    ``path``, which is not served, or an address. NotFound: no mirror has that name. UsageError."""
    try:
        state = stated(host.disk, path)
    except (NotFound, FileNotFoundError, NotADirectoryError):
        return place_of(path, (), text)
    return place_of(state.name, state.mirrors, text)


def _told(volume: str, result: FetchResult, note: str) -> str:
    """What came of it, as a sentence."""
    lost = " That node had lost blocks of it, which are errors to read." if result.lost else ""
    meant = f" ({note})" if note else ""
    return (
        f"{volume}@{result.name} is here: cp{result.point} (w{result.write}) of {format_time(result.time_ns)}"
        f"{meant}; {result.differs} blocks differed, {result.sent} were sent.{lost}"
    )
