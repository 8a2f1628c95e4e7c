"""A volume and its mirrors go back to a retained moment: real daemons, real clients, a real file system."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from revolume.nbd.client import Client
from tests.cli.test_served_as_recorded import Nodes, in_sync
from tests.support.mirrors import SMALL, MiB, Node, client, promote, read, refused, revolume, told, until, write
from tests.support.programs import SYSTEM_PATH, need
from tests.support.suspect import plant_marks

SIZE = 24 * MiB
PRIMARY = ("--size", str(SIZE), "--cp-interval", "200ms", "--name", "p", *SMALL)
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def nodes(folder: Path) -> Iterator[Nodes]:
    made = Nodes(folder)
    yield made
    made.close()


def ran(*words: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        env={"PATH": SYSTEM_PATH},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def pair(nodes: Nodes) -> tuple[Node, Node]:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m")
    in_sync(primary, "m")
    return primary, mirror


def file_system(folder: Path) -> Path:
    """An ext4 with some files in it."""
    image, content = folder / "disk.img", folder / "content"
    with image.open("wb") as file:
        file.truncate(SIZE)
    ran("mkfs.ext4", "-q", image)
    content.write_bytes(random.Random(1).randbytes(700_000))
    for name in ("one", "two", "three"):
        ran("debugfs", "-w", "-R", f"write {content} {name}", image)
    return image


def content_of(node: Node, folder: Path, export: str = "p") -> bytes:
    there = folder / "there.img"
    there.unlink(missing_ok=True)
    ran("nbdcopy", node.uri(export), there)
    return there.read_bytes()


def clean(image: Path) -> bool:
    done = subprocess.run(["/sbin/e2fsck", "-fn", str(image)], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def test_b12_a_ruined_ext4_is_restored_to_a_second_before_and_its_mirror_too(nodes: Nodes) -> None:
    need("mkfs.ext4", "debugfs", "nbdcopy", "qemu-io")
    primary, mirror = pair(nodes)
    image = file_system(nodes.folder)
    ran("nbdcopy", "--flush", image, primary.uri())
    time.sleep(1.1)
    ruined_s = time.time()
    ran("qemu-io", "-f", "raw", "-c", "write -P 0xff 0 3M", "-c", "discard 8M 4M", "-c", "flush", primary.uri())
    ruined = content_of(primary, nodes.folder)
    assert not clean(nodes.folder / "there.img")
    before = time.monotonic()
    moment = datetime.fromtimestamp(ruined_s - 1, UTC).isoformat().replace("+00:00", "Z")
    found = told("restore", primary.directory, "--to", moment, "--yes")
    took = time.monotonic() - before
    assert found["restored"] and 3 * MiB >= found["bytes"] > 0, found
    assert content_of(primary, nodes.folder) == image.read_bytes()
    assert clean(nodes.folder / "there.img")
    primary.until_agreed()
    assert content_of(mirror, nodes.folder) == image.read_bytes()
    assert content_of(mirror, nodes.folder, f"p@{found['before']}") == ruined
    assert content_of(primary, nodes.folder, f"p@{found['before']}") == ruined
    print(f"restored {found['bytes']} bytes in {took:.2f} s")
    assert primary.status["restore"] == {"stage": "", "done": 0, "total": 0, "told": found["told"]}
    assert f"restore: {found['told']}" in revolume("status", primary.directory).stdout
    assert found["told"].endswith(f"The state before is {found['before']}, kept for 1w.")
    undone = told("restore", primary.directory, "--undo", "--yes")
    assert undone["restored"] and content_of(primary, nodes.folder) == ruined
    primary.until_agreed()
    assert content_of(mirror, nodes.folder) == ruined
    revolume("restore", primary.directory, "--undo", "--undo-for", "0", "--yes", status=2)
    # What was before the undoing was kept too.
    again = told("restore", primary.directory, "--undo", "--undo-for", "forever", "--yes")
    assert again["restored"] and content_of(primary, nodes.folder) == image.read_bytes()
    ends = [each["expires_in_s"] for each in told("snapshot", primary.directory)["snapshots"]]
    assert len(ends) == 3 and ends[2] is None and all(6 * 86400 < end < 8 * 86400 for end in ends[:2])
    for node in (primary, mirror):
        node.stop()
        revolume("check", node.directory)


def test_after_the_primarys_death_the_mirror_has_what_was_restored(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    good, bad = random.Random(2).randbytes(3 * MiB), random.Random(3).randbytes(5 * MiB)
    write(primary.uri(), (MiB, good))
    revolume("snapshot", primary.directory, "good")
    write(primary.uri(), (0, bad))
    told("restore", primary.directory, "--to", "good", "--yes")
    primary.kill()
    promote(mirror.directory)
    assert read(mirror.uri()) == bytes(MiB) + good + bytes(SIZE - 4 * MiB)


def test_kill_9_leaves_all_of_it_or_nothing(nodes: Nodes) -> None:
    good, bad = random.Random(2).randbytes(12 * MiB), random.Random(3).randbytes(12 * MiB)
    primary = nodes.serve("p", *PRIMARY, "--budget", "128M")
    write(primary.uri(), (0, good))
    revolume("snapshot", primary.directory, "good")
    seen = set()
    for number in range(12):
        write(primary.uri(), (0, bad), (20 * MiB, bytes([number + 1]) * 4096))
        later = bad + bytes(8 * MiB) + bytes([number + 1]) * 4096 + bytes(4 * MiB - 4096)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(primary.control.restore, "good", yes=True)
            time.sleep(0.03 * number)
            primary.process.send_signal(signal.SIGKILL)
            primary.process.wait()
            asked.exception()
        primary = nodes.serve("p")
        found = read(primary.uri())
        assert found in (later, good + bytes(12 * MiB)), f"round {number}"
        seen.add(found == later)
    print(f"seen: {seen}")
    primary.stop()
    revolume("check", primary.directory)


def test_a_mirror_promoted_in_the_middle_has_what_was_before(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    good, bad = random.Random(2).randbytes(12 * MiB), random.Random(3).randbytes(12 * MiB)
    write(primary.uri(), (0, good))
    revolume("snapshot", primary.directory, "good")
    write(primary.uri(), (0, bad))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(primary.control.restore, "good", yes=True)
        until("it writes", lambda: asked.done() or primary.status["restore"]["stage"] == "writing")
        primary.kill()
        restored = asked.exception() is None
    promote(mirror.directory)
    found = read(mirror.uri())
    assert found in {good + bytes(12 * MiB)} | ({bad + bytes(12 * MiB)} if not restored else set())
    print("restored" if found[:1] == good[:1] else "as before")
    promoted = nodes.nodes[0]
    told("restore", promoted.directory, "--to", "good", "--yes")
    assert read(promoted.uri()) == good + bytes(12 * MiB)
    promoted.stop()
    revolume("check", promoted.directory)


def test_clients_that_may_write_are_named_and_with_disconnect_they_are_ended(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    write(primary.uri(), (0, b"good" * 1024))
    revolume("snapshot", primary.directory, "good")
    write(primary.uri(), (0, b"evil" * 1024))

    async def story(opened: Client) -> tuple[dict[str, str], bool]:
        said = refused("restore", primary.directory, "--to", "good", "--yes")
        assert bytes(await opened.read(0, 4)) == b"evil"
        revolume("restore", primary.directory, "--to", "good", "--yes", "--disconnect")
        try:
            await opened.write(4096, b"late" * 1024)
        except Exception:
            return said, True
        return said, False

    said, ended = client(primary.uri(), story)
    assert (
        said["code"] == "clients-connected" and "1 connection of clients that may write to it: " in said["cause"]
    )
    assert ended
    assert read(primary.uri())[:8192] == b"good" * 1024 + bytes(4096)


def test_who_only_reads_the_past_is_not_disturbed(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    write(primary.uri(), (0, b"good" * 1024))
    revolume("snapshot", primary.directory, "good")
    write(primary.uri(), (0, b"evil" * 1024))

    async def story(opened: Client) -> bytes:
        revolume("restore", primary.directory, "--to", "good", "--yes", "--disconnect")
        return bytes(await opened.read(0, 4))

    assert client(primary.uri("p@good"), story) == b"good"


def test_a_dry_run_changes_nothing_and_yes_is_needed(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    write(primary.uri(), (0, b"good" * 1024), (MiB, bytes(4096)))
    revolume("snapshot", primary.directory, "good")
    write(primary.uri(), (0, b"evil" * 1024), (MiB, b"more" * 2048))
    dry = told("restore", primary.directory, "--to", "good", "--dry-run")
    assert (dry["restored"], dry["bytes"], dry["zero_bytes"], dry["before"]) == (False, 4096, 8192, "")
    assert refused("restore", primary.directory, "--to", "good")["code"] == "not-confirmed"
    assert [each["name"] for each in told("snapshot", primary.directory)["snapshots"]] == ["good"]
    assert read(primary.uri())[:4] == b"evil"


def test_a_range_alone(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    write(primary.uri(), (0, b"good" * 3072))
    revolume("snapshot", primary.directory, "good")
    write(primary.uri(), (0, b"evil" * 3072))
    revolume("restore", primary.directory, "--to", "good", "--range", "4096:8K", "--yes")
    assert read(primary.uri())[: 3 * 4096] == b"evil" * 1024 + b"good" * 1024 + b"evil" * 1024
    for bad in ("1:4096", "8192:4096", "0:1T"):
        error = refused("restore", primary.directory, "--to", "good", "--range", bad, "--yes", status=2)
        assert error["code"] == "bad-range", error
    assert refused("restore", primary.directory, "--to", "good", "--range", "7", "--yes", status=2)


def test_a_volume_that_has_grown_keeps_its_size(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    write(primary.uri(), (0, b"good" * 1024))
    revolume("snapshot", primary.directory, "good")
    revolume("grow", primary.directory, str(SIZE + MiB))
    write(primary.uri(), (SIZE, b"tail" * 1024))
    done = told("restore", primary.directory, "--to", "good", "--yes")
    assert (done["size"], done["size_then"]) == (SIZE + MiB, SIZE)
    assert f"had {SIZE} bytes then" in done["told"]
    assert read(primary.uri()) == b"good" * 1024 + bytes(SIZE + MiB - 4096)


def test_what_cant_be_restored_is_said_in_a_sentence(nodes: Nodes) -> None:
    primary, mirror = pair(nodes)
    write(primary.uri(), (0, b"good" * 1024))
    revolume("snapshot", primary.directory, "good")

    def why(*words: str, status: int) -> str:
        before = primary.status["write"]
        error = refused("restore", primary.directory, *words, "--yes", status=status)
        assert primary.status["write"] == before
        return error["code"]

    assert why("--to", "now", status=4) == "is-present"
    assert why("--to", "good", status=4) == "is-present"
    write(primary.uri(), (0, b"evil" * 1024))
    assert why("--to", "w99999999", status=3) == "moment-not-retained"
    assert why("--to", "2099-01-01T00:00:00Z", status=3) == "moment-in-future"
    assert why("--to", "nobody", status=3) == "no-snapshot"
    assert why("--to", "2026-01-01", status=2) == "bad-time"
    assert why("--to", "good,rw", status=2) == "bad-moment"
    assert why("--undo", status=3) == "nothing-to-undo"
    assert why(status=2) == "usage"
    assert why("--to", "good", "--undo", status=2) == "usage"
    assert refused("restore", mirror.directory, "--to", "good", "--yes")["code"] == "is-mirror"
    mirror.kill()
    until(
        "the mirror is missed",
        lambda: primary.mirror["state"] != "in sync" or not primary.mirror.get("connected", True),
    )
    error = refused("restore", primary.directory, "--to", "good", "--yes")
    assert error["code"] == "mirror-away" and "Mirror m" in error["cause"]
    names = [each["name"] for each in told("snapshot", primary.directory)["snapshots"]]
    assert not any(name.startswith("before-restore-") for name in names), names
    primary.kill()
    assert refused("restore", primary.directory, "--to", "good", "--yes", status=2)["code"] == "not-served"


def test_a_suspect_moment_has_to_be_called_so(nodes: Nodes) -> None:
    primary = nodes.serve("p", *PRIMARY)
    write(primary.uri(), (0, b"good" * 1024))
    named = told("snapshot", primary.directory, "doubtful")["write"]
    write(primary.uri(), (0, b"evil" * 1024))
    primary.stop()
    plant_marks(primary.directory, (0, 1, named, named + 1))
    primary = nodes.serve("p")
    error = refused("restore", primary.directory, "--to", "doubtful", "--yes")
    assert error["code"] == "suspect-moment" and "doubtful" in error["cause"]
    assert read(primary.uri())[:4] == b"evil"
    done = told("restore", primary.directory, "--to", "doubtful,suspect", "--yes")
    assert done["restored"] and "That moment is " in done["told"] and "suspect" in done["told"]
    assert read(primary.uri())[:4] == b"good"


def test_a_mirror_without_a_promise_gets_it_when_it_is_back(nodes: Nodes) -> None:
    mirror = nodes.mirror("m")
    primary = nodes.serve("p", *PRIMARY, "--mirror-to", f"{nodes.link('m')},name=m,mode=async")
    in_sync(primary, "m")
    write(primary.uri(), (0, b"good" * 1024))
    revolume("snapshot", primary.directory, "good")
    write(primary.uri(), (0, b"evil" * 3072))
    mirror.kill()
    told("restore", primary.directory, "--to", "good", "--yes")
    mirror = nodes.serve("m")
    in_sync(primary, "m")
    primary.until_agreed()
    assert read(mirror.uri()) == read(primary.uri()) == b"good" * 1024 + bytes(SIZE - 4096)
