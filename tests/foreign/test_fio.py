"""fio's nbd engine, which verifies what it wrote: random, unaligned, several connections, with flushes.

fio's engine takes a URI but not a directory of certificates, so over TLS it runs as another user whose
home has libnbd's default one (libnbd ignores that for root).
"""

from __future__ import annotations

import os

import pytest

from tests.support.programs import need, run
from tests.support.servers import Server

pytestmark = pytest.mark.foreign


def fio(server: Server, *options: str) -> str:
    need("fio")
    command = [
        "fio",
        "--name=v",
        "--ioengine=nbd",
        f"--uri={server.uri(certificates=False)}",
        "--group_reporting",
        "--verify_state_save=0",
    ]
    env = {}
    if server.tls:
        env["HOME"] = f"{server.pki}/home"
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid", "65534", "--clear-groups", *command]
    done = run(*command, "--output-format=terse", *options, env=env, timeout=240)
    assert "error" not in done.stderr.lower(), done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("3;fio")]
    assert lines, done.stdout + done.stderr
    assert all(line.split(";")[4] == "0" for line in lines), done.stdout
    return done.stdout


VERIFY = ("--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--serialize_overlap=1")


def test_random_blocks_verify(used: Server) -> None:
    fio(used, "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=32m", "--fsync=64", *VERIFY)


def test_unaligned_sectors_verify(used: Server) -> None:
    """512-byte sectors at random: each block is put together from fragments."""
    fio(used, "--rw=randwrite", "--bs=512", "--iodepth=16", "--size=4m", "--fsync=256", *VERIFY)


def test_unaligned_ranges_verify(used: Server) -> None:
    """Sizes from 512 bytes to 64 KiB at any sector: the fringes of blocks and the blocks between them."""
    fio(used, "--rw=randwrite", "--bsrange=512-64k", "--blocksize_unaligned=1", "--norandommap=1",
        "--iodepth=8", "--size=16m", "--fsync=64", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=32",
        "--serialize_overlap=1")  # fmt: skip


def test_four_connections_verify(used: Server) -> None:
    """Four jobs are four connections; each flush covers them all."""
    fio(used, "--rw=randwrite", "--bs=4k", "--iodepth=8", "--numjobs=4", "--size=8m",
        "--offset_increment=8m", "--fsync=32", *VERIFY)  # fmt: skip


def test_mixed_with_trims(server: Server) -> None:
    fio(server, "--rw=randtrimwrite", "--bs=4k", "--iodepth=8", "--size=8m", "--fsync=64")
    fio(server, "--rw=randrw", "--bs=16k", "--iodepth=8", "--size=16m", "--verify=md5", "--verify_fatal=1")


def test_sequential_large(used: Server) -> None:
    fio(used, "--rw=write", "--bs=1m", "--iodepth=8", "--size=64m", *VERIFY)
