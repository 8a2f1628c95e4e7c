"""The verbs as a shell sees them: words, JSON, exit statuses; against a running volume and without one."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from revolume.api.app import application
from revolume.api.control import AdminApi
from revolume.api.server import ControlServer
from revolume.cli.main import main
from revolume.cli.target import Target, parse_target
from revolume.errors import UsageError
from revolume.history.moments import Ago, AtPoint
from tests.support.memory_volume import MemoryVolume

REVOLUME = [sys.executable, "-m", "revolume.cli.main"]


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)["error"]


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str) -> Ended:
        status = main(list(words))
        told = capsys.readouterr()
        return Ended(status, told.out, told.err)

    return run


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[str, MemoryVolume]]:
    """A volume's directory in which a volume answers on its control socket."""
    volume = MemoryVolume()
    started, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        server = ControlServer(str(tmp_path), application(AdminApi(volume, volume.resolve)))
        await server.start()
        started.set()
        await asyncio.to_thread(stop.wait)
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(60)
    yield str(tmp_path), volume
    stop.set()
    thread.join()


def test_status_shows_and_tells(run: Run, running: tuple[str, MemoryVolume]) -> None:
    directory, _ = running
    shown = run("status", directory)
    assert shown.status == 0
    assert "volume: vm1 in /srv/vm1" in shown.out and "size: 1.00 MiB" in shown.out
    assert run("status", directory, "--json").json["size"] == 1 << 20


def test_points_are_listed_with_their_names(run: Run, running: tuple[str, MemoryVolume]) -> None:
    directory, volume = running
    assert "no consistency point" in run("points", directory).err
    for _ in range(25):
        volume.write(10)
        asyncio.run(volume.cut())
    run("snapshot", directory, "before-upgrade")
    shown = run("points", directory)
    assert "cp25" in shown.out and "before-upgrade" in shown.out and "cp5 " not in shown.out
    assert "5 earlier" in shown.err
    assert len(run("points", directory, "--all").out.splitlines()) == 26
    assert len(run("points", directory, "--json").json["points"]) == 25


def test_a_moment_is_found(run: Run, running: tuple[str, MemoryVolume]) -> None:
    directory, volume = running
    volume.write(10)
    asyncio.run(volume.cut())
    shown = run("points", directory, "--at", "w4")
    assert shown.status == 0
    assert "vm1@w4" in shown.out and "point before: none" in shown.out and "point after: cp1" in shown.out
    assert run("points", directory, "--at", "w4", "--json").json["at"]["point_after"]["number"] == 1


def test_a_moment_that_is_not_kept_is_not_found(run: Run, running: tuple[str, MemoryVolume]) -> None:
    ended = run("points", running[0], "--at", "w99")
    assert ended.status == 3
    assert ended.err.startswith("error[not-retained]: ") and "\ntry: " in ended.err and ended.out == ""


def test_snapshots_are_made_listed_and_dropped(run: Run, running: tuple[str, MemoryVolume]) -> None:
    directory, _ = running
    assert "no snapshot" in run("snapshot", directory).err
    assert run("snapshot", directory, "a").out.startswith("vm1@a is w0 of ")
    assert run("snapshot", directory, "--json").json["snapshots"][0]["name"] == "a"
    assert run("snapshot", directory, "a").status == 4
    assert run("snapshot", directory, "a", "--drop").status == 0
    assert run("snapshot", directory, "a", "--drop").status == 3
    assert run("snapshot", directory, "w1").status == 2


def test_grow_takes_a_size_or_an_addition(run: Run, running: tuple[str, MemoryVolume]) -> None:
    directory, volume = running
    assert run("grow", directory, "2M").status == 0
    assert run("grow", directory, "+1M", "--json").json == {"size": 3 << 20}
    assert volume.size == 3 << 20
    refused = run("grow", directory, "1M", "--json")
    assert refused.status == 4
    assert refused.error["code"] == "would-shrink" and refused.error["exit_status"] == 4


def test_what_reads_a_stopped_volume_refuses_a_running_one(run: Run, running: tuple[str, MemoryVolume]) -> None:
    directory, _ = running
    assert run("check", directory, "--json").error["code"] == "volume-running"
    assert run("salvage", directory, directory + "/out").status == 4


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (["nonsense"], 2, "usage"),
        (["status"], 2, "usage"),
        (["status", "/nowhere"], 3, "no-such-volume"),
        (["points", "/nowhere", "--at", "2026-11-21T05:00:00"], 2, "time-without-zone"),
        (["snapshot", "/nowhere", "cp1"], 2, "bad-snapshot-name"),
        (["grow", "/nowhere", "10GB"], 2, "bad-size"),
        (["serve", "/tmp/a b"], 2, "bad-volume-name"),
        (["serve", "/tmp/v", "--nbd", "0.0.0.0:10809"], 4, "plaintext"),
        (["serve", "/tmp/v", "--nbd", "here"], 2, "address-syntax"),
        (["serve", "/tmp/v", "--nbd", "[::1]:1", "--nbd", "[::1]:1"], 2, "address-twice"),
        (["serve", "/tmp/v", "--cp-interval", "5"], 2, "bad-span"),
        (["serve", "/tmp/v", "--max-connections", "0"], 2, "usage"),
        (["copy", "/nowhere", "/tmp/x"], 3, "no-such-source"),
        (["copy", "/nowhere@10m", "/tmp/x"], 2, "bad-moment"),
        (["copy", "/tmp", "/tmp"], 2, "two-volumes"),
        (["copy", "/tmp", "-"], 2, "no-stream"),
        (["copy", "-", "/tmp/x"], 2, "no-stream"),
        (["bisect", "/tmp", "--", "true"], 2, "no-placeholder"),
        (["bisect", "/tmp", "--from", "x y", "--", "true", "{uri}"], 2, "bad-moment"),
        (["bisect", "/nowhere", "--", "true", "{uri}"], 3, "no-such-volume"),
    ],
)
def test_what_makes_no_sense_is_said_in_words_and_in_json(
    run: Run, words: list[str], status: int, code: str
) -> None:
    shown = run(*words)
    assert shown.status == status
    assert shown.err.startswith(f"error[{code}]: ") and shown.out == ""
    told = run(words[0], "--json", *words[1:]) if words != ["nonsense"] else run(*words, "--json")
    assert told.status == status
    assert told.error["code"] == code and told.error["cause"].endswith((".", "?"))


def test_json_after_the_double_dash_belongs_to_the_command(run: Run) -> None:
    assert run("bisect", "/nowhere", "--", "true", "{uri}", "--json").err.startswith("error[no-such-volume]: ")


def test_a_file_is_not_overwritten(run: Run, running: tuple[str, MemoryVolume], tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    assert run("copy", running[0], str(tmp_path / "there")).status == 4
    assert run("copy", running[0], "/dev/null").status == 2
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("./vm1", Target("./vm1")),
        ("vm1@cp4", Target("vm1", AtPoint(4))),
        ("/srv/vm1@-10m", Target("/srv/vm1", Ago(600))),
        ("/srv/a@b/vm1", Target("/srv/a@b/vm1")),
        ("/srv/a@b/vm1@cp4", Target("/srv/a@b/vm1", AtPoint(4))),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target


def test_a_directory_with_an_at_is_taken_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "vm@home").mkdir()
    assert parse_target(f"{tmp_path}/vm@home") == Target(f"{tmp_path}/vm@home")
    assert parse_target(f"{tmp_path}/vm@home@cp1") == Target(f"{tmp_path}/vm@home", AtPoint(1))
    with pytest.raises(UsageError):
        parse_target("@cp1")


# --- the process ---------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from revolume.cli.main import main; main(['--help']); "
        "heavy = {'numpy', 'fastapi', 'pydantic', 'uvicorn', 'httpx2', 'rich', 'structlog', 'asyncio'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"
    assert "bisect" in ended.stdout


def test_help_is_quick() -> None:
    """Counted in CPU seconds: other work on the machine is not its fault."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*REVOLUME, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.25


def test_colours_only_where_they_are_wanted() -> None:
    """On a terminal errors are red; NO_COLOR and pipes get plain text."""
    words = " ".join([*REVOLUME, "status", "/nowhere"])

    def on_terminal(**more: str) -> str:
        plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment = {**plain, "TERM": "xterm", **more}
        ended = subprocess.run(
            ["script", "-qec", words, "/dev/null"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        return ended.stdout

    assert "\x1b[31merror" in on_terminal()
    assert "\x1b" not in on_terminal(NO_COLOR="1")
    piped = subprocess.run(words.split(), capture_output=True, text=True, check=False)
    assert piped.returncode == 3 and "\x1b" not in piped.stderr


def test_an_interrupt_is_130() -> None:
    probe = (
        "import sys, time\nimport revolume.cli.verbs.version as v\n"
        "v.print_line = lambda *_: (print('here', flush=True), time.sleep(60))\n"
        "from revolume.cli.main import main; sys.exit(main(['version']))"
    )
    heard = signal.signal(signal.SIGINT, signal.SIG_DFL)  # in the background it is ignored, and inherited so
    try:
        process = subprocess.Popen([sys.executable, "-c", probe], stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, heard)
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.stdout.close()
