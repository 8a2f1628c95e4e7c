"""Fixtures for every test: certificates, short folders, servers as real processes on every transport."""

from __future__ import annotations

import compileall
from collections.abc import Iterator
from pathlib import Path

import pytest

import revolume
from tests.support.fork_server import forked_helper, may_fork
from tests.support.pki import make_pki
from tests.support.programs import skipped_for_the_kernel
from tests.support.servers import TRANSPORTS, Serve, Server, short_folder

MiB = 1 << 20
LONGEST = Path(__file__).parent / "data" / "longest.txt"


def pytest_configure(config: pytest.Config) -> None:
    """Processes are started by the hundred: none shall have to compile the package first, nor write what it has
    compiled (which some environments forbid) while its system calls are counted."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(revolume.__file__).parent, quiet=2)


_last_line = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What a run did not prove must not vanish among the dots."""
    config.stash[_last_line] = skipped_for_the_kernel(terminalreporter.stats.get("skipped", []))


def pytest_sessionstart(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None and not hasattr(session.config, "workerinput"):
        session.config.pluginmanager.register(Failures(terminal))


class Failures:
    """Names each test as soon as it has failed: a run that is cut short says so too."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\nFAILED in {report.when}: {report.nodeid}")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    if _last_line in config.stash:
        print(config.stash[_last_line])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first: no process is left alone with it at the end. The tests of a file stay
    together, with what they share."""
    order = {name: number for number, name in enumerate(LONGEST.read_text().splitlines())}

    def turn(item: pytest.Item) -> int:
        slow = item.get_closest_marker("slow") is not None
        return order.get(item.nodeid.partition("::")[0], len(order) + (not slow))

    items.sort(key=turn)


@pytest.fixture(scope="module", autouse=True)
def helpers_are_forked() -> Iterator[None]:
    """Those of volumes that are open in the tests' own process; ``tests/host`` has them as they are."""
    with pytest.MonkeyPatch.context() as patched:
        if may_fork({}):
            patched.setattr("revolume.host.real.work.spawned", forked_helper)
        yield


@pytest.fixture(scope="session")
def pki() -> Iterator[Path]:
    with short_folder() as folder:
        yield make_pki(folder / "pki")


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture
def serve(folder: Path, pki: Path) -> Iterator[Serve]:
    """`serve(transport=…, size=…)` starts a server; at the end each is stopped and must exit with 0."""
    started: list[Server] = []

    def start(
        transport: str = "unix", size: int = 64 * MiB, options: tuple[str, ...] = (), **more: object
    ) -> Server:
        place = Path(more.pop("folder", folder)) / f"s{len(started)}"  # type: ignore[arg-type]
        place.mkdir(mode=0o755)
        server = Server(folder=place, size=size, transport=transport, pki=pki, options=options, **more)  # type: ignore[arg-type]
        started.append(server)
        return server.start()

    yield start
    failures = []
    for server in started:
        if server.process is not None:
            gone = server.process.poll()
            status = server.stop() if gone is None else gone
            if status != 0:
                failures.append(f"{server.kind} exited with {status}\n{server.said()}")
        print(server.said())  # shown with a failing test
    assert not failures, "\n".join(failures)


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def shared(pki: Path) -> Iterator[dict[str, Server]]:
    """Servers that many tests use one after another, by transport."""
    with short_folder() as folder:
        started: dict[str, Server] = {}
        for transport in TRANSPORTS:
            (folder / transport).mkdir(mode=0o755)
            started[transport] = Server(folder=folder / transport, size=64 * MiB, transport=transport, pki=pki)
        yield started
        failures = [
            f"{transport}: {status}\n{server.said()}"
            for transport, server in started.items()
            if server.process is not None and (status := server.stop()) != 0
        ]
        assert not failures, "\n".join(failures)


@pytest.fixture
def used(shared: dict[str, Server], transport: str) -> Iterator[Server]:
    """A 64 MiB export that others have used before, on every transport in turn: what most clients meet, and what
    costs no start of a process. It must outlive each test."""
    server = shared[transport]
    if server.process is None:
        server.start()
    yield server
    print(server.said())  # shown with a failing test
    assert server.process is not None
    if server.process.poll() is not None:
        server.process = None
        pytest.fail(f"{server.kind} has ended")


@pytest.fixture
def server(serve: Serve, transport: str) -> Server:
    """A fresh, empty 64 MiB export, on every transport in turn."""
    return serve(transport)
