"""A stopped volume, asked and changed by a verb: the answers are those of the control socket."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from revolume.api.clone_schemas import CloneOrder
from revolume.api.control import AdminApi, ReadApi
from revolume.api.keep_schemas import KeepOrder
from revolume.api.proof_schemas import proof_schema
from revolume.history.offline_volume import open_offline
from revolume.host import real_host
from revolume.node.mirror_schemas import stopped_mirroring
from revolume.volume.metadata.proof_file import Proof, read_proofs


def offline_read_client(directory: str) -> OfflineReadClient:
    """The volume in ``directory`` as it is now, read once. Nothing in it is changed."""
    host = real_host()
    volume = open_offline(host, directory)
    with closing(host.disk.open(directory)) as opened:
        proofs = read_proofs(opened)
    return OfflineReadClient(
        proofs,
        ReadApi(volume, volume.resolve, lambda: stopped_mirroring(directory, volume.state, volume.oldest.write)),
    )


@contextmanager
def offline_admin_client(directory: str) -> Iterator[OfflineAdminClient]:
    """The volume in ``directory``, opened as its primary for the time of the context."""
    from revolume.cli.local_service import local_service
    from revolume.cli.open_session import own_service

    with asyncio.Runner() as runner:
        serving = local_service(own_service(directory))
        service = runner.run(serving.__aenter__())
        try:
            yield OfflineAdminClient(service.control, runner)
        finally:
            runner.run(serving.__aexit__(None, None, None))


class OfflineReadClient:
    """The read-only control calls on a stopped volume."""

    def __init__(self, proofs: Sequence[Proof], look: ReadApi) -> None:
        self._proofs = proofs
        self._look = look

    def proofs(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(proof_schema(each)) for each in self._proofs]

    def status(self) -> dict[str, Any]:
        return self._look.status()

    def points(self, at: str | None = None) -> dict[str, Any]:
        return dataclasses.asdict(self._look.points(at))

    def snapshots(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(snapshot) for snapshot in self._look.snapshots()]

    def kept(self) -> dict[str, Any]:
        return dataclasses.asdict(self._look.kept())


class OfflineAdminClient(OfflineReadClient):
    """The control calls on a stopped volume that change it, besides the read-only ones."""

    def __init__(self, control: AdminApi, runner: asyncio.Runner) -> None:
        super().__init__((), control)
        self._control = control
        self._runner = runner

    def proofs(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(each) for each in self._control.proofs()]

    def keep(self, **order: Any) -> dict[str, Any]:
        return dataclasses.asdict(self._runner.run(self._control.keep(KeepOrder(**order))))

    def snapshot(self, name: str, expires_s: float = 0.0) -> dict[str, Any]:
        return dataclasses.asdict(self._runner.run(self._control.snapshot(name, expires_s)))

    def hold_snapshot(self, name: str, held: bool) -> None:
        self._runner.run(self._control.hold_snapshot(name, held))

    def drop_snapshot(self, name: str) -> None:
        self._runner.run(self._control.drop_snapshot(name))

    def make_clone(self, name: str, moment: str, at: str = "", suspect: bool = False) -> dict[str, Any]:
        order = CloneOrder(name, moment, at, suspect)
        return dataclasses.asdict(self._runner.run(self._control.make_clone(order)))

    def drop_clone(self, name: str) -> None:
        self._runner.run(self._control.drop_clone(name))

    def grow(self, size: int) -> int:
        return self._runner.run(self._control.grow(size))
