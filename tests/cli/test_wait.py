"""``revolume wait``: a script that starts a volume and its mirror need not guess when they are there."""

from __future__ import annotations

import json
import subprocess
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


def test_the_version_is_an_option_too() -> None:
    assert verb("--version") == verb("version")
