"""``revolume wait``: a script that starts a volume and its mirror need not guess when they are there."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

from tests.cli.test_whose import SMALL, serving, verb
from tests.support.servers import REVOLUME, revolume_only

pytestmark = revolume_only


def test_what_was_started_is_waited_for(folder: Path) -> None:
    """The waiter begins before there is anything, and ends when answers wait for the mirror."""
    primary, mirror, link = folder / "vol", folder / "mirror", f"unix:{folder}/link"
    command = [str(REVOLUME), "wait", str(primary), "--mirror", "m1"]
    waiter = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with serving(primary, *SMALL, "--mirror-to", f"{link},name=m1"):
        said = verb("wait", primary, "--in-sync", "--timeout", "500ms", status=6)
        assert "error[timed-out]" in said and "m1" in said
        assert "vol is served." in verb("wait", primary)
        assert "no mirror other" in verb("wait", primary, "--mirror", "other", status=3)
        with serving(mirror, "--mirror-listen", link, "--nbd", f"unix:{folder}/nbd"):
            assert waiter.communicate(timeout=60)[0] == "vol is in sync with m1.\n"
            assert waiter.returncode == 0
            (m1,) = json.loads(verb("status", primary, "--json"))["mirrors"]
            assert m1["required"] and m1["state"] == "in sync"
            verb("wait", mirror, "--in-sync")
            status = json.loads(verb("status", mirror, "--json"))
            assert status["nbd"] == [f"nbd+unix:///vol?socket={folder}/nbd"], "named by its source"
            assert f"nbd+unix:///vol?socket={folder}/nbd" in verb("status", mirror)
            verb("detach", primary, "m1")


def test_a_process_that_hangs_is_waited_for_no_longer_than_asked(folder: Path) -> None:
    """Stopped by a signal it still accepts, and answers nobody."""
    command = [str(REVOLUME), "serve", str(folder / "vol"), *SMALL]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None and server.stdout.readline().startswith("ready ")
        server.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        said = verb("wait", folder / "vol", "--timeout", "1s", status=6)
        assert "error[timed-out]" in said and "did not answer" in said
        assert time.monotonic() - began < 20.0
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        assert server.wait(60) == 0


def test_a_process_that_is_stopped_is_named(folder: Path) -> None:
    """status was silent for a minute, promote for an hour."""
    command = [str(REVOLUME), "serve", str(folder / "mirror"), "--mirror-listen", f"unix:{folder}/link"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        verb("wait", folder / "mirror")
        server.send_signal(signal.SIGSTOP)
        asked = [("status",), ("promote",), ("status", "--json")]
        began = time.monotonic()
        verbs = [
            subprocess.Popen([str(REVOLUME), words[0], str(folder / "mirror"), *words[1:]], stderr=subprocess.PIPE)
            for words in asked
        ]
        for process in verbs:
            said = process.communicate(timeout=60)[1].decode()
            assert process.returncode == 6 and "process-stopped" in said
            assert f"PID {server.pid}" in said and f"kill -CONT {server.pid}" in said
        assert time.monotonic() - began < 20.0
    finally:
        server.send_signal(signal.SIGCONT)
        server.terminate()
        assert server.wait(60) == 0


def test_the_version_is_an_option_too() -> None:
    assert verb("--version") == verb("version")
