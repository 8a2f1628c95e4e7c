"""Orders about the mirrors of an open primary: one more, another mode, another address.

Who answers at an address is asked first (EXAMINE, which disturbs nobody): what can't be the mirror is refused with
a sentence; where nobody answers, the order is done all the same, and says so. Each is durable before it is
answered.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from revolume.api.schemas import AddedMirrorSchema, MirrorOrder, MirrorSetSchema
from revolume.errors import Refused, RevolumeError, UsageError
from revolume.host import Host
from revolume.host.error_text import error_text
from revolume.mirror.mirror_status import MirrorState
from revolume.mirror.recovery.examine import examine
from revolume.mirror.source.time_to_protection import ASSUMED_BYTES_PER_S, to_send
from revolume.mirror.source.volume_source import VolumeSource
from revolume.mirror.wire.examine_messages import Examined, Standing
from revolume.mirror.wire.tail_messages import Fetch
from revolume.node.addresses import absolute, refuse_plaintext_links
from revolume.node.mirror_links import MirrorLinks
from revolume.node.mirror_to import MirrorTo, fit_name, known_history, known_mode, known_on_lost
from revolume.node.service_options import ServiceOptions
from revolume.volume.members.mirror import Mirror
from revolume.volume.members.offline_orders import mirror_exists, refuse_cloned, refuse_taken_address
from revolume.volume.metadata.base_history import History
from revolume.volume.metadata.manifest_state import MirrorMode
from revolume.volume.metadata.on_lost import AS_IT_IS, AskedOnLost
from revolume.volume.primary import Volume


class MirrorOrders:
    """Of one volume, one at a time. ``context``: for TLS; ``tell`` takes sentences for the event log."""

    def __init__(
        self,
        host: Host,
        volume: Volume,
        links: MirrorLinks,
        options: ServiceOptions,
        context: ssl.SSLContext | None,
        tell: Callable[[str], None],
    ) -> None:
        self._host = host
        self._volume = volume
        self._links = links
        self._options = options
        self._context = context
        self._tell = tell
        self._turn = asyncio.Lock()

    async def add(self, order: MirrorOrder) -> AddedMirrorSchema:
        """One more mirror. Refused: its name or address is taken, or who answers there can't be it."""
        asked = _mirror_of(order)
        async with self._turn:
            self._refuse_taken(asked)
            there, silence = await self._asked(asked.address, asked.peer)
            if there is not None:
                self._refuse_answer(asked.name, asked.address, there)
            lacking = await to_send(self._volume, asked.history or History.NAMED, there)
            await self._links.begin(asked)
        mode = self._volume.mirrors.get(asked.name).mode.name.lower()
        told = f"Mirror {asked.name} at {asked.address} is added, {mode}. {lacking.sentence}{silence}"
        self._tell(told)
        return AddedMirrorSchema(
            name=asked.name,
            address=asked.address,
            mode=mode,
            told=told,
            answers=there is not None,
            send_bytes=lacking.bytes,
            assumed_bytes_per_s=ASSUMED_BYTES_PER_S,
            seconds=lacking.seconds,
        )

    async def set(self, order: MirrorOrder) -> MirrorSetSchema:
        """Another mode, address, certificate name or policy when it is lost. NotFound: there is no such mirror."""
        lost = known_on_lost(order.on_lost, order.deadline, "the order")
        mode, address = _mode(order), None if order.address is None else absolute(order.address)
        async with self._turn:
            mirror = self._volume.mirrors.get(order.name)
            told = []
            if mode not in (None, mirror.mode):
                told.append(self._mode_told(mirror, mode))
            moved = address is not None and address != mirror.state.address
            if address is not None and moved:
                told.append(await self._address_told(mirror, address, order.peer))
            if (sentence := _lost_told(mirror, lost)) and lost != AS_IT_IS:
                told.append(sentence)
            await self._volume.mirrors.register(order.name, mode or mirror.mode, order.peer, address, lost=lost)
            if moved or (order.peer is not None and mirror.state.address):
                await self._links.move(order.name)
        sentence = " ".join(told) or f"Mirror {order.name} is as it was asked for."
        self._tell(sentence)
        return MirrorSetSchema(order.name, sentence)

    # What is refused

    def _refuse_taken(self, asked: MirrorTo) -> None:
        refuse_cloned(self._volume.manifest.state)
        if any(mirror.name == asked.name for mirror in self._volume.mirrors):
            raise mirror_exists(self._volume.name, asked.name)
        self._refuse_address(asked.address)

    def _refuse_address(self, address: str) -> None:
        refuse_taken_address((mirror.state for mirror in self._volume.mirrors), address)
        if not self._options.plain_links_allowed:
            refuse_plaintext_links([address], self._options.tls_dir)
        if address in (self._options.mirror_listen, self._options.advertise):
            raise _itself(address)

    def _refuse_answer(self, name: str, address: str, there: Examined) -> None:
        if there.node == self._volume.manifest.state.node:
            raise _itself(address)
        same = next((m.name for m in self._volume.mirrors if m.joined and m.node == there.node), None)
        if same is not None and there.standing != Standing.EMPTY and same != name:
            raise Refused(
                "same-copy", f"What answers at {address} is the copy that mirror {same} is already.",
                f"Move it there: 'revolume mirror set DIR {same} --address {address}'; or name another node.",
            )  # fmt: skip
        if there.standing != Standing.EMPTY and there.volume != self._volume.volume_id:
            raise Refused(
                "other-volume", f"What answers at {address} holds another volume than {self._volume.name}.",
                "Name an empty directory there, or the one of this volume's mirror.",
            )  # fmt: skip

        if there.standing == Standing.PRIMARY:
            raise Refused(
                "is-primary",
                f"What answers at {address} is a primary of {self._volume.name}, and nobody's mirror.",
                "Two primaries of one volume go apart: look at both.",
            )  # fmt: skip

    async def _asked(self, address: str, peer: str | None) -> tuple[Examined | None, str]:
        """Who is there; or None, and a sentence."""
        volume = self._volume
        asked = Fetch(volume.volume_id, volume.manifest.state.node, VolumeSource(volume).end())
        try:
            return await examine(self._host, address, self._context, asked, peer or None), ""
        except (OSError, RevolumeError) as error:
            why = error_text(error).rstrip(".")
            return None, f" Nobody answers there as a mirror yet ({why}); it is connected to again and again."

    def _mode_told(self, mirror: Mirror, mode: MirrorMode | None) -> str:
        """Refused: answers would wait at once for what it lacks."""
        if mode == MirrorMode.ASYNC:
            return (
                f"Mirror {mirror.name} is async: answers do not wait for it, and a failover to it may lose some."
            )
        source = self._links.get(mirror.name)
        state = MirrorState.NOT_SERVED if source is None else source.status(self._volume.position).state
        if mirror.joined and state != MirrorState.IN_SYNC:
            raise Refused(
                "mirror-behind",
                f"Mirror {mirror.name} is not in sync ({state}): answers would wait for it at once.",
                f"Wait until it is: 'revolume wait DIR --mirror {mirror.name}'.",
            )  # fmt: skip
        when = "from now on" if mirror.joined else "once it has joined"
        return f"Mirror {mirror.name} is sync: answers wait for it {when}."

    async def _address_told(self, mirror: Mirror, address: str, peer: str | None) -> str:
        self._refuse_address(address)
        there, silence = await self._asked(address, mirror.peer if peer is None else peer)
        if there is not None:
            self._refuse_answer(mirror.name, address, there)
            if mirror.joined and mirror.node not in (bytes(16), there.node):
                raise Refused(
                    "member-replaced",
                    f"What answers at {address} is not the copy that mirror {mirror.name} is.",
                    "Bring that copy there; or let another become the mirror: 'revolume mirror replace DIR "
                    f"{mirror.name}'.",
                )
        return f"Mirror {mirror.name} is at {address} from now on.{silence}"


def _mirror_of(order: MirrorOrder) -> MirrorTo:
    """UsageError: it makes no sense."""
    if order.address is None:
        raise UsageError("mirror-address", "A mirror needs an address.", "Give unix:PATH or HOST[:10810].")
    return MirrorTo(
        absolute(order.address),
        known_mode(order.mode, "the mode"),
        fit_name(order.name),
        order.peer,
        known_history(order.history, "the history"),
        known_on_lost(order.on_lost, order.deadline, "the order"),
    )


def _lost_told(mirror: Mirror, lost: AskedOnLost) -> str:
    """ "" if nothing changes."""
    before, after = mirror.state.on_lost, lost.applied(mirror.state.on_lost)
    if (before.detaches, before.deadline_ms) == (after.detaches, after.deadline_ms):
        return ""
    if not after.detaches:
        return f"When mirror {mirror.name} is lost, answers wait for it."
    return (
        f"When mirror {mirror.name} has been lost for {after.deadline_ms / 1000:g} s, it is detached until it is "
        "level again."
    )


def _mode(order: MirrorOrder) -> MirrorMode | None:
    sync = known_mode(order.mode, "the mode")
    return None if sync is None else MirrorMode.SYNC if sync else MirrorMode.ASYNC


def _itself(address: str) -> Refused:
    return Refused(
        "mirror-is-itself", f"This node itself answers at {address}.", "Name the address of another node."
    )
