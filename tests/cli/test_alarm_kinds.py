"""``--on-event`` for what ends a promise: a failed sync, a mirror that is refused or parts. Real processes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from revolume.errors import RevolumeError
from tests.cli.test_events import COMMAND, heard
from tests.support.mirrors import SMALL, Node, until, write
from tests.support.surgery import patched

BLOCK = 4096
pytestmark = pytest.mark.timeout(120)
FAILING_SYNC = """
    import errno, os
    sync = os.fdatasync
    def failing(descriptor):
        if os.path.exists({flag!r}):
            raise OSError(errno.EIO, "Input/output error")
        return sync(descriptor)
    os.fdatasync = failing
"""
LYING = """
    import dataclasses, os
    import revolume.mirror.source.mirror_source as source
    import revolume.volume.points.point_maker as cutter
    source.BACKOFF_SECONDS, source.REFUSED_SECONDS = (0.05,), 0.2
    compose = cutter.compose
    def lying(*given):
        composed = compose(*given)
        return dataclasses.replace(composed, digest=composed.digest ^ os.path.exists({flag!r}))
    cutter.compose = lying
"""


@pytest.fixture
def command(folder: Path) -> Path:
    made = folder / "on-event"
    made.write_text(COMMAND)
    made.chmod(0o755)
    return made


def the(kind: str, told: Path, words: str = "") -> tuple[str, str, str, dict[str, Any]]:
    """The first run of the command for an event of this kind that says these words."""

    def runs() -> list[tuple[str, str, str, dict[str, Any]]]:
        return [each for each in heard(told) if each[0] == kind and words in each[2]]

    return until(f"{kind} is heard", runs, 30)[0]


def test_a_sync_that_fails(folder: Path, command: Path) -> None:
    told, flag = folder / "told", folder / "broken"
    patch = patched(folder / "patch", FAILING_SYNC.format(flag=str(flag)))
    options = ("--size", "8M", *SMALL, "--on-event", f"{command} {told} 0")
    node = Node(folder / "v", *options, environment=patch)
    try:
        write(node.uri(), (0, b"a" * BLOCK))
        flag.touch()
        with pytest.raises((RevolumeError, OSError)):
            for _ in range(1000):
                write(node.uri(), (0, b"b" * BLOCK))
        _, volume, message, event = the("poisoned", told)
        assert (volume, event["level"]) == ("v", "error") and message == event["message"]
        assert node.status["state"] == "poisoned"
    finally:
        node.kill()


def test_a_mirror_that_parts_and_one_that_is_refused(folder: Path, command: Path) -> None:
    """The mirror's command is told that a point is not true; its source's that another copy is at the address."""
    there, here, flag = folder / "there", folder / "here", folder / "lie"
    patch = patched(folder / "patch", LYING.format(flag=str(flag)))
    listen = ("--mirror-listen", f"unix:{folder}/link", *SMALL)
    nodes = [Node(folder / "m", *listen, "--on-event", f"{command} {there} 0")]
    try:
        words = ("--size", "8M", "--cp-interval", "200ms", *SMALL, "--mirror-to", f"unix:{folder}/link,name=m")
        source = Node(folder / "p", *words, "--on-event", f"{command} {here} 0", environment=patch)
        nodes.append(source)
        source.until_joined()
        flag.touch()
        write(source.uri(), (0, b"a" * BLOCK))
        _, volume, message, event = the("diverged", there)
        assert (volume, event["level"]) == ("p", "error") and message == event["message"]
        nodes[0].kill()
        assert the("mirror-lost", here)[3]["level"] == "warning"
        shutil.rmtree(folder / "m")
        nodes.append(Node(folder / "m", *listen))
        _, volume, message, event = the("mirror-refused", here, "is not the copy that mirror m")
        assert (volume, event["level"]) == ("p", "error") and message == event["message"]
    finally:
        for node in nodes:
            node.kill()
