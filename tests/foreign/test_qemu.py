"""qemu's block tools against a real server process."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.support.programs import need, run
from tests.support.servers import KIND, Server

pytestmark = pytest.mark.foreign
MiB = 1 << 20


@pytest.fixture
def image(folder: Path) -> Path:
    made = folder / "image"
    chance = random.Random(11)
    with made.open("wb") as file:
        file.truncate(64 * MiB)
        for at in (0, 9 * MiB + 1, 33 * MiB):
            file.seek(at)
            file.write(chance.randbytes(2 * MiB + 513))
    return made


def test_convert_and_compare(used: Server, image: Path) -> None:
    need("qemu-img")
    target = ["--target-image-opts", used.qemu()[-1]]
    credentials = used.qemu()[:-2]
    run("qemu-img", "convert", "-n", *credentials, "-f", "raw", image, *target)
    source = ["--image-opts", f"driver=file,filename={image}"]
    said = run("qemu-img", "compare", *credentials, *source, used.qemu()[-1])
    assert "Images are identical." in said.stdout


def test_compare_sees_one_changed_byte(used: Server, image: Path) -> None:
    need("qemu-img", "qemu-io")
    target = ["--target-image-opts", used.qemu()[-1]]
    credentials = used.qemu()[:-2]
    run("qemu-img", "convert", "-n", *credentials, "-f", "raw", image, *target)
    run("qemu-io", *used.qemu(), "-c", "write -P 0x77 33554432 1", "-c", "flush")
    source = ["--image-opts", f"driver=file,filename={image}"]
    said = run("qemu-img", "compare", *credentials, *source, used.qemu()[-1], ok=(1,))
    assert "Content mismatch at offset 33554432" in said.stdout


def test_map_tells_data_from_holes(server: Server) -> None:
    need("qemu-img", "qemu-io")
    run("qemu-io", *server.qemu(), "-c", "write -P 0x11 1M 64k", "-c", "write -P 0x22 8M 128k", "-c", "flush")
    extents = json.loads(run("qemu-img", "map", "--output=json", *server.qemu()).stdout)
    assert sum(extent["length"] for extent in extents) == 64 * MiB
    data = [(extent["start"], extent["length"]) for extent in extents if not extent["zero"]]
    if KIND == "nbdkit":  # its memory plugin keeps pages of 32 KiB
        assert {start for start, _ in data} == {1 * MiB, 8 * MiB}
    else:
        assert data == [(1 * MiB, 64 << 10), (8 * MiB, 128 << 10)]


def test_bench(used: Server) -> None:
    need("qemu-img")
    if used.tls:
        pytest.skip("qemu-img bench takes no TLS credentials")
    run(
        "qemu-img",
        "bench",
        "-w",
        "-c",
        "2000",
        "-d",
        "16",
        "-s",
        "4096",
        "--flush-interval=64",
        *used.qemu(),
    )
    run("qemu-img", "bench", "-c", "2000", "-d", "16", "-s", "4096", *used.qemu())


def test_io_patterns(used: Server) -> None:
    need("qemu-io")
    commands = [
        "write -P 0xa5 1M 64k",
        "write -f -P 0x5a 2M 64k",
        "read -P 0xa5 1M 64k",
        "read -P 0x5a 2M 64k",
        "write -z -u 3M 1M",
        "read -P 0 3M 1M",
        "write -P 0x33 1000001 77",
        "read -P 0x33 1000001 77",
        "write -z 1M 4k",
        "read -P 0 1M 4k",
        "read -P 0xa5 1052672 60k",
        "discard 2M 64k",
        "read -P 0 2M 64k",
        "flush",
    ]
    arguments = [part for command in commands for part in ("-c", command)]
    said = run("qemu-io", *used.qemu(), *arguments)
    assert "verification failed" not in said.stdout, said.stdout
    assert "error" not in said.stdout + said.stderr, said.stdout + said.stderr


def test_io_wrong_pattern_is_told(used: Server) -> None:
    """The judge itself: qemu-io must notice when the bytes are not the ones expected."""
    need("qemu-io")
    said = run("qemu-io", *used.qemu(), "-c", "write -P 1 0 4k", "-c", "read -P 2 0 4k", check=False)
    assert "verification failed" in said.stdout + said.stderr
