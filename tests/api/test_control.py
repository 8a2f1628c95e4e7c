"""The control socket, over the real socket: the verbs' client against the HTTP face."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from revolume.api.app import application
from revolume.api.client import ControlClient, connect
from revolume.api.control import AdminApi
from revolume.api.problems import error_from, problem
from revolume.api.server import ControlServer
from revolume.errors import Damaged, NoSpace, NotFound, Poisoned, Refused, RevolumeError, UsageError
from tests.support.memory_volume import MemoryVolume

Asked = Callable[[ControlClient], Any]


def ask(directory: Path, volume: MemoryVolume, question: Asked) -> Any:
    """Serve ``volume``, put the question as a verb does, from another thread; the answer."""

    def in_thread() -> Any:
        client = connect(str(directory))
        assert client is not None
        with client:
            return question(client)

    async def run() -> Any:
        control = AdminApi(volume, volume.resolve, lambda: {"nbd": ["nbd://127.0.0.1:10809/vm1"]})
        server = ControlServer(str(directory), application(control))
        await server.start()
        try:
            return await asyncio.to_thread(in_thread)
        finally:
            await server.stop()

    return asyncio.run(run())


def test_status_has_the_volume_and_what_serves_it(tmp_path: Path) -> None:
    answer = ask(tmp_path, MemoryVolume(), lambda client: client.status())
    assert (answer["name"], answer["size"], answer["write"]) == ("vm1", 1 << 20, 0)
    assert answer["nbd"] == ["nbd://127.0.0.1:10809/vm1"]


def test_a_point_is_cut_and_listed(tmp_path: Path) -> None:
    volume = MemoryVolume()
    volume.write(7)

    def question(client: ControlClient) -> tuple[Any, Any]:
        return client.cut(), client.points()

    point, listed = ask(tmp_path, volume, question)
    assert point == listed["points"][0]
    assert point["write"] == 7
    assert point["export"] == "vm1@cp1"
    assert point["time"].endswith("Z")
    assert point["root"] == f"{1:016x}{2**64 - 1:016x}"


def test_a_moment_is_resolved_between_its_points(tmp_path: Path) -> None:
    volume = MemoryVolume()
    for _ in range(3):
        volume.write(10)
        asyncio.run(volume.cut())
    at = ask(tmp_path, volume, lambda client: client.points("w15"))["at"]
    assert (at["write"], at["export"]) == (15, "vm1@w15")
    assert (at["point_before"]["number"], at["point_after"]["number"]) == (1, 2)


def test_snapshots_are_made_listed_and_dropped(tmp_path: Path) -> None:
    def question(client: ControlClient) -> list[Any]:
        made = client.snapshot("before")
        listed = client.snapshots()
        client.drop_snapshot("before")
        return [[made], listed, client.snapshots()]

    made, listed, left = ask(tmp_path, MemoryVolume(), question)
    assert made == listed and made[0]["export"] == "vm1@before"
    assert left == []


def test_grow(tmp_path: Path) -> None:
    assert ask(tmp_path, MemoryVolume(), lambda client: client.grow(1 << 21)) == 1 << 21


@pytest.mark.parametrize(
    ("question", "kind", "code"),
    [
        (lambda client: client.points("w99"), NotFound, "not-retained"),
        (lambda client: client.points("2026-11-21T05:00:00"), UsageError, "time-without-zone"),
        (lambda client: client.points("x" * 5000), UsageError, "bad-request"),
        (lambda client: client.snapshot("cp1"), UsageError, "bad-snapshot-name"),
        (lambda client: client.drop_snapshot("none"), NotFound, "no-such-snapshot"),
        (lambda client: client.drop_snapshot("../none"), NotFound, "no-such-path"),
        (lambda client: client.grow(1), Refused, "would-shrink"),
        (lambda client: client.grow(-1), UsageError, "bad-request"),
        (lambda client: client._ask("GET", "/nowhere"), NotFound, "no-such-path"),
        (lambda client: client._ask("PUT", "/v1/grow"), UsageError, "bad-request"),
    ],
)
def test_errors_arrive_as_they_were_raised(
    tmp_path: Path, question: Asked, kind: type[RevolumeError], code: str
) -> None:
    with pytest.raises(kind) as raised:
        ask(tmp_path, MemoryVolume(), question)
    assert raised.value.code == code


@pytest.mark.parametrize("kind", [RevolumeError, UsageError, NotFound, Refused, NoSpace, Poisoned, Damaged])
def test_every_error_survives_the_wire(kind: type[RevolumeError]) -> None:
    error = kind("some-code", "It went wrong.", "Do this.")
    _, body = problem(error)
    back = error_from(body)
    assert type(back) is kind
    assert (back.code, back.cause, back.hint) == (error.code, error.cause, error.hint)
    assert back.exit_status == error.exit_status


def test_the_socket_belongs_to_its_user_and_goes_with_the_server(tmp_path: Path) -> None:
    def mode(_: ControlClient) -> int:
        return stat.S_IMODE(os.stat(tmp_path / "control.sock").st_mode)

    assert ask(tmp_path, MemoryVolume(), mode) == 0o600
    assert not (tmp_path / "control.sock").exists()


def test_a_deep_directory_is_reached(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["a-directory-with-a-long-name"] * 6)
    deep.mkdir(parents=True)
    assert ask(deep, MemoryVolume(), lambda client: client.status())["name"] == "vm1"


def test_a_socket_left_behind_is_replaced_and_is_not_a_running_volume(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "control.sock"))
    left.close()
    assert connect(str(tmp_path)) is None
    assert ask(tmp_path, MemoryVolume(), lambda client: client.status())["name"] == "vm1"


def test_no_directory_is_no_running_volume(tmp_path: Path) -> None:
    assert connect(str(tmp_path / "none")) is None
    assert connect(str(tmp_path)) is None
