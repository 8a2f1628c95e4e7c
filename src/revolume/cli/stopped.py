"""A stopped volume, asked and changed by a verb: the answers are those of the control socket."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from revolume.api.control import Control, Look
from revolume.cli.mirror_shapes import stopped_mirroring
from revolume.history.stopped import look
from revolume.host import real_host


def looked_at(directory: str) -> Asked:
    """One look at the volume in ``directory``. Nothing in it is changed."""
    volume = look(real_host(), directory)
    return Asked(Look(volume, volume.resolve, lambda: stopped_mirroring(volume.state)))


@contextmanager
def opened(directory: str) -> Iterator[Changed]:
    """The volume in ``directory``, opened as its primary for the time of the context."""
    from revolume.cli.door import quiet
    from revolume.cli.service import served

    with asyncio.Runner() as runner:
        serving = served(quiet(directory))
        service = runner.run(serving.__aenter__())
        try:
            yield Changed(service.control, runner)
        finally:
            runner.run(serving.__aexit__(None, None, None))


class Asked:
    """Questions."""

    def __init__(self, look: Look) -> None:
        self._look = look

    def status(self) -> dict[str, Any]:
        return self._look.status()

    def points(self, at: str | None = None) -> dict[str, Any]:
        return dataclasses.asdict(self._look.points(at))

    def snapshots(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(snapshot) for snapshot in self._look.snapshots()]


class Changed(Asked):
    """Questions and orders."""

    def __init__(self, control: Control, runner: asyncio.Runner) -> None:
        super().__init__(control)
        self._control = control
        self._runner = runner

    def snapshot(self, name: str) -> dict[str, Any]:
        return dataclasses.asdict(self._runner.run(self._control.snapshot(name)))

    def drop_snapshot(self, name: str) -> None:
        self._runner.run(self._control.drop_snapshot(name))

    def grow(self, size: int) -> int:
        return self._runner.run(self._control.grow(size))
