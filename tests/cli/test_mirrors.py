"""Mirrors as an operator has them: processes, verbs, status, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from revolume.cli.main import main
from revolume.errors import RevolumeError
from revolume.host import real_host
from revolume.nbd.client import Client
from revolume.volume.metadata.manifest_state import Epoch, Horizon
from revolume.volume.open.create import Birth
from revolume.volume.open.open import open_secondary
from revolume.volume.open.options import OpenOptions
from tests.support.mirrors import SMALL, MiB, Node, client, promote, read, refused, revolume, told, until, write

SIZE = 8 * MiB
PRIMARY = ("--size", str(SIZE), "--cp-interval", "200ms", *SMALL)
Serve = Callable[..., Node]
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def serving(folder: Path) -> Iterator[Serve]:
    """``serving(NAME, *words)``; what still runs at the end is killed."""
    nodes: list[Node] = []

    def start(name: str, *words: str | Path) -> Node:
        nodes.append(Node(folder / name, *words))
        return nodes[-1]

    yield start
    for node in nodes:
        print(f"--- {node.directory.name}\n{node.log.read_text()}")  # shown with a failing test
        node.thaw() if node.process.poll() is None else None
        node.kill()


@pytest.fixture
def mirror(serving: Serve, folder: Path) -> Node:
    """A mirror that no source has connected to."""
    return serving("m", "--mirror-listen", f"unix:{folder}/link", *SMALL)


def primary(serving: Serve, folder: Path, *more: str, name: str = "p") -> Node:
    return serving(name, *PRIMARY, "--mirror-to", f"unix:{folder}/link,name=m", *more)


def opened(uri: str) -> str:
    """Why an export can't be opened."""

    async def nothing(_: Client) -> None:
        return None

    with pytest.raises(RevolumeError) as caught:
        client(uri, nothing)
    return str(caught.value)


# --- a mirror's life -------------------------------------------------------------------------------------


def test_it_is_brought_up_under_load_and_shows_the_same_moments(
    serving: Serve, folder: Path, mirror: Node
) -> None:
    assert "No source has connected yet" in opened(mirror.uri())
    assert mirror.status["state"] == "empty"
    assert "no source" in revolume("status", mirror.directory).stdout.lower()
    alone = serving("p", *PRIMARY)
    write(alone.uri(), *((at * MiB, os.urandom(MiB)) for at in range(8)))
    alone.stop()

    source = primary(serving, folder)
    writing = threading.Event()

    def load() -> None:
        while not writing.is_set():
            write(source.uri(), *((os.urandom(1)[0] * 4096, os.urandom(3000)) for _ in range(50)))

    thread = threading.Thread(target=load)
    thread.start()
    source.until_joined()
    writing.set()
    thread.join()
    revolume("snapshot", source.directory, "one")
    before = read(source.uri())
    write(source.uri(), (0, b"later" * 1000))
    source.until_agreed()

    assert read(mirror.uri("p@one")) == before == read(source.uri("p@one"))
    assert read(mirror.uri()) == read(source.uri()) != before
    assert [p["root"] for p in told("points", mirror.directory)["points"]][-1] == (
        told("points", source.directory)["points"][-1]["root"]
    )
    revolume("copy", f"{mirror.directory}@one", folder / "one.img")
    assert (folder / "one.img").read_bytes() == before

    async def scribble(view: Client) -> bytes:
        await view.write(0, b"mine" * 1024)
        return bytes(await view.read(0, 4096))

    assert client(mirror.uri("p@now,rw"), scribble) == b"mine" * 1024
    assert read(mirror.uri()) == read(source.uri()), "a writable view is thrown away"

    async def try_to_write(view: Client) -> None:
        assert view.read_only
        with pytest.raises(RevolumeError):
            await view.write(0, b"x" * 4096)

    client(mirror.uri(), try_to_write)
    state = source.mirror
    assert (state["state"], state["mode"], state["required"]) == ("in sync", "sync", True)
    assert state["base_bytes"] > 0 and state["log_bytes"] > state["client_bytes"] > 0 < state["saved_bytes"]
    assert mirror.status["source"]["connected"] and mirror.status["source"]["promotable"]
    for shown in (revolume("status", source.directory).stdout, revolume("status", mirror.directory).stdout):
        assert "agreed on cp" in shown
    for verb in (("snapshot", mirror.directory, "no"), ("grow", mirror.directory, "1G")):
        assert refused(*verb)["code"] == "is-mirror"


def test_the_plain_name_is_fixed_while_it_is_held(serving: Serve, folder: Path, mirror: Node) -> None:
    source = primary(serving, folder)
    source.until_joined()
    write(source.uri(), (0, b"1" * 4096))
    source.until_agreed()

    async def job(view: Client) -> None:
        write_later = asyncio.to_thread(write, source.uri(), (0, b"2" * 4096))
        await write_later
        await asyncio.to_thread(source.until_agreed)
        assert bytes(await view.read(0, 4096)) == b"1" * 4096
        host = real_host()
        again = await Client.connect(host, mirror.uri())
        assert bytes(await again.read(0, 4096)) == b"1" * 4096, "the same peer, the same name: the same moment"
        await again.close()
        await host.work.close()

    client(mirror.uri(), job)
    assert read(mirror.uri())[:4096] == b"2" * 4096, "said goodbye, the next opening is of a newer point"


def test_a_mirror_becomes_the_primary_behind_its_listeners(serving: Serve, folder: Path, mirror: Node) -> None:
    source = primary(serving, folder)
    source.until_joined()
    write(source.uri(), *((at * 4096, bytes([at]) * 4096) for at in range(200)), (5, b"a part"))
    error = refused("promote", mirror.directory)
    assert error["code"] == "source-alive" and "p, opening 1" in error["cause"]

    async def job(view: Client) -> None:
        before = await asyncio.to_thread(read, source.uri())
        source.kill()
        promoted = await asyncio.to_thread(promote, mirror.directory, "--json")
        assert json.loads(promoted.stdout)["epoch"] == 2
        with pytest.raises((RevolumeError, OSError)):
            await view.read(0, 4096)
        assert await asyncio.to_thread(read, mirror.uri()) == before, "every answered write is here"

    client(mirror.uri(), job)
    write(mirror.uri(), (0, b"primary" * 1000))
    assert mirror.status["role"] == "primary"
    assert refused("promote", mirror.directory)["code"] == "is-primary"
    assert read(mirror.uri("p@now"))[:7] == b"primary"
    mirror.stop()
    revolume("check", mirror.directory)
    assert "is-primary" in refused_serve(mirror.directory, "--mirror-listen", f"unix:{folder}/link")
    again = serving("m", *SMALL)
    assert read(again.uri())[:7] == b"primary"


def refused_serve(directory: Path, *words: str, status: int = 4) -> str:
    return revolume("serve", directory, *words, "--json", status=status).stderr


def test_a_stopped_mirror_is_promoted_in_its_directory(serving: Serve, folder: Path, mirror: Node) -> None:
    source = primary(serving, folder)
    source.until_joined()
    write(source.uri(), (4096, b"kept" * 1024))
    source.stop()
    mirror.stop()
    looked = told("status", mirror.directory)
    assert (looked["role"], looked["source"]["promotable"]) == ("secondary", True)
    assert "is-mirror" in refused_serve(mirror.directory, "--size", "16M")
    assert refused("snapshot", mirror.directory, "no")["code"] == "is-mirror"
    assert told("promote", mirror.directory)["role"] == "primary"
    assert refused("promote", mirror.directory)["code"] == "is-primary"
    again = serving("m", *SMALL)
    assert read(again.uri())[4096:8192] == b"kept" * 1024


def test_an_unfinished_base_is_neither_shown_nor_promoted_nor_good(serving: Serve, folder: Path) -> None:
    async def begin() -> None:
        host = real_host()
        born = Birth(
            b"v" * 16,
            "vm",
            b"m" * 16,
            Horizon(point=3, write=9, position=7, size=SIZE, time_ns=1),
            (Epoch(1, b"r" * 16, 0, 0),),
        )
        options = OpenOptions(segment_bytes=MiB, budget_bytes=64 * MiB, spare_bytes=4 * MiB)
        await (await open_secondary(host, str(folder / "m"), options, born)).close()
        await host.work.close()

    asyncio.run(begin())
    assert not told("status", folder / "m")["source"]["promotable"]
    assert refused("promote", folder / "m")["code"] == "not-promotable"
    assert "0 % of it is here" in revolume("check", folder / "m", status=5).stdout
    checked = json.loads(revolume("check", folder / "m", "--json", status=5).stdout)
    assert not checked["good"] and checked["report"]["problems"] == [] and checked["report"]["incomplete"]
    assert "0 % of it is here" in revolume("salvage", folder / "m", folder / "out", status=5).stderr
    node = serving("m", "--mirror-listen", f"unix:{folder}/link", *SMALL)
    for name in ("", "vm", "vm@now", "vm@cp3"):
        assert "0 % of it is here" in opened(node.uri(name))
    error = refused("promote", node.directory)
    assert error["code"] == "not-promotable" and "0 % of it is here" in error["cause"]
    assert node.status["source"]["base"] == {"point": 3, "next_block": 0, "blocks": SIZE // 4096}


# --- giving one up, losing one ---------------------------------------------------------------------------


def test_replies_wait_for_a_lost_mirror_until_it_is_given_up(serving: Serve, folder: Path, mirror: Node) -> None:
    source = primary(serving, folder)
    source.until_joined()
    mirror.kill()
    answered = threading.Event()

    def one_write() -> None:
        write(source.uri(), (0, b"x" * 4096))
        answered.set()

    thread = threading.Thread(target=one_write)
    thread.start()
    waits = until("status says what replies wait for", lambda: source.mirror["waits"])
    assert waits.startswith("Replies wait for mirror m, lost for")
    assert "Replies wait for mirror m" in revolume("status", source.directory).stdout
    assert not answered.is_set()
    assert refused("detach", source.directory, "other", status=3)["code"] == "no-mirror"
    assert told("detach", source.directory, "m") == {"detached": "m"}
    thread.join(30)
    assert answered.is_set()
    assert source.status["mirrors"] == []
    source.stop()
    serving("p", *SMALL).stop()


def test_a_required_mirror_is_not_left_out_and_is_given_up_in_the_directory(
    serving: Serve, folder: Path, mirror: Node
) -> None:
    source = primary(serving, folder)
    source.until_joined()
    source.stop()
    assert "mirror-missing" in revolume("snapshot", source.directory, "s", "--json", status=4).stderr
    assert "mirror-required" in refused_serve(
        source.directory, "--mirror-to", f"unix:{folder}/link,name=m,mode=async"
    )
    assert [m["name"] for m in told("status", source.directory)["mirrors"]] == ["m"]
    revolume("detach", source.directory, "m")
    assert refused("detach", source.directory, "m", status=3)["code"] == "no-mirror"
    serving("p", *SMALL).stop()
    revolume("check", source.directory)


def test_what_a_power_cut_took_comes_back_from_the_mirror(serving: Serve, folder: Path, mirror: Node) -> None:
    source = primary(serving, folder)
    source.until_joined()
    write(source.uri(), (0, b"before" * 700))
    source.freeze()
    shutil.copytree(source.directory, folder / "disk", ignore=shutil.ignore_patterns("*.sock"))
    source.thaw()
    write(source.uri(), (MiB, b"answered" * 512), (2 * MiB, b"too" * 1000))
    whole = read(source.uri())
    source.kill()
    shutil.rmtree(source.directory)
    shutil.copytree(folder / "disk", source.directory)

    mirror.kill()
    assert "mirror-not-asked" in refused_serve(source.directory, "--mirror-to", f"unix:{folder}/link,name=m")
    mirror = serving("m", "--mirror-listen", f"unix:{folder}/link", *SMALL)
    again = primary(serving, folder)
    again.until_logged("were fetched from it")
    assert read(again.uri()) == whole
    write(again.uri(), (3 * MiB, b"on"))
    again.until_agreed()
    again.kill()

    shutil.rmtree(source.directory)
    shutil.copytree(folder / "disk", source.directory)
    assert "another-primary" in refused_serve(  # the mirror answers, and knows what was answered since
        source.directory, "--mirror-to", f"unix:{folder}/link,name=m", "--alone"
    )
    mirror.kill()
    alone = primary(serving, folder, "--alone")
    alone.until_logged("Opened alone, without asking m")
    assert read(alone.uri())[MiB : MiB + 8] == bytes(8), "what was refused has taken nothing from the mirror"


# --- who is not let in -----------------------------------------------------------------------------------


def test_another_volume_a_second_source_and_noise_change_nothing(
    serving: Serve, folder: Path, mirror: Node
) -> None:
    source = primary(serving, folder)
    source.until_joined()
    write(source.uri(), (0, b"right" * 800))
    source.until_agreed()
    other = primary(serving, folder, name="q")
    reason = until("the other is refused", lambda: other.mirror["state"] == "refused" and other.mirror["reason"])
    assert "another source" in reason
    for noise in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\xff" * 16, b""):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(folder / "link"))
            wire.sendall(noise)
    assert source.mirror["state"] == "in sync"
    source.kill()
    reason = until("it is another volume", lambda: "another volume" in other.mirror["reason"] and other.mirror)
    assert reason["state"] == "refused" and not reason["joined"]
    assert read(mirror.uri())[:5] == b"right"
    other.stop()


def test_a_mirror_that_is_not_there_is_tried_again(serving: Serve, folder: Path) -> None:
    source = primary(serving, folder)
    write(source.uri(), (0, b"x" * 4096))  # nothing waits for a mirror that has not joined
    state = until("it says so", lambda: "cannot be reached" in source.mirror["reason"] and source.mirror)
    assert state["state"] == "connecting" and state["lost_seconds"] > 0
    late = serving("m", "--mirror-listen", f"unix:{folder}/link", *SMALL)
    source.until_joined()
    source.until_agreed()
    assert read(late.uri()) == read(source.uri())


def test_off_the_machine_links_are_encrypted_both_ways(serving: Serve, folder: Path, pki: Path) -> None:
    there = serving("m", "--mirror-listen", "localhost:0", "--tls-dir", pki, *SMALL)
    port = there.link.rpartition(":")[2]
    source = serving("p", *PRIMARY, "--mirror-to", f"localhost:{port},name=m", "--tls-dir", pki)
    write(source.uri(), (0, b"secret" * 700))
    source.until_joined()
    source.until_agreed()
    assert read(there.uri())[:6] == b"secret"
    plain = serving("q", *PRIMARY, "--mirror-to", f"localhost:{port},name=m")
    until("a plain source is not let in", lambda: plain.mirror["reason"] and not plain.mirror["joined"])


# --- the command line ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("--mirror-to", "unix:/x,mode=slow"), 2, "mirror-mode"),
        (("--mirror-to", "unix:/x", "--mode", "semi"), 2, "mirror-mode"),
        (("--mirror-to", "unix:/x,colour=red"), 2, "mirror-syntax"),
        (("--mirror-to", "unix:/x,mode=sync,mode=async"), 2, "mirror-syntax"),
        (("--mirror-to", "unix:/x,name="), 2, "mirror-name"),
        (("--mirror-to", "unix:/x,name=" + "n" * 256), 2, "mirror-name"),
        (("--mirror-to", ""), 2, "address-syntax"),
        (("--mirror-to", "127.0.0.1:99999"), 2, "address-syntax"),
        (("--mirror-to", "unix:/x,name=a", "--mirror-to", "unix:/y,name=a"), 2, "mirror-twice"),
        (("--mirror-to", "127.0.0.1", "--mirror-to", "127.0.0.1:10810,name=a"), 2, "mirror-twice"),
        (("--mirror-to", "192.0.2.1"), 4, "mirror-plaintext"),
        (("--mirror-to", "192.0.2.1", "--allow-plaintext"), 4, "mirror-plaintext"),
        (("--mirror-listen", "192.0.2.1:1"), 4, "mirror-plaintext"),
        (("--mirror-to", "unix:/x", "--on-lost", "go-on"), 2, "on-lost"),
        (("--mirror-to", "unix:/x,on-lost=detach", "--deadline", "1ms"), 2, "deadline"),
        (("--mirror-listen", "unix:/x", "--size", "1G"), 2, "mirror-option"),
        (("--mirror-listen", "unix:/x", "--name", "v"), 2, "mirror-option"),
        (("--mirror-listen", "unix:/x", "--alone"), 2, "mirror-option"),
        (("--mirror-to", "unix:/x", "--mirror-listen", "192.0.2.1"), 4, "mirror-plaintext"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_touched(
    words: tuple[str, ...], status: int, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", str(tmp_path / "v"), *words, "--json"]) == status
    assert f'"{code}"' in capsys.readouterr().err
    assert not (tmp_path / "v").exists()


def test_a_mirror_begins_in_an_empty_directory_only(folder: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.jpg").write_bytes(b"cat")
    assert "dir-not-empty" in refused_serve(folder / "photos", "--mirror-listen", f"unix:{folder}/link")
    assert refused("promote", folder / "photos", status=3)["code"] == "not-a-volume"
    assert refused("promote", folder / "nowhere", status=3)["code"] == "no-such-volume"
    assert refused("detach", folder / "photos", "m", status=3)["code"] == "not-a-volume"
