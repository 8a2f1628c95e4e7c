"""A service from values and seams alone: opened, served, promoted and closed on simulated machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from revolume.errors import Refused, RevolumeError
from revolume.host.network import Peer
from revolume.node.export_switch import ExportSwitch
from revolume.node.primary_role import PrimaryRole
from revolume.node.promotion import promote_stopped
from revolume.node.secondary_role import SecondaryRole
from revolume.node.service import Service
from revolume.node.service_options import ServiceOptions
from revolume.sim.actors.service import PATH, SentenceObserver, mirror_at
from revolume.sim.campaigns.call_failures.case import Found
from revolume.sim.campaigns.call_failures.run import live
from revolume.sim.kernel.machine import Machine
from revolume.sim.kernel.simulated_fs import Platter
from revolume.volume.metadata.layout import MIN_SEGMENT_BYTES
from revolume.volume.open.directory_state import stated
from revolume.volume.secondary import Secondary

Machines = dict[str, Machine]
PEER = Peer("tcp", "c:40000")
PRIMARY = ServiceOptions(
    PATH, ("a:10809",), name="vm", size=1 << 18, budget_bytes=64 * MIN_SEGMENT_BYTES, map_memory_bytes=16 << 20,
    segment_bytes=MIN_SEGMENT_BYTES, spare_bytes=2 * MIN_SEGMENT_BYTES, plaintext_allowed=True, control=False,
    mirrors=(mirror_at("b", True),),
)  # fmt: skip
MIRROR = ServiceOptions(
    PATH, (), budget_bytes=64 * MIN_SEGMENT_BYTES, map_memory_bytes=16 << 20, segment_bytes=MIN_SEGMENT_BYTES,
    spare_bytes=2 * MIN_SEGMENT_BYTES, plaintext_allowed=True, control=False, mirror_listen="b:10810",
)  # fmt: skip


def played(history: Callable[[Machines], Coroutine[Any, Any, None]]) -> None:
    """Run ``history`` on two machines with empty disks."""
    found = Found(None)
    live({name: Platter(64 << 20) for name in ("a", "b")}, history, found)
    assert found.wrong == []


async def opened(machine: Machine, options: ServiceOptions) -> Service:
    """A service on ``machine`` that clients may come to."""
    service = await machine.run(Service.open(machine.boot(), options, SentenceObserver(lambda sentence: None)))
    await machine.run(service.serve())
    return service


async def until(condition: Callable[[], bool]) -> None:
    """Poll ``condition`` every tenth of a second of virtual time; fail after a minute."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.1)


async def mirrored(machines: Machines) -> Service:
    """A mirror that is a whole copy, and whose source has been killed."""
    mirror = await opened(machines["b"], MIRROR)
    source = await opened(machines["a"], PRIMARY)
    assert isinstance(source.role, PrimaryRole)
    volume = source.role.volume
    await until(lambda: all(each.required for each in volume.mirrors))
    machines["a"].kill()
    role = mirror.role
    assert isinstance(role, SecondaryRole) and role.target is not None
    target = role.target
    await until(lambda: target.current is None)
    return mirror


def test_a_promotion_exchanges_the_role_behind_the_listeners() -> None:
    async def history(machines: Machines) -> None:
        service = await mirrored(machines)
        promoted = await machines["b"].run(service.promote(["b:10809"]))
        assert promoted.nbd == ("nbd://b:10809/vm",) == service.announced
        assert isinstance(service.role, PrimaryRole) and service.role.epoch == promoted.epoch == 2
        await machines["b"].run(service.close())

    played(history)


def test_a_mirror_whose_clean_stop_fails_in_its_promotion_is_served_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fails(self: Secondary) -> None:
        raise RevolumeError("no-stop", "The end of the log could not be recorded.", "")

    async def history(machines: Machines) -> None:
        service = await mirrored(machines)
        with monkeypatch.context() as patch:
            patch.setattr(Secondary, "_close_clean", fails)
            with pytest.raises(RevolumeError, match="could not be recorded"):
                await machines["b"].run(service.promote(["b:10809"]))
        assert isinstance(service.role, SecondaryRole) and service.role.secondary is not None
        exports = service.role.exports_now()
        assert [name for name, _ in service.exports.names()] == [name for name, _ in exports.names()]
        back = await machines["b"].run(machines["b"].host.network.connect("b:10810"))  # as its source would
        back.abort()
        await machines["b"].run(service.promote(["b:10809"]))
        assert isinstance(service.role, PrimaryRole)

    played(history)


def test_a_primary_is_not_promoted_and_a_stopped_mirror_is() -> None:
    async def history(machines: Machines) -> None:
        service, machine = await mirrored(machines), machines["b"]
        await machine.run(service.close())
        machine.stopped()
        promoted = await machine.run(promote_stopped(machine.boot(), PATH))
        assert (promoted.name, promoted.role) == ("vm", "primary")
        with pytest.raises(Refused, match="is a primary already"):
            await machine.run(promote_stopped(machine.host, PATH))
        assert stated(machine.host.disk, PATH).clean is not None

    played(history)


def test_an_address_that_is_taken_is_found_out_before_the_volume_is_touched() -> None:
    async def history(machines: Machines) -> None:
        machine = machines["a"]
        host = machine.boot()
        await machine.run(host.network.listen("a:10809", lambda wire: None))
        with pytest.raises(RevolumeError, match="in use"):
            await machine.run(Service.open(host, PRIMARY, SentenceObserver(lambda sentence: None)))
        with pytest.raises(FileNotFoundError):
            host.disk.open(PATH)

    played(history)


def test_an_export_switch_without_a_source_says_why() -> None:
    switch = ExportSwitch()
    with pytest.raises(Refused, match="is being opened"):
        asyncio.run(switch.open("vm", PEER))
    switch.withdraw(Refused("promoting", "The mirror is being promoted.", ""))
    with pytest.raises(Refused, match="being promoted"):
        switch.names()
