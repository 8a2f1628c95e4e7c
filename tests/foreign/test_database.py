"""PostgreSQL under pgbench on ext4 on a volume of three nodes: the primary is killed and a mirror promoted, the
third is resynchronised from it, the old primary comes back as a mirror, and is switched over to.

The client chain is nbdkit's retry filter behind one address that is led to whoever is the primary, as a virtual
address would be. What a committed transaction has counted must be there at the end, and pg_amcheck finds nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.foreign.test_failover import ended
from tests.foreign.test_filesystems import EXT4, ready
from tests.support.mirrors import MiB, Node, promote, revolume, until
from tests.support.mounts import export_as_file, file_as_disk, mounted
from tests.support.programs import need, run
from tests.support.servers import revolume_only
from tests.support.tally import SOAK

pytestmark = [pytest.mark.foreign, pytest.mark.kernel, pytest.mark.slow, revolume_only, pytest.mark.timeout(600)]
SIZE = 512 * MiB
OPTIONS = ("--segment-size", "8M", "--budget", "256M", "--spare", "32M", "--cp-interval", "1s")
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PHASE_S = 8


class VirtualAddress(threading.Thread):
    """A unix socket that is led to whatever NBD socket it is told; what was connected breaks when that changes."""

    def __init__(self, place: Path, to: Path) -> None:
        super().__init__(daemon=True)
        self.place, self.to = place, to
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place))
        self._listener.listen(16)
        self.start()

    def run(self) -> None:
        while True:
            taken, _ = self._listener.accept()
            there = socket.socket(socket.AF_UNIX)
            try:
                there.connect(str(self.to))
            except OSError:
                taken.close()
                continue
            self._open += [taken, there]
            for one, other in ((taken, there), (there, taken)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 18):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def lead_to(self, to: Path) -> None:
        self.to = to
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.clear()


class Nodes:
    """a, b and c; a is the primary at first, b a sync mirror, c an async one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        for name in ("b", "c"):
            self.serve(name, "--mirror-listen", self.link(name))
        self.serve("a", "--size", str(SIZE), "--name", "vol")
        revolume("mirror", "add", folder / "a", "b", self.link("b"), "--mode", "sync")
        revolume("mirror", "add", folder / "a", "c", self.link("c"), "--mode", "async")
        self.until_level("a")
        self.address = VirtualAddress(folder / "vip", folder / "a" / "nbd.sock")

    def link(self, name: str) -> str:
        return f"unix:{self.folder}/{name}.link"

    def serve(self, name: str, *words: str) -> None:
        self.nodes[name] = Node(self.folder / name, *words, *OPTIONS)

    def until_level(self, name: str) -> None:
        def level() -> bool:
            return all(m["state"] == "in sync" and m["joined"] for m in self.nodes[name].status["mirrors"])

        until(f"the mirrors of {name} are level", level)

    def close(self) -> None:
        for node in self.nodes.values():
            print(f"--- {node.directory.name}\n{node.log.read_text()[-3000:]}")
            if node.process.poll() is None:
                node.kill()


@contextlib.contextmanager
def postgres(place: Path, folder: Path) -> Iterator[dict[str, str]]:
    """A server with its data in ``place``; the environment in which its clients find it."""
    data, user = place / "data", "postgres"
    run("chown", user, place)
    as_user = ["runuser", "-u", user, "--"]
    tools = BINARIES[-1]
    socket_folder = folder / "pg"
    socket_folder.mkdir(exist_ok=True)
    run("chown", user, socket_folder)
    if not data.exists():
        run(*as_user, tools / "initdb", "-D", data, "--no-instructions", "-A", "trust")
    words = f"-k {socket_folder} -c listen_addresses= -c shared_buffers=64MB -c checkpoint_timeout=30s"
    run(*as_user, tools / "pg_ctl", "-D", data, "-w", "-l", socket_folder / "log", "-o", words, "start")
    try:
        yield {**os.environ, "PGHOST": str(socket_folder), "PGUSER": user, "PGDATABASE": "postgres"}
    finally:
        run(*as_user, tools / "pg_ctl", "-D", data, "-w", "-m", "fast", "stop", check=False)


class Commits(threading.Thread):
    """A client that inserts the next number and commits, as fast as that goes. `stalls`: seconds of each."""

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._psql = subprocess.Popen(
            [BINARIES[-1] / "psql", "-qAtX", "-v", "ON_ERROR_STOP=1"], env=env, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, bufsize=1,
        )  # fmt: skip
        self.committed = 0
        self.stalls: list[float] = []
        self.enough = threading.Event()
        self.start()

    def run(self) -> None:
        assert self._psql.stdin is not None
        assert self._psql.stdout is not None
        while not self.enough.is_set():
            began = time.monotonic()
            self._psql.stdin.write(f"insert into seen values ({self.committed + 1}) returning number;\n")
            self._psql.stdin.flush()
            if self._psql.stdout.readline().strip() != str(self.committed + 1):
                return
            self.committed += 1
            self.stalls.append(time.monotonic() - began)

    def goes_on(self) -> None:
        before = self.committed
        until("the database commits", lambda: self.committed > before + 20, 60)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="takes more than a minute: part of make soak")
def test_a_database_on_three_nodes_loses_no_commit(folder: Path) -> None:
    need("nbdkit", "nbdfuse", "pgbench")
    if not BINARIES:
        pytest.skip("no PostgreSQL server here")
    ready(EXT4)
    nodes = Nodes(folder)
    sock = folder / "retry.sock"
    command = ["nbdkit", "-f", "-U", str(sock), "--filter=retry", "nbd", f"uri=nbd+unix:///vol?socket={folder}/vip",
               "retries=60", "retry-delay=1", "retry-exponential=no"]  # fmt: skip
    try:
        with (
            ended(command, sock.exists),
            export_as_file(f"nbd+unix:///?socket={sock}", folder) as file,
            file_as_disk(file) as device,
        ):
            run(*EXT4.make, device)
            with mounted(device, folder) as place, postgres(place, folder) as env:
                tools = BINARIES[-1]
                run("env", f"PGHOST={env['PGHOST']}", "PGUSER=postgres", "PGDATABASE=postgres",
                    tools / "psql", "-qc", "create table seen (number bigint primary key)")  # fmt: skip
                subprocess.run([tools / "pgbench", "-iq", "-s", "3"], env=env, check=True, capture_output=True)
                busy = [tools / "pgbench", "-c", "4", "-T", "600"]
                load = subprocess.Popen(busy, env=env, stdout=subprocess.DEVNULL)
                commits = Commits(env)
                commits.goes_on()
                time.sleep(PHASE_S)
                nodes.nodes["a"].kill()
                promote(folder / "b", "--yes")
                nodes.address.lead_to(folder / "b" / "nbd.sock")
                commits.goes_on()
                until("c follows b", lambda: all(m["joined"] for m in nodes.nodes["b"].status["mirrors"]))
                time.sleep(PHASE_S)
                revolume("demote", folder / "a", "--mirror-listen", nodes.link("a"))
                nodes.serve("a", "--mirror-listen", nodes.link("a"))
                revolume("mirror", "add", folder / "b", "a", nodes.link("a"), "--mode", "sync")
                nodes.until_level("b")
                commits.goes_on()
                revolume("switchover", folder / "b", "--to", "a")
                nodes.address.lead_to(folder / "a" / "nbd.sock")
                commits.goes_on()
                time.sleep(PHASE_S)
                commits.enough.set()
                commits.join(60)
                assert not commits.is_alive()
                load.terminate()
                load.wait(60)
                done = subprocess.run([tools / "psql", "-Atc", "select count(*), max(number) from seen"], env=env,
                                      check=True, capture_output=True, text=True)  # fmt: skip
                print(
                    f"{commits.committed} commits, the worst {max(commits.stalls):.2f} s, the median "
                    f"{sorted(commits.stalls)[len(commits.stalls) // 2] * 1000:.1f} ms"
                )
                assert done.stdout.strip() in {f"{n}|{n}" for n in (commits.committed, commits.committed + 1)}
                subprocess.run([tools / "pg_amcheck", "-a", "--install-missing"], env=env, check=True)
            run("e2fsck", "-fn", device)
        for name in ("a", "b", "c"):
            nodes.nodes[name].stop()
            revolume("check", folder / name)
    finally:
        nodes.close()
        shutil.rmtree(folder / "pg", ignore_errors=True)
